"""The commands in the documents are typed as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.platform import Platform

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [line[2:] for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("$ ")]


TYPED = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_every_command_of_the_page_works(platform: Platform, tmp_path: Path, page: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STEELYARD_DATA": str(platform.data),
        "STEELYARD_KEY": platform.api_key,
        "STEELYARD_OPERATOR_KEY": platform.operator_key,
    }
    for command in commands(page):
        typed = command.replace(":8780", f":{platform.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", typed],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"$ {typed}\n{done.stdout}{done.stderr}"
        assert '"error":{' not in done.stdout.replace(" ", ""), done.stdout


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "ARCHITECTURE.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} → {target}"
