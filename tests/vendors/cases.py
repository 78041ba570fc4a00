"""Each vendor's adapter and its emulator, for the tests that all of them pass. A new vendor is a line more."""

from collections.abc import Callable
from dataclasses import dataclass

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
    sdk: str = "by_openai"  # which of its customers' libraries proves the emulator

    @property
    def emulator(self) -> Callable[[], Emulator]:
        return EMULATORS[self.kind]


CASES = {
    case.kind: case
    for case in (
        Case("deepseek"),
        Case("zhipu", zhipu.KEY, ALL | {"quota"}, sdk="by_zai"),
        Case("moonshot"),
        Case("minimax", faults=ALL - {"model_missing"} | {"quota"}),
    )
}
