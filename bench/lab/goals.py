"""The figures that the path is to reach, and how far it is: a floor and an aim for each.

µs belong to the machine that the goals were set on (nginx took 11 µs for J32, 31 for S32 and 12 for T500 there), so
what can be told as a multiple of nginx in the same run is told so as well. LiteLLM's goals were set against it with its
spend database, which took 1.5 times the CPU of the one without that is measured here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.report import plain

_NGINX, _VLLM, _LITELLM = "nginx, bare proxy", "vllm-router (Rust)", "LiteLLM proxy, no database"
_OURS = "steelyard"
_DATABASE = 1.53  # CPU of LiteLLM with its database as a multiple of that without


@dataclass(frozen=True, slots=True)
class Goal:
    """Less is better. `of` reads a figure of the results by label, or raises KeyError."""

    what: str
    floor: float
    aim: float
    of: Callable[[Mapping[str, float]], float]

    def told(self, found: Mapping[str, float]) -> dict[str, object] | None:
        """None when it was not measured."""
        try:
            value = self.of(found)
        except KeyError:
            return None
        met = "aim" if value <= self.aim else "floor" if value <= self.floor else "no"
        return {"what": self.what, "value": float(f"{value:.4g}"), "floor": self.floor, "aim": self.aim, "met": met}


def _ours(shape: str) -> Callable[[Mapping[str, float]], float]:
    return lambda found: found[f"{shape}, {_OURS}"]


def _against(shape: str, other: str) -> Callable[[Mapping[str, float]], float]:
    return lambda found: found[f"{shape}, {_OURS}"] / found[f"{shape}, {other}"]


GOALS = (
    Goal("J32, everything on, µs", 50, 30, _ours("J32")),
    Goal("J32 × nginx", 4.5, 2.8, _against("J32", _NGINX)),
    Goal("S32, µs", 90, 45, _ours("S32")),
    Goal("S32 × nginx", 2.9, 1.45, _against("S32", _NGINX)),
    Goal("T500, µs per event", 25, 18, _ours("T500")),
    Goal("T500 × nginx", 2.1, 1.5, _against("T500", _NGINX)),
    Goal("100 KB prompt, µs", 250, 140, _ours("P100K")),
    Goal("J32 × vllm-router", 0.95, 0.6, _against("J32", _VLLM)),
    Goal("J32 × LiteLLM", _DATABASE / 400, _DATABASE / 700, _against("J32", _LITELLM)),
    Goal("added at one connection, p50 ms", 0.4, 0.2, lambda found: found[f"C1, {_OURS}, added ms p50"]),
    Goal("RSS MB", 110, 80, lambda found: found[f"{_OURS}, RSS MB"]),
)


def reached(found: Mapping[str, float]) -> list[dict[str, object]]:
    """Every goal whose figures are there."""
    return [told for goal in GOALS if (told := goal.told(found)) is not None]


def lines(goals: list[dict[str, object]]) -> list[list[str]]:
    """As cells: what, measured, floor, aim, met."""
    return [
        [str(one["what"]), *(_plain(one[name]) for name in ("value", "floor", "aim")), str(one["met"])] for one in goals
    ]


def _plain(value: object) -> str:
    figure = float(str(value))
    return plain(figure) if figure >= 0.05 else f"1/{1 / figure:,.0f}" if figure > 0 else plain(figure)
