"""What operators say about routing: whose requests go by which policy, and what an offer may be asked for."""

from enum import StrEnum

import msgspec

from steelyard.kernel.frozen import Record


class Policy(StrEnum):
    """What the order of offers is made of. Whatever it says, an offer that is out of service is not asked first."""

    BALANCED = "balanced"  # our cost and the latency, half and half, and a little energy
    CHEAPEST = "cheapest"  # what this request is expected to cost us
    FASTEST = "fastest"  # how long it is expected to take
    GREENEST = "greenest"  # the energy it is expected to take
    PINNED = "pinned"  # these upstreams only, in this order


class Guard(StrEnum):
    """What becomes of a request that may cost us more than it earns."""

    OFF = "off"
    FLAG = "flag"  # served; the choice says so, and it is counted
    REROUTE = "reroute"  # served where it earns, if there is such an offer, else all the same
    REFUSE = "refuse"  # served where it earns, or not at all


class RouteScope(StrEnum):
    """Whose a rule is."""

    MODEL = "model"
    KEY = "key"
    UPSTREAM = "upstream"  # asked again, whatever is held against it


class Route(Record, frozen=True):
    """A rule of a model or a key. What it leaves open (None, empty) is decided by the next: key, then model."""

    scope: RouteScope
    subject: str  # the model's name, or the key's id, or the upstream's name
    policy: Policy | None = None
    pinned: tuple[str, ...] = ()  # upstreams, best first
    guard: Guard | None = None
    fallbacks: tuple[str, ...] = ()  # models a key lets answer in the place of the one it asked for, best first
    set_ns: int = 0
    answers_s: int = 0  # of a key: how old an answer may be that is given again; 0: only where he asks for it


class Routes(Record, frozen=True):
    """All rules in force, as workers look them up."""

    models: dict[str, Route] = msgspec.field(default_factory=dict)
    keys: dict[int, Route] = msgspec.field(default_factory=dict)
    upstreams: dict[str, int] = msgspec.field(default_factory=dict)  # upstream → when an operator had it asked again
    aliases: dict[str, str] = msgspec.field(default_factory=dict)  # name → the model that is served under it
