"""How records leave for people and programs: amounts as integers with their decimal text beside them, times from text.

Shared by the admin API and the command line, so that both say the same. Knows no report and no rule.
"""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from steelyard.kernel.calendar import zone_of
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S, iso_from_ns
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.money import INT64_MAX, text_from_nano

if TYPE_CHECKING:  # a command that only prints loads no SQLAlchemy
    from steelyard.reports.sums import Group

_AGO = re.compile(r"(\d{1,5})([mhdw])")
_AGO_NS = {"m": 60 * NS_PER_S, "h": NS_PER_HOUR, "d": 24 * NS_PER_HOUR, "w": 7 * 24 * NS_PER_HOUR}
_MOMENTS = frozenset({"created_ns", "revoked_ns", "opened_ns", "closed_ns", "posted_ns", "loaded_ns", "granted_ns"})
_BOUNDS = frozenset({"effective_from_ns", "since_ns", "until_ns", "at_ns", "start_ns", "expires_ns", "window_end_ns"})


def with_texts(value: object) -> Any:
    """Records as plain values; beside `x_nano` stands the decimal text `x`, beside the time `x_ns` the text `x_at`."""
    return _told(msgspec.to_builtins(value))


def _told(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if not isinstance(value, dict):
        return value
    told: dict[str, Any] = {}
    for name, item in value.items():
        told[name] = _told(item)
        beside = _beside(name) if isinstance(item, int) else None
        if beside is not None and beside not in value:
            told[beside] = text_from_nano(item) if name.endswith("_nano") else iso_from_ns(item)
    return told


def _beside(name: str) -> str | None:
    """The name of the text that stands beside the integer called `name`, if one does."""
    if name.endswith("_nano"):
        return name[: -len("_nano")]
    if name in _MOMENTS:
        return name[: -len("_ns")] + "_at"
    if name in _BOUNDS:
        return name[: -len("_ns")]
    return None


def deadline_ns(text: str, now_ns: int, param: str, zone: str = "UTC") -> int:
    """A moment, or how long from now: `24h`, `30d`. Raises CallerError 400 naming `param`."""
    if not _AGO.fullmatch(text):
        return moment_ns(text, now_ns, param, zone)
    return _kept(2 * now_ns - moment_ns(text, now_ns, param), text, param)


def moment_ns(text: str, now_ns: int, param: str, zone: str = "UTC") -> int:
    """A moment: `2026-11-23`, `2026-11-23T10:00:00+08:00` (in `zone` when none is named), or how long ago: `24h`, `7d`.

    Raises CallerError 400 naming `param`.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return _kept(now_ns - int(ago[1]) * _AGO_NS[ago[2]], text, param)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _no_moment(text, param) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone_of(zone))
    try:
        whole_s = int(moment.replace(microsecond=0).timestamp())
    except OverflowError:  # the first or last day there is, somewhere
        raise _too_far(text, param) from None
    return _kept(whole_s * NS_PER_S + moment.microsecond * 1000, text, param)


def period_ns(since: str | None, until: str | None, now_ns: int) -> tuple[int | None, int | None]:
    """From (inclusive) and to (exclusive) as reports take them; None is no bound. Raises CallerError 400."""
    start = None if since is None else moment_ns(since, now_ns, "since")
    end = None if until is None else moment_ns(until, now_ns, "until")
    if start is not None and end is not None and end <= start:
        raise bad_request("'until' must be later than 'since'.", "until")
    return start, end


def flat(group: "Group") -> dict[str, Any]:
    """One row of a report: its name and its sums side by side."""
    return {"name": group.name, "id": group.id, "note": group.note, **msgspec.to_builtins(group.totals)}


def _kept(at_ns: int, text: str, param: str) -> int:
    if abs(at_ns) > INT64_MAX:
        raise _too_far(text, param)
    return at_ns


def _too_far(text: str, param: str) -> CallerError:
    return bad_request(
        f"'{param}' must lie in the years from 1678 to 2261, which the books can keep; got {text!r}.", param
    )


def _no_moment(text: str, param: str) -> CallerError:
    return bad_request(
        f"'{param}' must be a date (2026-11-23), a time (2026-11-23T10:00:00+08:00) or an age (24h, 7d); got {text!r}.",
        param,
    )
