"""What time does to purses, within a second: grants expire, allowances give again when their window begins.

Asked in every pass of the posting loop; looks at the database only when a moment has come.
"""

from steelyard.kernel.clock import Clock
from steelyard.kernel.money import INT64_MAX
from steelyard.ledger.teller import Teller
from steelyard.processes.office import Office
from steelyard.processes.posting_loop import Thread


class Timekeeper:
    """One per books process."""

    def __init__(self, teller: Teller, thread: Thread, office: Office, clock: Clock) -> None:
        self._teller = teller
        self._thread = thread
        self._office = office
        self._clock = clock
        self._next_ns = 0

    def wake(self) -> None:
        """Look again: an allowance may have begun or ended."""
        self._next_ns = 0

    async def tick(self) -> None:
        """Let expired grants fund nothing new, post the expiry of what nobody holds, give what allowances owe."""
        now_ns = self._clock.now_ns()
        due = self._teller.expire(now_ns)
        if not due and now_ns < self._next_ns:
            return
        outcome = await self._thread.run(self._office.execute, "time.passed", {"due": due})
        self._teller.correct(outcome.purses)
        self._next_ns = outcome.reply["next_ns"] or INT64_MAX
