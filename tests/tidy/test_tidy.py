"""The house style as tests: sizes, names, broad excepts, floats near money, torn stores."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "steelyard"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
HAND_WRITTEN = [path for path in FILES if "migrations" not in path.parts]

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6
FLOW_LINES_MAX = 150

# path (or path:function) → reason
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {}
# Broad excepts: the HTTP border, the job loop, the CLI main.
BROAD_EXCEPTS: dict[str, str] = {
    "gateway/exchange.py": "the HTTP border",
    "jobs/runner.py": "the job loop",
    "kernel/run.py": "a driver of coroutines keeps what they raise for whoever asks, as a task does",
}
MONEY_ROOMS = ("rating", "ledger", "reports")
FLOATS_THAT_ARE_SECONDS: dict[str, str] = {
    "ledger/teller_client.py": "time-outs of the socket; holds themselves are integers",
}
POOR_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|manager|base|misc|v\d)$")


def place(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=place)
def test_file_is_small_opens_with_its_purpose_and_is_well_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= FILE_LINES_MAX or place(path) in LONG_FILES, f"{lines} lines"
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "a module opens by saying what it owns"
    assert docstring.count("\n") < 12, "two to five lines are enough; the rest belongs to docs/explain"
    assert not POOR_NAMES.search(path.stem), path.stem


def test_a_bound_has_one_value() -> None:
    """A name of kernel/limits.py that is given twice would silently mean its second value everywhere."""
    found = re.findall(r"^([A-Z_0-9]+)\b[^=]*=", (SOURCE / "kernel" / "limits.py").read_text(encoding="utf-8"), re.M)
    assert sorted(set(found)) == sorted(found)


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=place)
def test_functions_are_small(path: Path) -> None:
    for node in functions(path):
        name = f"{place(path)}:{node.name}"
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length <= FUNCTION_LINES_MAX or name in LONG_FUNCTIONS, f"{name} has {length} lines"
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([a for a in arguments if a not in {"self", "cls"}])
        decorated = any("click" in ast.unparse(d) or "option" in ast.unparse(d) for d in node.decorator_list)
        assert decorated or count <= PARAMETERS_MAX or name in MANY_PARAMETERS, f"{name} takes {count}"


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=place)
def test_broad_excepts_stand_only_at_the_borders(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            allowed = place(path) in BROAD_EXCEPTS or raises
            assert not broad or allowed, f"{place(path)}:{node.lineno}"


@pytest.mark.parametrize("room", MONEY_ROOMS)
def test_no_float_comes_near_money(room: str) -> None:
    for path in sorted((SOURCE / room).rglob("*.py")):
        if place(path) in FLOATS_THAT_ARE_SECONDS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{place(path)}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), where
            assert not (isinstance(node, ast.Name) and node.id == "float"), where
            assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)), where


def test_slots_are_only_written_by_aligned_stores() -> None:
    """`struct.pack_into` was measured to tear under kill -9."""
    for path in (SOURCE / "metering").rglob("*.py"):
        assert "pack_into(" not in path.read_text(encoding="utf-8"), place(path)


def test_the_conductor_stays_a_table_of_contents() -> None:
    text = (SOURCE / "flow.py").read_text(encoding="utf-8")
    assert text.count("\n") <= FLOW_LINES_MAX


def test_architecture_names_the_stages_in_the_order_of_the_flow() -> None:
    from steelyard.flow import STAGES

    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. \*\*(\w+)\*\*", page, flags=re.MULTILINE)
    assert tuple(listed) == STAGES


def test_every_direct_dependency_earns_a_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "explain" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[; ]", requirement)[0]
        assert re.search(rf"^\| {re.escape(name)} \|", page, flags=re.MULTILINE), name


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 120


def test_nothing_long_is_excused_without_need() -> None:
    """An exception that is no longer used is deleted."""
    for name in LONG_FILES:
        assert (SOURCE / name).read_text(encoding="utf-8").count("\n") > FILE_LINES_MAX, name
    for name in BROAD_EXCEPTS:
        assert (SOURCE / name).exists(), name
