"""Which engine is taken on which machine, and why."""

from dataclasses import replace

import pytest

from steelyard.engines.choice import Asked, Machine, choose, machine_here, possible
from steelyard.kernel.errors import StartError

AMX = Machine("linux", "x86_64", 2, frozenset({"avx2", "amx_bf16"}), "2026.4.1")


def test_openvino_where_it_fits() -> None:
    choice = choose(AMX, Asked())
    assert (choice.engine, choice.kind, choice.precision, choice.threads) == ("openvino", "f16", "", 2)
    narrow = choose(replace(AMX, flags=frozenset({"avx2"})), Asked())
    assert (narrow.engine, narrow.kind, narrow.precision) == ("openvino", "q8", "f32")
    small = choose(AMX, Asked(small=True))
    assert (small.kind, small.precision) == ("q8", "f32")
    assert small.cache_tokens < choice.cache_tokens


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"openvino": None}, "not installed"),
        ({"arch": "aarch64"}, "not tried on aarch64"),
        ({"system": "darwin"}, "Linux only"),
        ({"flags": frozenset()}, "no AVX2"),
    ],
)
def test_where_it_cannot_run_llama_cpp_is_taken_and_asking_for_it_is_an_error(changes: dict, why: str) -> None:
    machine = replace(AMX, **changes)
    choice = choose(machine, Asked())
    assert choice.engine == "xllamacpp"
    assert why in choice.why
    with pytest.raises(StartError, match=why):
        choose(machine, Asked("openvino"))
    first, second = possible(machine, Asked())
    assert (first.possible, second.possible) == (False, True)
    assert why in first.why


def test_one_cpu_gets_llama_cpp_by_itself_and_never_bf16() -> None:
    """OpenVINO dies with SIGFPE on one CPU in bf16 (openvinotoolkit/openvino #33300)."""
    one = replace(AMX, cpus=1)
    assert choose(one, Asked()).engine == "xllamacpp"
    asked = choose(one, Asked("openvino"))
    assert (asked.kind, asked.precision, asked.threads) == ("q8", "f32", 1)


def test_what_is_asked_for_is_taken() -> None:
    assert choose(AMX, Asked("xllamacpp")).engine == "xllamacpp"
    assert choose(AMX, Asked(own_model=True)).engine == "xllamacpp"
    with pytest.raises(StartError, match="your own"):
        choose(AMX, Asked("openvino", own_model=True))


def test_drafts_take_a_cache_that_rounds_no_answer_otherwise() -> None:
    narrow = replace(AMX, flags=frozenset({"avx2"}))
    plain, drafts = choose(narrow, Asked()), choose(narrow, Asked(speculate="lookup"))
    assert (plain.cache_precision, drafts.cache_precision) == ("", "f32")
    assert drafts.cache_tokens < plain.cache_tokens
    assert choose(AMX, Asked(speculate="lookup")).cache_precision == "bf16"
    small = choose(narrow, Asked(speculate="lookup", small=True))
    assert small.cache_tokens < drafts.cache_tokens


def test_mtp_is_llama_cpps() -> None:
    assert choose(AMX, Asked(speculate="mtp")).engine == "xllamacpp"
    with pytest.raises(StartError, match="OpenVINO knows no MTP layers, llama"):
        choose(AMX, Asked("openvino", speculate="mtp"))
    told = [one.speculates for one in possible(AMX, Asked())]
    assert told == ["lookup; no mtp", "lookup; mtp where the file has the layers"]


def test_this_machine_can_be_looked_at() -> None:
    here = machine_here()
    assert here.cpus >= 1
    assert choose(here, Asked()).engine in {"openvino", "xllamacpp"}
