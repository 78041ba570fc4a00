"""Each vendor's adapter and its emulator, for the tests that all of them pass. A new vendor is a line more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard.emulators import chat, zhipu
from steelyard.emulators.server import Emulator
from steelyard.emulators.vendors import EMULATORS

ALL = frozenset({"bad_request", "auth", "no_money", "rate_limited", "content", "model_missing", "server"})


@dataclass(frozen=True)
class Case:
    kind: str
    key: str = chat.KEY
    faults: frozenset[str] = ALL  # those the vendor has a word for
    thinks: bool = True  # unless it is told not to
    sdk: str = "by_openai"  # which of its customers' libraries proves the emulator; empty: see test_faithful_*
    switches: bool = True  # it can be told to think, and not to
    shows: bool = True  # what it thought
    order: Callable[[dict[str, Any]], dict[str, Any]] = dict  # what it was asked → the same in OpenAI's form

    @property
    def emulator(self) -> Callable[[], Emulator]:
        return EMULATORS[self.kind]


def _native(body: dict[str, Any]) -> dict[str, Any]:
    return {**body["parameters"], **body["input"]}


CASES = {
    case.kind: case
    for case in (
        Case("deepseek"),
        Case("zhipu", zhipu.KEY, ALL | {"quota"}, sdk="by_zai"),
        Case("moonshot"),
        Case("minimax", faults=ALL - {"model_missing"} | {"quota"}),
        Case("ark", faults=ALL | {"quota"}, sdk=""),
        Case("dashscope", faults=ALL | {"quota"}, thinks=False, sdk=""),
        Case("dashscope_native", faults=ALL | {"quota"}, thinks=False, order=_native, sdk=""),
        Case("stepfun", thinks=False, switches=False, sdk=""),
        Case("gemini", faults=ALL | {"quota"}, shows=False, sdk=""),
        Case("openai", thinks=False, switches=False, sdk=""),
    )
}
SWITCHED = sorted(kind for kind, case in CASES.items() if case.switches)
