"""The public proof as a user runs it, in both databases: a seeded campaign of kills, and the zeros are zeros.

KILLS sets how many in each; `make prove` and `make crash` run it longer.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

KILLS = int(os.environ.get("KILLS", "6"))
NAMES = [
    "requests",
    "interrupted",
    "exact",
    "short_by_one_read",
    "over_billed",
    "lost",
    "double",
    "wallets_overspent",
    "solvent_refusals",
]


@pytest.fixture
def room() -> Iterator[Path]:
    """A short name, for the sake of sockets; and not in pytest's directory, which PostgreSQL's user may not enter."""
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        yield Path(name)


@pytest.mark.timeout(120 + 5 * KILLS)
@pytest.mark.parametrize("books", [[], ["--postgres"]], ids=["sqlite", "postgresql"])
def test_a_campaign_of_kills_costs_nobody_anything(room: Path, books: list[str]) -> None:
    command = [sys.executable, "-m", "steelyard.cli.main", "prove", "--kills", str(KILLS), "--seed", "20261124", *books]
    command += ["--json"] if "ENGINE" in os.environ else ["--no-engine", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=room, env={**os.environ, "TMPDIR": str(room)}
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert list(found) == NAMES
    print(found)
    assert found["requests"] == found["exact"] + found["short_by_one_read"]
    assert found["requests"] > KILLS
    assert found["interrupted"] > KILLS / 4
    assert not any(found[name] for name in NAMES[4:])
    assert not list(room.glob("steelyard*")), "a proof that held leaves nothing behind"
