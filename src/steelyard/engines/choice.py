"""Which of our engines can run on this machine, which one is taken, and why.

Owns the rule and its reasons in words. Pure but for `machine_here`, which looks. Figures: bench/results/engine.json.
"""

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steelyard.engines.leash import LOOKUP, MTP, OFF
from steelyard.engines.widened import Kind
from steelyard.kernel.cpus import cpus_allowed
from steelyard.kernel.errors import StartError

AUTO, OPENVINO, XLLAMACPP, NONE = "auto", "openvino", "xllamacpp", "none"
_X86 = frozenset({"x86_64", "amd64"})
_BF16 = frozenset({"amx_bf16", "avx512_bf16"})
_CACHE_TOKENS, _CACHE_TOKENS_SMALL = 32_768, 8_192  # 13.7 KB each of the built-in model
_EXACT_CACHE_TOKENS, _EXACT_CACHE_TOKENS_SMALL = 16_384, 4_096  # 46 KB each in 32 bits
_SLOTS, _SLOTS_SMALL = 64, 16
_BATCH_TOKENS, _BATCH_TOKENS_SLOW = 256, 128  # of one step: a third of a second either way on two cores


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choice looks at. `openvino`: the version that is installed, None for none."""

    system: str
    arch: str
    cpus: int
    flags: frozenset[str]
    openvino: str | None

    @property
    def has_bf16(self) -> bool:
        return not _BF16.isdisjoint(self.flags)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants. `own_model`: a file of his own is to be served; `speculate`: how tokens are drafted."""

    engine: str = AUTO
    own_model: bool = False
    small: bool = False
    speculate: str = OFF


@dataclass(frozen=True, slots=True)
class Possible:
    """An engine, whether it can serve what is asked here, what speaks for or against it, and how it can speculate."""

    name: str
    possible: bool
    why: str
    speculates: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that is taken. The rest is for OpenVINO: the weights' kind and the precision it computes in."""

    engine: str
    why: str
    kind: Kind = "q8"
    precision: str = ""
    threads: int = 1
    slots: int = _SLOTS
    cache_tokens: int = _CACHE_TOKENS
    cache_precision: str = ""
    batch_tokens: int = _BATCH_TOKENS


def machine_here() -> Machine:
    """This machine, as far as this process may use it."""
    try:
        version: str | None = importlib.metadata.version("openvino-genai")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return Machine(sys.platform, platform.machine().lower(), cpus_allowed(), _flags(Path("/proc/cpuinfo")), version)


def possible(machine: Machine, asked: Asked) -> tuple[Possible, ...]:
    """Every engine of ours with its reason, the faster one first."""
    against = _against_openvino(machine, asked)
    for_it = f"version {machine.openvino}; {_precision_words(machine)}"
    return (
        Possible(OPENVINO, against is None, against or for_it, f"{LOOKUP}; no {MTP}"),
        Possible(
            XLLAMACPP,
            True,
            "runs everywhere, reads any GGUF file, takes the least memory",
            f"{LOOKUP}; {MTP} where the file has the layers",
        ),
    )


def choose(machine: Machine, asked: Asked) -> Choice:
    """The engine to start. Raises StartError when the one asked for cannot run here."""
    against = _against_openvino(machine, asked)
    if asked.engine == OPENVINO and against is not None:
        raise StartError(f"The engine 'openvino' cannot be used: {against}. Leave out --engine to take another.")
    if asked.engine == XLLAMACPP:
        return Choice(XLLAMACPP, "as asked")
    if asked.engine == AUTO:
        against = against or _against_by_itself(machine)
    if against is not None:
        return Choice(XLLAMACPP, against)
    why = "as asked" if asked.engine == OPENVINO else f"{machine.cpus} CPUs of {machine.arch}"
    return _openvino(machine, asked, f"{why}; {_precision_words(machine)}")


def _openvino(machine: Machine, asked: Asked, why: str) -> Choice:
    """With the 8 bits a cache has otherwise, rounding depends on how many tokens a step computes: 2 of 8 greedy answers
    of 96 tokens came out otherwise with drafts, log probabilities 0.05 apart. With 32 bits: none, and 0.0001."""
    wide = machine.has_bf16 and machine.cpus > 1 and not asked.small
    caches = (_CACHE_TOKENS_SMALL, _CACHE_TOKENS), (_EXACT_CACHE_TOKENS_SMALL, _EXACT_CACHE_TOKENS)
    drafts = asked.speculate != OFF
    return Choice(
        engine=OPENVINO,
        why=why,
        kind="f16" if wide else "q8",
        precision="" if wide else "f32",
        threads=machine.cpus,
        slots=_SLOTS_SMALL if asked.small else _SLOTS,
        cache_tokens=caches[drafts][not asked.small],
        cache_precision=("bf16" if wide else "f32") if drafts else "",
        batch_tokens=_BATCH_TOKENS if machine.has_bf16 else _BATCH_TOKENS_SLOW,
    )


def _against_openvino(machine: Machine, asked: Asked) -> str | None:
    """Why OpenVINO cannot serve this here; None when it can."""
    checks: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: machine.openvino is None, "the package openvino-genai is not installed"),
        (lambda: not machine.system.startswith("linux"), "it was tried on Linux only"),
        (lambda: machine.arch not in _X86, f"it was not tried on {machine.arch}"),
        (lambda: "avx2" not in machine.flags, "this CPU has no AVX2"),
        (lambda: asked.own_model, "GGUF files of your own are served by llama.cpp"),
        (lambda: asked.speculate == MTP, "OpenVINO knows no MTP layers, llama.cpp does"),
    )
    return next((why for fails, why in checks if fails()), None)


def _against_by_itself(machine: Machine) -> str | None:
    """Why OpenVINO is not taken unless it is asked for."""
    if machine.cpus < 2:
        return "one CPU only: OpenVINO dies there in 16 bits and gains nothing in 8"
    return None


def _precision_words(machine: Machine) -> str:
    if machine.has_bf16 and machine.cpus > 1:
        return "16-bit weights, computed in bf16"
    return "8-bit weights, computed in 32 bits: no bf16 on this CPU"


def _flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(found.split())
