"""How many CPUs this process may really use: the cpuset, and the quota of its control group (version 1 or 2).

A container limited by quota sees every core of the machine; as many threads as cores would then wait for each other.
Pure but for the files it is given a root for.
"""

import math
import os
from pathlib import Path

_UNLIMITED = "max"


def cpus_allowed(root: Path = Path("/"), affinity: int | None = None) -> int:
    """CPUs for threads, at least 1. `root`: where /proc and /sys are; `affinity`: cores of the cpuset, if known."""
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(share) for share in _shares(root))]))


def _shares(root: Path) -> list[float]:
    """CPUs by quota of every group this process is in, up to the top; empty when nothing bounds it."""
    found: list[float] = []
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            places = _upward(root / "sys/fs/cgroup", path)
            found += [share for place in places if (share := _share_2(place)) is not None]
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / name for name in dict.fromkeys((controllers, "cpu,cpuacct", "cpu"))]
            places = [place for mount in mounts for place in _upward(mount, path)]
            found += [share for place in places if (share := _share_1(place)) is not None]
    return found


def _upward(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it. Inside a container its own path may not be mounted: then the top is it."""
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    return [mount.joinpath(*parts[:end]) for end in range(len(parts), -1, -1)]


def _share_2(folder: Path) -> float | None:
    """`cpu.max` of version 2: quota or "max", and the period, both in µs."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if len(words) != 2 or words[0] == _UNLIMITED:
        return None
    return _ratio(words[0], words[1])


def _share_1(folder: Path) -> float | None:
    """`cpu.cfs_quota_us` of version 1, -1 for none, by `cpu.cfs_period_us`."""
    quota, period = (_lines(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return _ratio(quota[0], period[0]) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
