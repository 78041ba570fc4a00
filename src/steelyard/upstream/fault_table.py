"""Statuses and codes of a vendor → what was wrong, as data: a code that a vendor adds is a word more.

A line of a table is `STATUS/CODE`, either of them `*`, and a code may end in `.*` for all that begin so. The most
exact line counts: status and code, then the code, then the beginning of the code, then the status. Where a vendor has
one code for everything, phrases of its sentences go before its status. Pure.
"""

from collections.abc import Mapping

from steelyard.kernel.faults import Fault

Lines = Mapping[Fault, str]
"""Fault → its lines, white space between them."""


class FaultTable:
    """The table of one vendor, and below it those it goes on from."""

    def __init__(
        self, lines: Lines, below: "FaultTable | None" = None, phrases: Mapping[str, Fault] | None = None
    ) -> None:
        self._lines: dict[str, Fault] = dict(below._lines) if below else {}
        self._lines |= {line: fault for fault, text in lines.items() for line in text.split()}
        self._phrases: dict[str, Fault] = {**(below._phrases if below else {}), **(phrases or {})}

    def known(self, status: int, *codes: object) -> Fault | None:
        """The fault that one of the codes names, the first that is known; None when none is. `status` 0: there is
        none, as within a stream."""
        for code in codes:
            if code is None or code == "":
                continue
            word = str(code)
            family = f"{word.partition('.')[0]}.*"
            for line in (f"{status}/{word}", f"*/{word}", f"{status}/{family}", f"*/{family}"):
                if (fault := self._lines.get(line)) is not None:
                    return fault
        return None

    def of(self, status: int, *codes: object, message: str = "") -> Fault:
        """The same, or else what the vendor's sentence or the status means."""
        if (known := self.known(status, *codes)) is not None:
            return known
        said = message.lower()
        spoken = (fault for phrase, fault in self._phrases.items() if phrase in said)
        return next(spoken, None) or self._lines.get(f"{status}/*", Fault.SERVER)
