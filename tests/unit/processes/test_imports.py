"""What a process does not load, it need not wait for after a crash."""

import subprocess
import sys

import pytest

BESIDES = "alembic", "jinja2"
NOT_NEEDED = {
    "cli.up": ("sqlalchemy", *BESIDES, "starlette", "uvicorn"),
    "processes.worker": ("sqlalchemy", *BESIDES, "pydantic"),
    "processes.books": (*BESIDES, "pydantic", "starlette", "uvicorn", "psycopg", "sqlalchemy.dialects.postgresql"),
    "processes.scripted": ("sqlalchemy", "starlette", "structlog", "pydantic"),
}


@pytest.mark.parametrize("process", NOT_NEEDED)
def test_a_process_loads_only_what_it_starts_with(process: str) -> None:
    code = f"import sys, steelyard.{process}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(NOT_NEEDED[process]) & set(done.stdout.split())
