"""The results of bench-gateway as one wide table for the person, and as rows for the record. Measures nothing."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.lab.goals import lines, reached
from bench.lab.trial import SHAPES, Subject, Trial
from bench.report import RESULTS, Report, plain, write

REFERENCE = "nginx, bare proxy"
DIRECT, OURS = "no gateway", "steelyard"
_UNITS = {"T500": "µs/event"}

Found = Mapping[tuple[str, str], Sequence[Trial]]


def told(
    found: Found, subjects: Sequence[Subject], skipped: Mapping[str, str], versions: Mapping[str, str], *, written: bool
) -> None:
    """Print; write results/gateway.json when the run was whole."""
    print(table(found, subjects), flush=True)
    for label, why in skipped.items():
        print(f"*** SKIPPED {label}: {why}", flush=True)
    report = rows(found, subjects)
    goals = reached({row.label: row.value for row in report.rows})
    print(aligned([["", "measured", "floor", "aim", "met"], *lines(goals)]), flush=True)
    if written:
        record = report.record() | {"peers": dict(versions), "skipped": dict(skipped), "goals": goals}
        RESULTS.mkdir(exist_ok=True)
        write(RESULTS / "gateway.json", record)


def rows(found: Found, subjects: Sequence[Subject]) -> Report:
    """Every figure as a row of the record."""
    labels = [subject.label for subject in subjects]
    report = Report("gateway", "CPU µs per request, of T500 per event; other units in the label")
    for shape in SHAPES:
        for label in labels:
            if found.get((label, shape)) and label != DIRECT:
                _rows(report, found, label, shape)
    for label, added_ms in added(found, labels).items():
        report.add(f"C1, {label}, added ms p50", added_ms)
    for subject in subjects:
        if subject.label != DIRECT and (sizes := _rss(found, subject.label)):
            report.add(f"{subject.label}, RSS MB", max(sizes))
            report.add(f"{subject.label}, start s", subject.started_s)
    return report


def _rows(report: Report, found: Found, label: str, shape: str) -> None:
    trials = found[label, shape]
    reference = f"{shape}, {REFERENCE}"
    known = any(row.label == reference for row in report.rows)
    report.add(f"{shape}, {label}", [one.cpu_us for one in trials], reference if known else "")
    if label == OURS:
        report.add(f"{shape}, the books behind it", [one.beside_us for one in trials])
    report.add(f"{shape}, {label}, per second", [one.per_s for one in trials])
    kind = "gap_" if SHAPES[shape].pace_ms else ""
    for percent in (50, 99):
        took_ms = [one.seen[f"{kind}p{percent}_us"] / 1000 for one in trials]
        report.add(f"{shape}, {label}, {'gap ' if kind else ''}p{percent} ms", took_ms)


def added(found: Found, labels: Sequence[str]) -> dict[str, float]:
    """What each adds to the p50 of one who asks alone, in ms."""
    direct = _median(found, DIRECT, "C1", lambda one: one.seen["p50_us"] / 1000)
    if direct is None:
        return {}
    took = {label: _median(found, label, "C1", lambda one: one.seen["p50_us"] / 1000) for label in labels}
    return {label: ms - direct for label, ms in took.items() if ms is not None and label != DIRECT}


def table(found: Found, subjects: Sequence[Subject]) -> str:
    """A line for each subject: CPU by shape, then what the clock says."""
    labels = [subject.label for subject in subjects]
    more = added(found, labels)
    heads = ["", *(f"{shape} {_UNITS.get(shape, 'µs')}" for shape in SHAPES if shape != "C1")]
    heads += ["J32 × nginx", "J32 /s", "J32 p50 ms", "p99 ms", "T500 gap p99", "added ms", "RSS MB", "start s"]
    body = [heads]
    reference = _median(found, REFERENCE, "J32", lambda one: one.cpu_us)
    for subject in subjects:
        label = subject.label
        if label == DIRECT:
            continue
        cells = [_median(found, label, shape, lambda one: one.cpu_us) for shape in SHAPES if shape != "C1"]
        own = _median(found, label, "J32", lambda one: one.cpu_us)
        cells += [
            own / reference if own and reference else None,
            _median(found, label, "J32", lambda one: one.per_s),
            _median(found, label, "J32", lambda one: one.seen["p50_us"] / 1000),
            _median(found, label, "J32", lambda one: one.seen["p99_us"] / 1000),
            _median(found, label, "T500", lambda one: one.seen["gap_p99_us"] / 1000),
            more.get(label),
            max(_rss(found, label), default=None),
            subject.started_s,
        ]
        body.append([label, *("–" if cell is None else plain(cell) for cell in cells)])
    books = [_median(found, OURS, shape, lambda one: one.beside_us) for shape in SHAPES if shape != "C1"]
    body.append(["the books behind it", *("–" if cell is None else plain(cell) for cell in books)])
    return aligned(body)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns, figures to the right."""
    wide = [max(len(line[place]) for line in lines if len(line) > place) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:>{wide[place]}}" if place else f"{cell:<{wide[0]}}" for place, cell in enumerate(line))
        for line in lines
    )


def _median(found: Found, label: str, shape: str, figure: Callable[[Trial], float]) -> float | None:
    trials = found.get((label, shape))
    return statistics.median(figure(one) for one in trials) if trials else None


def _rss(found: Found, label: str) -> list[float]:
    return [one.rss_mb for (who, _), trials in found.items() if who == label for one in trials]
