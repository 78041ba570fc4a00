"""Reads what a vendor says he has counted and billed: CSV or JSON, whatever its columns are called.

Owns the tables of the columns' names. Amounts are decimal text and never pass through a float; what cannot be read is
refused with its line. Knows no books: reports.reconcile compares.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_HOUR
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import id_from_text
from steelyard.kernel.money import CURRENCIES, INT64_MAX, NANO_PER_UNIT, divide_half_even
from steelyard.kernel.quantities import Usage

FIELDS = (
    "request", "day", "hour", "time", "model", "requests", "prompt", "input", "cached", "cache_write", "output",
    "amount", "currency",
)  # fmt: skip
"""What a column can hold. `prompt` are all prompt tokens, `input` those beside what a cache had to do with."""

_ANY = {
    "request_id": "request", "request": "request", "date": "day", "day": "day", "utc_date": "day", "hour": "hour",
    "time": "time", "timestamp": "time", "created_at": "time", "model": "model", "model_name": "model",
    "requests": "requests", "request_count": "requests", "prompt_tokens": "prompt", "completion_tokens": "output",
    "cached_tokens": "cached", "amount": "amount", "cost": "amount", "currency": "currency",
}  # fmt: skip
COLUMNS: dict[str, dict[str, str]] = {
    "deepseek": {"prompt_cache_miss_tokens": "input", "prompt_cache_hit_tokens": "cached"},
    "dashscope": {"input_tokens": "prompt", "output_tokens": "output"},
    "dashscope_native": {"input_tokens": "prompt", "output_tokens": "output"},
    "openai": {"input_tokens": "prompt", "output_tokens": "output", "input_cached_tokens": "cached"},
    "anthropic": {
        "input_tokens": "input",
        "output_tokens": "output",
        "cache_read_input_tokens": "cached",
        "cache_creation_input_tokens": "cache_write",
    },
}
"""What vendors call their counts, after the usage of their answers, beside the names that all share. `input_tokens` has
the cached ones in it at some and not at others. By the kind of the upstream; `--columns` says what is not here."""

_GROUPED = re.compile(r"-?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")
"""With commas between thousands. Others write decimals behind a comma, and `0,50` is not 50."""
_BEYOND = "beyond the columns"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BillLine(Record, frozen=True, gc=False):
    """One line of the file. Counts that it does not tell are None; `step_nano` is one in the amount's last decimal."""

    place: int
    period: str  # the bill's own day or hour, "2026-11-03" or "2026-11-03 14:00"; empty: it tells no time
    since_ns: int
    until_ns: int
    model: str
    request_id: bytes | None = None
    requests: int | None = None
    usage: Usage | None = None
    amount_nano: int | None = None
    step_nano: int = 1


class Bill(Record, frozen=True):
    """A whole file. `hourly`: its periods are hours, else days, of `zone`."""

    fingerprint: str  # SHA-256 of the file, hexadecimal
    currency: str  # empty: the file tells none
    zone: str
    hourly: bool
    lines: tuple[BillLine, ...]


def columns_for(kinds: set[str], asked: str = "") -> dict[str, str]:
    """Name of a column → what it holds, for upstreams of these kinds; `asked` is "amount=Kosten,day=Datum"."""
    known = dict(_ANY)
    for kind in sorted(kinds):
        known |= COLUMNS.get(kind, {})
    for pair in filter(None, asked.split(",")):
        field, _, name = (part.strip() for part in pair.partition("="))
        if field not in FIELDS or not name:
            raise bad_request(
                f"--columns: {pair!r} is not FIELD=NAME. A field is one of {', '.join(FIELDS)}.", "columns"
            )
        known = {column: what for column, what in known.items() if what != field} | {name.lower(): field}
    return known


def read_bill(data: bytes, columns: Mapping[str, str], zone: tzinfo, zone_name: str) -> Bill:
    """The file's lines. Raises CallerError 400 that says which line is not readable, and why."""
    if len(data) > limits.BILL_BYTES_MAX:
        raise bad_request(f"The file is larger than {limits.BILL_BYTES_MAX} bytes. Split it.", "file")
    lines, currencies, hourly = [], set(), False
    for place, row in _rows(data):
        told = {columns[name]: value for name, value in row.items() if name in columns and value not in {"", None}}
        hourly |= "hour" in told
        try:
            lines.append(_line(place, told, zone))
        except (ValueError, ArithmeticError) as error:
            raise bad_request(f"Line {place}: {error}.", "file") from None
        currencies.add(str(told.get("currency", "")).upper())
        if len(lines) > limits.BILL_LINES_MAX:
            raise bad_request(f"The file has more than {limits.BILL_LINES_MAX} lines. Split it.", "file")
    if not lines:
        raise bad_request("The file has no line.", "file")
    if len(currencies) > 1 or not currencies <= {"", *CURRENCIES}:
        raise bad_request(f"The file's currencies are {', '.join(sorted(currencies))}. One bill has one.", "file")
    return Bill(hashlib.sha256(data).hexdigest(), currencies.pop(), zone_name, hourly, tuple(lines))


def _rows(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and named values, the names in small letters. Numbers come as the text they were written in."""
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip()[:1] == "[":
            yield from enumerate(map(_small, _listed(json.loads(text, parse_float=str, parse_int=str))), 1)
        elif text.lstrip()[:1] == "{":
            for place, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield place, _small(json.loads(line, parse_float=str, parse_int=str))
        else:
            for place, row in enumerate(csv.DictReader(io.StringIO(text), restkey=_BEYOND), 2):
                if any(row.pop(_BEYOND, ())):  # `0,50` without quotes is two values, and the first one is no amount
                    sentence = (
                        f"Line {place} has more values than the file has columns. Put one with a comma in quotes."
                    )
                    raise bad_request(sentence, "file")
                yield place, _small(row)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise CallerError(400, "unreadable_bill", f"This is neither CSV nor JSON: {error}.", param="file") from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _small(row: Any) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in row.items()} if isinstance(row, dict) else {}


def _line(place: int, told: Mapping[str, Any], zone: tzinfo) -> BillLine:
    period, since_ns, until_ns = _period(told, zone)
    amount, step = _amount(told["amount"]) if "amount" in told else (None, 1)
    return BillLine(
        place=place,
        period=period,
        since_ns=since_ns,
        until_ns=until_ns,
        model=str(told.get("model", "")),
        request_id=_request_id(str(told["request"])) if "request" in told else None,
        requests=_count(told["requests"]) if "requests" in told else None,
        usage=_usage(told),
        amount_nano=amount,
        step_nano=step,
    )


def _request_id(text: str) -> bytes | None:
    """Ours; the vendor's own id says nothing to us."""
    try:
        return id_from_text(text)
    except ValueError:
        return None


def _usage(told: Mapping[str, Any]) -> Usage | None:
    if "output" not in told or not told.keys() & {"prompt", "input"}:
        return None
    cached, written = _count(told.get("cached", "0")), _count(told.get("cache_write", "0"))
    fresh = _count(told["input"]) if "input" in told else _count(told["prompt"]) - cached - written
    return Usage(fresh, cached, _count(told["output"]), cache_write=written)


def _count(value: Any) -> int:
    number = _decimal(value)
    if number != number.to_integral_value():
        raise ValueError(f"{value!r} is no whole count")
    return int(number)


def _amount(value: Any) -> tuple[int, int]:
    """In nano-units, rounded half-even where the vendor tells more decimals, and one in its last decimal."""
    number = _decimal(value)
    numerator, denominator = number.as_integer_ratio()
    nano = divide_half_even(numerator * NANO_PER_UNIT, denominator)
    if abs(nano) > INT64_MAX:
        raise ValueError(f"{value!r} is more than the books can keep")
    exponent = number.as_tuple().exponent
    decimals = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    return nano, NANO_PER_UNIT // 10**decimals if decimals < 9 else 1


def _decimal(value: Any) -> Decimal:
    text = str(value).strip(" ¥$€")
    if "," in text and not _GROUPED.fullmatch(text):
        raise ValueError(f"{value!r} has a comma that groups no thousands. Decimals are written behind a point")
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        raise ValueError(f"{value!r} is no number") from None
    if not number.is_finite() or abs(number) > INT64_MAX:
        raise ValueError(f"{value!r} is no number that can be kept")
    return number


def _period(told: Mapping[str, Any], zone: tzinfo) -> tuple[str, int, int]:
    """The day or hour it belongs to, and its bounds in ns since 1970 UTC."""
    for field in ("hour", "day", "time"):
        if field in told:
            at = _moment(str(told[field]), zone)
            return bounds(at, field == "hour")
    return "", 0, 0


def _moment(text: str, zone: tzinfo) -> datetime:
    if text.isdecimal() and len(text) in {10, 13}:  # seconds or milliseconds since 1970
        return datetime.fromtimestamp(int(text[:10]), zone)
    at = datetime.fromisoformat(text.strip())
    return at.replace(tzinfo=zone) if at.tzinfo is None else at.astimezone(zone)


def bounds(at: datetime, hourly: bool) -> tuple[str, int, int]:
    """The local day (or hour) around a moment: its name, begin and end."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    if hourly:
        return hour.strftime("%Y-%m-%d %H:00"), _ns(hour), _ns(hour) + NS_PER_HOUR
    begin = hour.replace(hour=0)
    following = datetime.fromordinal(begin.toordinal() + 1).replace(tzinfo=begin.tzinfo)
    return begin.strftime("%Y-%m-%d"), _ns(begin), _ns(following)


def _ns(at: datetime) -> int:
    return (at.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) * 1000
