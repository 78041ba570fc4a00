"""What a close record says was used: the delivered tokens, and what they took of the engine.

Pure. The same for a request that its worker closed and for one that recovery closes after it.
"""

from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import WHOLE, End, Opened
from steelyard.metering.energy import energy_uj


def settled_usage(
    opened: Opened, delivered: Usage, end: End, cpu_ns: int, watts_milli: int, measured_uj: int | None = None
) -> Usage:
    """What a close record carries: the delivered tokens, and what they cost us.

    An answer that was cut before its first output token is worth nothing to the customer, so its prompt is not
    counted either; our own CPU time and energy were spent all the same. What has no output tokens leaves in one piece.
    Energy that was not measured is modelled.
    """
    energy = measured_uj if measured_uj is not None else energy_uj(cpu_ns, watts_milli) if cpu_ns else 0
    if end not in WHOLE and opened.max_tokens and delivered.generated == 0:
        return Usage(cpu_ns=cpu_ns, energy_uj=energy)
    if not (cpu_ns or energy or delivered.cpu_ns or delivered.energy_uj):
        return delivered  # there is nothing to be added, and nothing to be left out
    fresh, cached, output = delivered.input, delivered.cached_input, delivered.output
    written, reasoning = delivered.cache_write, delivered.reasoning
    reused = delivered.reused_input, delivered.reused_output
    return Usage(fresh, cached, output, cpu_ns, energy, written, reasoning, *reused)


def beyond(settled: Usage, heard: Usage | None) -> Usage | None:
    """The tokens that were heard, where they are more than what is settled."""
    if heard is None or heard.total <= settled.total:
        return None
    return Usage(
        heard.input, heard.cached_input, heard.output, cache_write=heard.cache_write, reasoning=heard.reasoning
    )
