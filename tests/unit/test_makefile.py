"""`make install` where something goes wrong. Nothing is fetched: Python and pip are stand-ins."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p {venv}/bin && cp "$0" {venv}/bin/python ;;
  *"pip"*" install "*) echo "{said}"; exit {code} ;;
esac
"""


class Place:
    def __init__(self, root: Path) -> None:
        self.root, self.venv = root, root / "venv"

    def make(self, *words: str, said: str = "Collecting rich", code: int = 0) -> subprocess.CompletedProcess[str]:
        python = self.program(self.root / "python3", PYTHON.format(venv=self.venv, said=said, code=code))
        command = ["make", "-C", str(ROOT), "install", f"VENV={self.venv}", f"PYTHON={python}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    @property
    def installed(self) -> bool:
        return (self.venv / ".installed").exists()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_is_installed_is_not_installed_again(place: Place) -> None:
    assert place.make().returncode == 0 and place.installed
    assert place.make(code=1).returncode == 0


def test_a_failed_installation_is_told_and_not_taken_for_a_done_one(place: Place) -> None:
    """As by the make of macOS, which knows no .SHELLFLAGS."""
    done = place.make(".SHELLFLAGS=-c", said="ERROR: no network", code=1)
    assert done.returncode != 0 and "ERROR: no network" in done.stdout
    assert not place.installed


def test_an_environment_that_was_left_half_made_is_made_anew(place: Place) -> None:
    """Debian's python3 makes one without pip, and says what to install first."""
    place.program(place.venv / "bin" / "python", "#!/bin/sh\necho No module named pip\nexit 1\n")
    assert place.make().returncode == 0 and place.installed
