"""A short campaign of the simulator, with every fault in the list; the long one is `make simulate`.

Each runs as a user runs it, in a process of its own, so that order and chance come from the seed alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def simulate(folder: Path, seeds: str, steps: int, *options: str, hashes: str = "random") -> tuple[int, Any, str]:
    """The exit code, the figures, and what was printed."""
    figures = folder / "figures.json"
    command = [sys.executable, "-m", "tests.simulator", "--seeds", seeds, "--steps", str(steps), *options]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, "--json", str(figures)], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert figures.exists(), done.stderr
    return done.returncode, json.loads(figures.read_text(encoding="utf-8")), done.stdout


def test_the_books_hold_in_every_world(tmp_path: Path) -> None:
    code, found, said = simulate(tmp_path, "0..20", 2000)
    assert code == 0, said
    assert found["seeds"] == 20
    assert found["steps"] > 20 * 2000
    assert found["posted"] > 200
    assert found["kills"] > 20
    assert len(found["injected"]) > 30


def test_a_seed_is_the_same_run_every_time(tmp_path: Path) -> None:
    digests = [simulate(tmp_path, "100..102", 1200, hashes=hashes)[1]["digest"] for hashes in ("1", "2")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("mutant", "seeds"),
    [
        ("commit-before-send", "0..16"),
        ("release-on-settle-twice", "0..16"),
        ("published-ahead-of-the-sync", "0..16"),
        ("leases-of-the-dead-kept", "24..48"),
        ("wallet-drawn-before-grants", "0..16"),
        ("heard-is-forgotten", "0..16"),
    ],
)
def test_a_mistake_in_the_program_is_found(tmp_path: Path, mutant: str, seeds: str) -> None:
    code, found, said = simulate(tmp_path, seeds, 2000, "--mutant", mutant)
    assert code == 1, f"{found['steps']} steps did not find {mutant}"
    assert "fails after" in said
