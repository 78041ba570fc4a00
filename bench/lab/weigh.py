"""What a tree of processes takes: CPU time and memory, and where it may run.

CPU time is what the kernel charged to all threads of the process and its children, in user and system mode. A core for
what is measured and another for the rest; on a machine with one core both are the same.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cores:
    """Numbers of CPU cores: `subject` is the measured one's alone, `rest` has the others."""

    subject: frozenset[int]
    rest: frozenset[int]

    @classmethod
    def here(cls) -> "Cores":
        own = sorted(os.sched_getaffinity(0))
        return cls(frozenset(own[:1]), frozenset(own[1:] or own))


@contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """Children started here run there, with their threads and children."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """Seconds of CPU the process and its children have taken so far."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of the tree, in 10⁶ bytes; pages that several share count for each."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6
