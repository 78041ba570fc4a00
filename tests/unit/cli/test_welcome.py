"""What a newcomer sees: keys once, a curl that works, a bill that is the posted request's; steps in both looks."""

import errno
import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.fakes.ledger import Requests, books

from steelyard.cli.desk import Desk
from steelyard.cli.progress import Steps
from steelyard.cli.show import Show, energy_text, money, percent_text, words
from steelyard.cli.up import Platform, Wishes
from steelyard.cli.welcome import Answered, Keys, curl, first_keys, posted, show_bill
from steelyard.config import Settings
from steelyard.kernel.clock import NS_PER_S, ManualClock, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.ledger.posting import post
from steelyard.processes.office import Office
from steelyard.storage.database import open_database


@pytest.fixture
def office(tmp_path: Any) -> Any:
    engine: Engine = books(tmp_path / "steelyard.db", tenants=())
    yield Office(engine, SystemClock())
    engine.dispose()


def test_the_first_start_makes_everything_once(office: Office) -> None:
    keys = first_keys(office.command)
    assert keys.demo is not None and keys.demo.startswith("sk-sy-")
    assert keys.operator is not None and keys.operator.startswith("sk-sy-op-")
    assert office.command("wallet.show", {"tenant": "demo"})["balance"] == "100.00"
    again = first_keys(office.command)
    assert (again.demo, again.operator) == (None, None)
    assert office.command("wallet.show", {"tenant": "demo"})["balance"] == "100.00"


def test_books_that_go_away_after_the_question_do_not_end_the_platform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is one of the moment; that it cannot be taken back is told."""
    platform = Platform(Settings(data=tmp_path), DataDir(tmp_path), 0, Wishes(open_browser=False, demo_vendors=False))

    def command(op: str, payload: dict[str, Any]) -> Any:
        if op == "key.revoke":
            raise BooksError("The books do not answer.")
        return {"id": 7, "key": "sk-sy-of-the-moment"}

    monkeypatch.setattr(platform, "_command", command)
    asked: list[str] = []
    platform._ask("127.0.0.1", Keys(None, None), lambda desk, address, key: asked.append(key))
    assert asked == ["sk-sy-of-the-moment"]
    assert "The books do not answer." in capsys.readouterr().out


@pytest.mark.parametrize("done", range(4))
def test_a_start_that_was_killed_half_way_is_finished_by_the_next(office: Office, done: int) -> None:
    class Killed(Exception):
        pass

    writes = 0

    def command(op: str, payload: dict[str, Any]) -> Any:
        nonlocal writes
        if not op.endswith("list"):
            if writes == done:
                raise Killed
            writes += 1
        return office.command(op, payload)

    with pytest.raises(Killed):
        first_keys(command)
    keys = first_keys(office.command)
    assert keys.operator is not None
    assert (keys.demo is not None) == (done < 3)
    assert office.command("wallet.show", {"tenant": "demo"})["balance"] == "100.00"


def test_an_installation_with_tenants_of_its_own_gets_no_demo(office: Office) -> None:
    office.command("tenant.add", {"name": "acme"})
    keys = first_keys(office.command)
    assert keys.demo is None
    assert [tenant["name"] for tenant in office.command("tenant.list", {})] == ["acme"]


def test_the_curl_is_one_shell_command() -> None:
    parts = shlex.split(curl("http://127.0.0.1:8780", "sk-sy-abc", "small").replace("\\\n", ""))
    assert parts[:2] == ["curl", "http://127.0.0.1:8780/v1/chat/completions"]
    assert "Authorization: Bearer sk-sy-abc" in parts
    assert "models" in curl("http://127.0.0.1:8780", "$STEELYARD_KEY", None)


def test_the_bill_is_the_posted_request(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = posted(Desk(terminal.data, SystemClock()), terminal.request_id)
    show_bill(Answered("Paris.", terminal.request_id), found)
    text = capsys.readouterr().out
    amounts = {" ".join(line.split()[:-1]): line.split()[-1] for line in text.splitlines() if "¥" in line}
    assert amounts["charge"] == "¥0.000097"
    assert any(name.startswith("cached prompt tokens 20") for name in amounts)
    assert any("(modelled) 50.000 J" in name for name in amounts)
    assert "Paris." in text and terminal.request_id in text


def test_a_bucket_nobody_used_still_shows_its_price(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rated = Requests(ManualClock(1_800_000_000 * NS_PER_S)).rated(usage=Usage(10, 0, 5))
    engine = open_database(terminal.data.database)
    with engine.begin() as connection:
        post(connection, [rated], {}, SystemClock())
    engine.dispose()
    found = posted(Desk(terminal.data, SystemClock()), text_from_id(rated.settlement.opened.request_id))
    show_bill(Answered("Paris.", "req"), found)
    assert "cached prompt tokens" in capsys.readouterr().out


def test_a_request_that_is_not_posted_is_told(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.cli.welcome._PATIENCE_S", 0.1)
    with pytest.raises(BooksError, match="not posted yet"):
        posted(Desk(terminal.data, SystemClock()), "req_" + "0" * 32)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_are_plain_lines_in_a_pipe() -> None:
    clock, stream = ManualClock(), io.StringIO()
    with Steps(clock, stream) as steps, steps.step("Weights", "looking") as step:
        for done in range(0, 101, 10):
            step.progress(done * 10**6, 100 * 10**6)
        clock.advance(2 * NS_PER_S)
        step.done("/models/m.gguf")
    assert stream.getvalue().splitlines() == [
        "Weights: looking …",
        "Weights: 30 of 100 MB",
        "Weights: 50 of 100 MB",
        "Weights: 80 of 100 MB",
        "Weights: 100 of 100 MB",
        "Weights: /models/m.gguf (2.0 s)",
    ]


def test_steps_have_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    with Steps(SystemClock(), stream) as steps, steps.step("Weights", "looking") as step:
        step.progress(50, 100)
        steps.print("a line between [not markup]")
    text = stream.getvalue()
    assert "✓" in text and "Weights: ready" in text and "[not markup]" in text


def test_a_step_that_fails_does_not_claim_success() -> None:
    stream = io.StringIO()
    with pytest.raises(BooksError), Steps(ManualClock(), stream) as steps, steps.step("Books"):
        raise BooksError("damaged")
    assert stream.getvalue() == "Books: starting …\n"


def test_tables_align_and_dash_what_is_missing() -> None:
    stream = io.StringIO()
    columns = (words("Name", "name"), money("Charge", "charge_nano"))
    rows = [
        {"name": "a", "charge_nano": 1, "currency": "CNY"},
        {"name": None, "charge_nano": -2_500_000_000, "currency": "USD"},
    ]
    Show(False, stream).rows(rows, columns, "nothing")
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "Name        Charge",
        "a     ¥0.000000001",
        "–           -$2.50",
    ]


def test_small_texts() -> None:
    assert energy_text(1_500) == "0.002 J"
    assert energy_text(3_600_000_000_000) == "1.000 kWh"
    assert (percent_text(1, 4), percent_text(1, 0)) == ("25.0 %", "–")


def test_a_line_that_cannot_be_written_ends_nothing() -> None:
    """On a full disk a worker that had ended was not started again, even when there was room."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    Steps(ManualClock(), Full()).print("worker-0 ended (exit code 1); starting it again in 0.1 s.")


def test_nobody_who_listens_any_more_ends_nothing() -> None:
    """`steelyard up | head`"""
    code = (
        "import sys; from steelyard.cli.progress import Steps; from steelyard.kernel.clock import SystemClock\n"
        "steps = Steps(SystemClock())\n"
        "for _ in range(3): steps.print('x' * 100_000)\n"
        "print('still here', file=sys.stderr)"
    )
    told = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert told.stdout is not None and told.stderr is not None
    told.stdout.close()
    assert (told.stderr.read(), told.wait()) == ("still here\n", 0)
    told.stderr.close()
