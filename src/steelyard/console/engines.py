"""The page of engines: what each is, why it was taken, where it is on its way, what it tells and what the books say.

Owns the forms that drain and restart an added engine. What an engine does not tell is a dash; every joule has a label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from steelyard.console import figures
from steelyard.console.charts import Column, column_chart
from steelyard.console.forms import read_form
from steelyard.console.i18n import Words
from steelyard.console.overview import Panel, axis, fragment
from steelyard.console.visits import ROOT, Visit
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.engines import ADDED, Energy, EngineKnown, EngineLoad, EngineState, Wanted, state_at
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import source_of
from steelyard.reports.engines import Minute, last_hour

DRAIN, RESTART = "drain", "restart"
COMMAND = "steelyard engine add vllm --model Qwen/Qwen3-8B --as qwen3-8b"
_NAMES = {"openvino": "OpenVINO", "xllamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang"}
_GOOD, _BAD = frozenset({EngineState.RUNNING}), frozenset({EngineState.FAILED, EngineState.SILENT})


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a list: a name, what is told, and how that is to be taken."""

    name: str
    value: str
    note: str
    tag: str
    quoted: bool


def show(visit: Visit) -> Response:
    """After a form, a link says what was asked of which engine."""
    view = _view(visit)
    done, name = visit.query("done"), visit.query("engine")
    notice = ""
    if done in {DRAIN, RESTART} and name in {one["name"] for one in view["engines"]}:
        notice = visit.words(f"engines.done_{done}", name=name)
    return visit.page("engines.html", view=view, notice=notice)


def live(visit: Visit) -> Response:
    return fragment(visit, "engines_live.html", _view(visit))


async def drain(visit: Visit) -> Response:
    return await _asked(visit, DRAIN)


async def restart(visit: Visit) -> Response:
    return await _asked(visit, RESTART)


async def _asked(visit: Visit, what: str) -> Response:
    fields = await read_form(visit.request)
    visit.check_token(fields.get("token", ""))
    house, name = visit.desk.house, visit.request.path_params["name"]
    known = {one.spec.name for one in await run_in_threadpool(house.engines) if one.spec.kind in ADDED}
    if name not in known:
        raise CallerError(404, "unknown_engine", f"There is no engine {name!r} that could be asked.")
    reason = " ".join(fields.get("reason", "").split())[: limits.ENGINE_REASON_CHARACTERS_MAX]
    await run_in_threadpool(house.drain_engine if what == DRAIN else house.restart_engine, name, reason)
    return visit.to(f"{ROOT}/engines?{urlencode({'done': what, 'engine': name})}")


def _view(visit: Visit) -> dict[str, list[dict[str, object]]]:
    house = visit.desk.house
    now_ns, known = house.clock.now_ns(), house.engines()
    with house.books() as connection:
        hours = last_hour(connection, now_ns, [one.spec.name for one in known])
    token = visit.desk.sessions.form_token(visit.session)
    engines = [_engine(visit.words, one, hours[one.spec.name], now_ns) | {"token": token} for one in known]
    return {"engines": engines, "command": [{"text": COMMAND}]}


def _engine(words: Words, one: EngineKnown, hour: Sequence[Minute], now_ns: int) -> dict[str, object]:
    spec, seen = one.spec, one.seen
    state = state_at(spec, seen, now_ns)
    return {
        "name": spec.name,
        "title": words.either(f"engines.{spec.name.replace('-', '_')}", spec.name),
        "kind": _NAMES.get(spec.kind, spec.kind),
        "model": spec.model,
        "state": "good" if state in _GOOD else "bad" if state in _BAD else "plain",
        "state_text": words(f"engines.state_{state}"),
        "facts": _own_facts(words, one, state, now_ns),
        "told": _told_facts(words, one),
        "panel": _panel(words, spec.name, hour),
        "books": _book_facts(words, hour),
        "can": spec.kind in ADDED,
        "drains": spec.wanted is Wanted.RUN,
    }


def _fact(name: str, value: str, *, note: str = "", tag: str = "", quoted: bool = False) -> Fact:
    """`quoted`: these are the words of the platform or of a server, in English whatever the page speaks."""
    return Fact(name, value, note, tag, quoted)


def _own_facts(words: Words, one: EngineKnown, state: EngineState, now_ns: int) -> list[Fact]:
    """What was decided about it, and how it went."""
    spec, seen, start = one.spec, one.seen, one.start
    there = words("engines.there", weights=spec.weights) if spec.weights and spec.weights != spec.model else ""
    if spec.kind in ADDED:
        why = _fact(words("engines.why"), words("engines.adopted" if spec.adopted else "engines.added"))
    else:
        why = _fact(words("engines.why"), start.why if start and start.why else figures.NONE, quoted=True)
    heard = figures.NONE
    if seen is not None and seen.seen_ns:
        heard = words("engines.ago", time=_whole_seconds(now_ns - seen.seen_ns))
    facts = [
        _fact(words("engines.model"), spec.model, note=there),
        why,
        _fact(words("engines.since"), figures.moment(start.last_ns) if start else figures.NONE),
        _fact(words("engines.restarts"), figures.count(start.starts - 1) if start else figures.NONE),
        _fact(words("engines.heard"), heard),
    ]
    if reason := _reason(one, state):
        facts.append(_fact(words("engines.reason"), reason, quoted=True))
    address = (seen.address if seen is not None else "") or spec.address or (start.address if start is not None else "")
    if address:
        facts.append(_fact(words("engines.address"), address, quoted=True))
    return facts


def _reason(one: EngineKnown, state: EngineState) -> str:
    """Why it is where it is: as it was seen, or, on its way there, as it was asked for."""
    told = one.seen.reason if one.seen is not None else ""
    match state:
        case EngineState.RUNNING:
            return told
        case EngineState.DRAINING:
            return one.spec.reason
        case _:
            return told or one.spec.reason


def _told_facts(words: Words, one: EngineKnown) -> list[Fact]:
    """What the engine itself tells, summed up since it started."""
    seen, load = one.seen, one.seen.load if one.seen is not None else None
    told = load or EngineLoad()
    busy = figures.NONE
    if seen is not None and seen.up_ns:
        share = figures.percent(seen.busy_ns, seen.up_ns)
        busy = words(
            "engines.busy_of",
            busy=figures.duration(seen.busy_ns) if seen.busy_ns else "0 s",
            up=figures.duration(seen.up_ns),
            percent=share,
        )
    return [
        _fact(words("engines.running"), figures.count(told.running) if load else figures.NONE),
        _fact(words("engines.waiting"), _waiting(words, load)),
        _fact(
            words("engines.kv"), figures.NONE if told.kv_permille is None else figures.percent(told.kv_permille, 1000)
        ),
        _fact(words("engines.prefill"), _count(told.prefill_tokens)),
        _fact(words("engines.decode"), _count(told.decode_tokens)),
        _fact(words("engines.hits"), _part(words, told.cache_hit_tokens, told.cache_asked_tokens)),
        _fact(
            words("engines.drafts"), _part(words, told.accepted_tokens, told.drafted_tokens), note=_drafting(words, one)
        ),
        _fact(words("engines.busy"), busy),
        _energy(words, one),
    ]


def _waiting(words: Words, load: EngineLoad | None) -> str:
    """In the engine itself; by lanes where it keeps such."""
    if load is None or load.waiting_batch is None:
        return figures.count(load.waiting) if load else figures.NONE
    batch = load.waiting_batch
    lanes = {"interactive": figures.count(load.waiting - batch), "batch": figures.count(batch)}
    return words("engines.lanes", waiting=figures.count(load.waiting), **lanes)


def _drafting(words: Words, one: EngineKnown) -> str:
    if one.spec.kind in ADDED:
        return words("engines.never_billed")
    how = one.start.speculate if one.start is not None else ""
    return words("engines.drafting", how=how) if how and how != "off" else words("engines.drafting_off")


def _energy(words: Words, one: EngineKnown) -> Fact:
    """What its instrument measured; without one the joules are those of the books, and modelled."""
    seen = one.seen
    if seen is None or seen.energy is Energy.MODELLED:
        return _fact(words("engines.energy"), figures.NONE, note=words("engines.unmeasured"))
    told = words("engines.energy_of", busy=figures.energy(seen.busy_uj), idle=figures.energy(seen.idle_uj))
    return _fact(words("engines.energy"), told, tag=words("energy.measured"), note=words(f"engines.by_{seen.energy}"))


def _book_facts(words: Words, hour: Sequence[Minute]) -> list[Fact]:
    sums = {name: sum(getattr(one, name) for one in hour) for name in Minute.__struct_fields__[1:]}
    energy_uj, label = sums["energy_uj"], figures.label_of(source_of(sums["energy_uj"], sums["measured_uj"]))
    return [
        _fact(words("table.requests"), figures.count(sums["requests"])),
        _fact(words("engines.prefill"), figures.count(sums["prefill"])),
        _fact(words("engines.cached"), figures.count(sums["cached"])),
        _fact(words("engines.decode"), figures.count(sums["decode"])),
        _fact(words("engines.busy"), figures.duration(sums["busy_ns"])),
        _fact(
            words("engines.energy"),
            figures.energy(energy_uj) if energy_uj else figures.NONE,
            tag=words(label) if label else "",
        ),
    ]


def _panel(words: Words, name: str, hour: Sequence[Minute]) -> Panel:
    """Tokens computed in each minute, those of answers among them."""
    title = words("engines.chart")
    columns = []
    for minute in hour:
        when = f"{datetime.fromtimestamp(minute.start_ns // NS_PER_S, UTC):%H:%M}"
        read, written = figures.count(minute.prefill), figures.count(minute.decode)
        said = words("engines.say", when=when, read=read, written=written)
        columns.append(Column(when, said, minute.prefill + minute.decode, minute.decode))
    read, written = (figures.count(sum(getattr(one, part) for one in hour)) for part in ("prefill", "decode"))
    highest = figures.count(max((column.bar for column in columns), default=0))
    told = words("engines.chart_desc", title=title, columns=len(columns), top=highest, read=read, written=written)
    chart = column_chart(f"engine-{name}", title, told, columns)
    return Panel(
        key=f"engine-{name}",
        kind="tokens",
        title=title,
        sum=words("engines.chart_sum", read=read, written=written),
        svg=chart.svg,
        top=figures.compact(chart.top),
        middle=figures.compact(chart.top // 2) if chart.top % 2 == 0 else "",
        bottom="0",
        labels=axis(columns),
        heads=[words("chart.when_hour"), words("engines.prefill"), words("engines.cached"), words("engines.decode")],
        rows=[
            [column.label, *(figures.count(value) for value in (minute.prefill, minute.cached, minute.decode))]
            for column, minute in reversed(list(zip(columns, hour, strict=True)))
            if minute.requests
        ],
    )


def _whole_seconds(ns: int) -> str:
    return f"{max(0, ns) // NS_PER_S} s" if ns < 60 * NS_PER_S else figures.duration(ns)


def _count(value: int | None) -> str:
    return figures.NONE if value is None else figures.count(value)


def _part(words: Words, part: int | None, whole: int | None) -> str:
    """Nothing was looked for, or it is not told: a dash."""
    if part is None or not whole:
        return figures.NONE
    return words(
        "engines.part", part=figures.count(part), whole=figures.count(whole), percent=figures.percent(part, whole)
    )
