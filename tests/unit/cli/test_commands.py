"""Every command against real books while the platform is down: what it says, what it changes, how it refuses."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from steelyard import __version__
from steelyard.cli import main
from steelyard.cli.directory import directory_lock
from steelyard.cli.main import run, steelyard
from steelyard.cli.reference import reference
from steelyard.console import engines, playground
from steelyard.kernel.clock import SystemClock

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "cli.md"
WRITTEN = re.compile(r"^(?:    |\$ ).*?\b(steelyard [a-z].*)$", re.MULTILINE)  # in a block of commands
CHARGE_NANO = 97_000  # 100 × 0.5 + 20 × 0.1 + 30 × 1.5 millionths


def parts(command: click.Group) -> dict[str, click.Command]:
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: part for name, part in found.items() if part is not None}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        return [leaf for name, part in parts(command).items() for leaf in leaves(part, (*path, name))]
    return [path]


def test_the_reference_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m steelyard.cli.reference > docs/reference/cli.md"
    )


NO_DATA = {("up",), ("prices", "demo"), ("receipt", "check"), ("prove",)}  # they need no books, or say so themselves


@pytest.mark.parametrize("path", [leaf for leaf in leaves(steelyard) if leaf not in NO_DATA], ids=" ".join)
def test_every_command_takes_data_and_json(path: tuple[str, ...]) -> None:
    command: Any = steelyard
    for name in path:
        command = parts(command)[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--data", "--json"} <= options
    assert command.help


@pytest.mark.parametrize("name", list(parts(steelyard)))
def test_every_group_shows_examples_that_parse(name: str) -> None:
    epilog = parts(steelyard)[name].epilog or ""
    examples = [line.strip() for line in epilog.splitlines() if line.strip().startswith("steelyard")]
    assert examples
    for line in examples:
        assert line.split()[1] == name


def every_example(command: click.Command) -> list[str]:
    below = list(parts(command).values()) if isinstance(command, click.Group) else []
    own = [line.strip() for line in (command.epilog or "").splitlines()]
    return [line for line in own if "steelyard " in line] + [line for one in below for line in every_example(one)]


def every_written_one() -> list[str]:
    """Those of the documents, and those that pages of the console show."""
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if page != PAGE)]
    shown = [*playground.COMMANDS.splitlines(), engines.COMMAND]
    return [line for page in pages for line in WRITTEN.findall(page.read_text(encoding="utf-8"))] + shown


@pytest.mark.parametrize("line", sorted({*every_example(steelyard), *every_written_one()}))
def test_every_example_is_what_its_command_takes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as the shell and click do it; nothing is run, and the files it names are there."""
    monkeypatch.chdir(tmp_path)
    typed = shlex.split(re.split(r" [|>&]+ ", line[line.index("steelyard ") :])[0], comments=True)
    for word in typed:
        if "." in word and "/" not in word.removeprefix("./"):
            (tmp_path / word).touch()
    command: click.Command | None = steelyard
    words, context = typed[1:], click.Context(steelyard)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(context, words)
    assert command is not None
    command.make_context(command.name, words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_tenants_come_and_are_listed(terminal: Any) -> None:
    made = terminal("tenant", "add", "gamma", "--currency", "USD", "--json").json
    assert made["name"] == "gamma"
    listed = {row["name"]: row for row in terminal("tenant", "list", "--json").json}
    assert listed["gamma"]["currency"] == "USD"
    assert listed["acme"]["balance_nano"] == 5 * 10**9 - CHARGE_NANO
    assert listed["acme"]["balance"] == "4.999903"
    assert "gamma" in terminal("tenant", "list").out


def test_a_table_reads_well_when_it_is_pasted(terminal: Any) -> None:
    """No blanks at the ends of lines, times to the second, and a dash where no energy was used."""
    told = [terminal(*words).out for words in (("tenant", "list"), ("key", "list"), ("ledger", "accounts"))]
    assert all(line == line.rstrip() for text in told for line in text.splitlines())
    assert re.search(r"acme .* \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", told[0], re.MULTILINE)
    assert re.search(r"^workers .* 1 +default", terminal("config", "show").out, re.MULTILINE)
    assert re.search(r"^small +false +default", terminal("config", "show").out, re.MULTILINE)


def test_keys_are_shown_once_and_revoked(terminal: Any) -> None:
    made = terminal("key", "add", "acme", "--name", "second", "--json").json
    assert made["key"].startswith("sk-sy-")
    listing = terminal("key", "list", "--tenant", "acme")
    assert made["key"] not in listing.out
    assert made["shown"] in listing.out
    assert terminal("key", "revoke", str(made["id"])).code == 0
    assert {row["name"]: row["revoked_at"] is not None for row in terminal("key", "list", "--json").json} == {
        "backend": False,
        "second": True,
    }
    operator = terminal("operator", "add", "alice")
    assert "sk-sy-op-" in operator.out
    assert "(operator)" in terminal("key", "list").out


def test_a_grant_that_lasts_so_long_from_now_is_given_once(terminal: Any) -> None:
    for _ in range(2):
        given = terminal("wallet", "grant", "beta", "2", "--expires", "30d", "--idempotency-key", "g", "--json").json
        assert given["granted_nano"] == 2_000_000_000


def test_a_topup_is_booked_and_a_repeated_one_is_not(terminal: Any) -> None:
    for _ in range(2):
        booked = terminal("wallet", "topup", "beta", "12.50", "--note", "n", "--idempotency-key", "x", "--json").json
        assert booked["balance_nano"] == 17_500_000_000
    shown = terminal("wallet", "show", "beta", "--json").json
    assert (shown["balance"], shown["held_nano"]) == ("17.50", 0)
    assert "¥17.50" in terminal("wallet", "show", "beta").out


def test_a_model_of_another_server_is_offered_listed_and_withdrawn(terminal: Any) -> None:
    where = ("--upstream", "my-vllm", "--address", "10.0.0.7:8000", "--context", "32768", "--as", "Qwen/Qwen3-8B")
    assert terminal("models", "offer", "qwen3-8b", *where).code == 0
    (row,) = [row for row in terminal("models", "list", "--json").json if row["name"] == "qwen3-8b"]
    assert (row["kind"], row["address"], row["upstream_model"]) == ("openai", "10.0.0.7:8000", "Qwen/Qwen3-8B")
    assert (row["context_tokens"], row["max_output_tokens"], row["price"]) == (32768, 32768, "missing")
    vendor = ("--upstream", "ark", "--address", "https://ark.example/api/v3", "--context", "9", "--kind", "anthropic")
    assert "(https://ark.example/api/v3, anthropic)" in terminal("models", "offer", "qwen3-8b", *vendor).out
    assert terminal("models", "withdraw", "ark", "--json").json == {"offers": 1}
    assert terminal("models", "withdraw", "my-vllm", "--json").json == {"offers": 1}
    assert "qwen3-8b" not in terminal("models", "list").out


@pytest.mark.parametrize(
    "command",
    [
        ("vendor", "remove", "nosuch"),
        ("vendor", "show", "nosuch"),
        ("models", "withdraw", "nosuch"),
        ("prices", "show", "nosuch"),
        ("route", "show", "nosuch"),
        ("route", "clear", "--model", "nosuch"),
        ("engine", "show", "nosuch"),
        ("engine", "remove", "nosuch"),
        ("wallet", "show", "nosuch"),
        ("receipt", "show", "nosuch"),
        ("batches", "show", "nosuch"),
        ("key", "revoke", "99"),
    ],
)
def test_what_is_not_there_is_neither_shown_nor_removed(terminal: Any, command: tuple[str, ...]) -> None:
    for form in ((), ("--json",)):
        said = terminal(*command, *form)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said


@pytest.mark.parametrize("address", ["nowhere", "ftp://10.0.0.7:8000", "host:port", ":80"])
def test_an_address_without_host_and_port_is_refused(terminal: Any, address: str) -> None:
    said = terminal("models", "offer", "m", "--upstream", "u", "--address", address, "--context", "9")
    assert said.code == 2 and "'address'" in said.err


def test_an_engine_takes_no_other_upstreams_name(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key would replace the other's, and its start would withdraw what is offered there."""
    monkeypatch.setenv("THEIR_KEY", "sk-theirs-0123456789")
    assert terminal("vendor", "key", "rack", "--from-env", "THEIR_KEY").code == 0
    offered = ("--upstream", "vllm", "--address", "10.0.0.7:8000", "--context", "4096")
    assert terminal("models", "offer", "q8", *offered).code == 0
    for name in ("vllm", "rack"):
        refused = terminal("engine", "add", "vllm", "--model", "Qwen/Qwen3-8B", "--name", name)
        assert refused.code == 2 and f"vendor remove {name}" in refused.err
    assert terminal("engine", "add", "vllm", "--model", "Qwen/Qwen3-8B", "--name", "two").code == 0
    assert [row["name"] for row in terminal("engine", "list", "--json").json] == ["two"]


def test_limits_are_set_listed_and_lifted(terminal: Any) -> None:
    budget = terminal("limit", "set", "--tenant", "acme", "--budget", "20.00", "--zone", "Asia/Shanghai", "--json").json
    assert (budget[0]["amount"], budget[0]["spent_nano"]) == ("20.00", 0)  # the demo's request is of another month
    assert budget[0]["begins_anew"].endswith("T16:00:00.000Z")
    set_ = terminal("limit", "set", "--key", "1", "--rpm", "60", "--concurrency", "4", "--reason", "trial")
    assert "60 requests a minute" in set_.out
    listed = terminal("limit", "list", "--tenant", "acme")
    assert "¥20.00 a month" in listed.out
    assert "key 1 backend" in listed.out
    lifted = terminal("limit", "lift", "--key", "1", "--kind", "rpm")
    assert lifted.out == "Lifted 1 limit of the key backend.\n", lifted.err
    assert terminal("limit", "lift", "--key", "1", "--json").json["lifted"] == 1
    assert len(terminal("limit", "list", "--json").json) == 1
    wrong = terminal("limit", "set", "--tenant", "acme")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


def test_who_has_no_name_on_this_machine_is_his_number(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many a container."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    [limit] = terminal("limit", "set", "--tenant", "acme", "--rpm", "60", "--json").json
    assert limit["actor"] == f"uid {os.getuid()}"


def test_prices_are_checked_loaded_and_listed(terminal: Any, tmp_path: Path) -> None:
    from steelyard.catalog.demo import demo_price_text

    file = tmp_path / "prices.toml"
    file.write_text(demo_price_text())
    assert "in order" in terminal("prices", "lint", str(file)).out
    assert len(terminal("prices", "load", str(file), "--json").json["inserted"]) == 3
    assert terminal("prices", "load", str(file), "--json").json == {"inserted": [], "unchanged": 3}
    listing = terminal("prices", "list").out
    assert "input 0.50, cached input 0.05, output 1.50 CNY per 1M tokens" in listing
    assert "batch: input 0.25, cached input 0.025, output 0.75 CNY per 1M tokens" in listing
    file.write_text("[[price]]\nmodel = 3\n")
    refused = terminal("prices", "lint", str(file))
    assert (refused.code, refused.out) == (2, "")
    assert "[[price]] 1, field" in refused.err


def test_usage_margin_and_statement_agree(terminal: Any) -> None:
    (usage,) = terminal("usage", "--by", "tenant", "--json").json
    (margin,) = terminal("margin", "--json").json
    statement = terminal("statement", "acme", "--json").json
    assert usage["charge_nano"] == margin["charge_nano"] == statement["charges_nano"] == CHARGE_NANO
    assert margin["margin_nano"] == margin["charge_nano"] - margin["cost_nano"]
    assert usage["charge"] == "0.000097"
    assert statement["closing"] == "4.999903"
    assert "¥0.000097" in terminal("usage").out
    assert "backend" in terminal("usage", "--by", "key").out
    assert "50.000 J modelled" in terminal("margin", "--by", "day").out
    assert terminal("usage", "--tenant", "beta").out == "Nothing was served in this period.\n"
    rows = [line.split() for line in terminal("statement", "acme").out.splitlines()]
    assert [rows[1][-1], rows[-1][-1]] == ["¥0.00", "¥4.999903"]


def test_the_ledger_is_shown_and_balances(terminal: Any) -> None:
    accounts = {row["name"]: row for row in terminal("ledger", "accounts", "--json").json}
    assert accounts["wallet:acme"]["balance_nano"] == 5 * 10**9 - CHARGE_NANO
    assert "Debits and credits in CNY: balanced" in terminal("ledger", "accounts").out
    entries = terminal("ledger", "entries", "--account", "wallet:acme", "--json").json
    assert {row["fact"] for row in entries} == {"topup", "charge"}
    assert "Older ones: --before" in terminal("ledger", "entries", "--limit", "1").out
    assert terminal("ledger", "entries", "--account", "wallet:nobody").code == 2


def test_a_receipt_is_shown(terminal: Any) -> None:
    receipt = terminal("receipt", "show", terminal.request_id, "--json").json
    assert (receipt["state"], receipt["amount_nano"]) == ("posted", CHARGE_NANO)
    shown = terminal("receipt", "show", terminal.request_id).out
    assert "cached input" in shown
    assert "counted by us" not in shown
    assert terminal("receipt", "show", "nonsense").code == 2


def test_verify_tells_by_its_exit_code(terminal: Any) -> None:
    assert terminal("verify", "--json").json["ok"] is True
    sound = terminal("verify")
    assert (sound.code, sound.out.splitlines()[-1]) == (0, "The books are sound.")
    import sqlite3

    connection = sqlite3.connect(terminal.data.database)
    connection.execute("update usage set charge_nano = charge_nano + 1")
    connection.commit()
    connection.close()
    broken = terminal("verify")
    assert broken.code == 1
    assert "FAILED" in broken.out
    assert terminal("verify", "--json").code == 1


def test_config_names_the_origin_of_each_value(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_PORT", "9123")
    Path("steelyard.toml").write_text("workers = 3\n")
    rows = {row["setting"]: (row["value"], row["origin"]) for row in terminal("config", "show", "--json").json}
    assert rows["port"] == (9123, "environment")
    assert rows["workers"] == (3, "steelyard.toml")
    assert rows["host"] == ("127.0.0.1", "default")
    assert rows["data"][1] == "option"
    assert "environment" in terminal("config", "show").out


def test_a_database_url_is_shown_without_its_password(terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATABASE", "postgresql://books:correct-horse@db.example:5432/ledger?sslmode=require")
    rows = {row["setting"]: (row["value"], row["origin"]) for row in terminal("config", "show", "--json").json}
    assert rows["database"] == ("postgresql://books@db.example:5432/ledger", "environment")
    monkeypatch.setenv("STEELYARD_DATABASE", "mysql://books:correct-horse@db.example/ledger")
    refused = terminal("config", "show")
    assert refused.code == 1
    assert "postgresql://" in refused.err
    assert "correct-horse" not in refused.err


def test_a_password_does_not_belong_on_a_command_line(terminal) -> None:
    refused = terminal("up", "--database", "postgresql://books:correct-horse@db.example/ledger")
    assert refused.code == 1
    assert "STEELYARD_DATABASE" in refused.err
    assert "correct-horse" not in refused.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("tenant", "add", "acme"), 2),
        (("key", "add", "nobody", "--name", "k"), 2),
        (("wallet", "topup", "acme", "free"), 2),
        (("wallet", "show", "nobody"), 2),
        (("prices", "load", "no-such-file.toml"), 1),
        (("usage", "--since", "yesterday"), 2),
        (("statement", "nobody"), 2),
        (("usage", "--until", "9999-12-31"), 2),
        (("ledger", "entries", "--batch", str(10**20)), 2),
        (("ledger", "entries", "--before", str(10**20)), 2),
        (("engine", "add", "vllm", "--model", "/"), 2),
        (("engine", "add", "vllm", "--model", "q8", "--command", 'docker run "vllm'), 2),
    ],
)
def test_a_refusal_is_one_line_on_stderr(terminal: Any, arguments: tuple[str, ...], code: int) -> None:
    said = terminal(*arguments)
    assert (said.code, said.out) == (code, "")
    assert len(said.err.splitlines()) == 1


def test_without_books_the_way_to_them_is_told(empty: Any) -> None:
    for arguments in (("tenant", "list"), ("usage",), ("tenant", "add", "x")):
        said = empty(*arguments)
        assert (said.code, said.out) == (1, "")
        assert "steelyard up --data" in said.err
    assert not empty.data.root.exists()


def test_a_held_directory_refuses_writers_but_not_readers(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.kernel.limits.TELLER_REPLY_S", 0)
    with directory_lock(terminal.data, SystemClock()):
        refused = terminal("tenant", "add", "gamma")
        assert refused.code == 1
        assert f"running instance (process {os.getpid()})" in refused.err
        assert "Stop it" not in refused.err, "it may be replaying what a crash left"
        assert terminal("usage").code == 0


def test_a_bug_is_one_line_too(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("steelyard.cli.desk.Desk.command", broken)
    said = terminal("tenant", "list")
    assert said.code == 1
    assert "Steelyard failed (KeyError" in said.err


def test_a_broken_pipe_is_quiet(terminal: Any) -> None:
    command = [sys.executable, "-m", main.__name__, "ledger", "accounts", "--data", str(terminal.data.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1


def test_nothing_is_cut_in_a_pipe(terminal: Any) -> None:
    long_name = "n" * 64
    terminal("tenant", "add", long_name)
    assert long_name in terminal("tenant", "list").out
    assert all(
        meaning in terminal("ledger", "accounts").out for meaning in ("at most his credit limit.", "to clear against")
    )


def test_batches_are_listed_shown_and_cancelled(terminal: Any) -> None:
    from steelyard.jobs.records import Job, job_text
    from steelyard.jobs.store import values_of
    from steelyard.storage import tables
    from steelyard.storage.database import open_database

    assert "No customer" in terminal("batches", "list").out
    ids = [bytes([n]) * 16 for n in range(4)]
    job = Job(ids[0], 1, 1, 1, "/v1/chat/completions", *ids[1:], created_ns=10**18, deadline_ns=2 * 10**18, kept_s=60)
    engine = open_database(terminal.data.database)
    with engine.begin() as connection:
        connection.execute(tables.jobs.insert().values(values_of(job)))
    engine.dispose()
    name = job_text(job.id)
    (row,) = terminal("batches", "list", "--json").json
    assert (row["batch"], row["tenant"], row["status"]) == (name, "acme", "validating")
    assert "acme" in terminal("batches", "show", name).out
    assert terminal("batches", "cancel", name, "--json").json == {"id": name, "status": "cancelling"}
    assert terminal("batches", "show", name, "--json").json["status"] == "cancelling"
    assert terminal("batches", "show", "batch_1").code == 2
