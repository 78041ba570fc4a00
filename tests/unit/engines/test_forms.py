"""What a schema may cost before anybody compiles it."""

import json

import pytest

from steelyard.engines.asked import Refused
from steelyard.engines.forms import reason, refuse_costly
from steelyard.kernel import limits


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": limits.ENGINE_FORM_REPEATS_MAX}}},
        {"type": "string", "pattern": "^[a-z]{1,64}$"},
        {"properties": {"maxLength": {"type": "integer"}}},
    ],
)
def test_what_is_cheap_passes(schema: object) -> None:
    refuse_costly(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"items": [{"maxLength": limits.ENGINE_FORM_REPEATS_MAX + 1}]}, "'maxLength'"),
        ({"type": "string", "pattern": "(a{1,500}){1,500}"}, "repetition by 250000 in 'pattern'"),
        ({"enum": ["x" * limits.ENGINE_FORM_BYTES_MAX]}, "longer than"),
    ],
)
def test_what_would_hold_up_everybody_is_refused(schema: object, why: str) -> None:
    with pytest.raises(Refused, match=why):
        refuse_costly(json.dumps(schema))


def test_a_reason_names_no_place_in_openvinos_source() -> None:
    said = (
        'Exception:\n[18:00:00] /home/x/xgrammar-src/cpp/json_schema_converter.cc:898: Unsupported type "nonsense"\n\n'
    )
    assert reason(RuntimeError(said)) == 'Unsupported type "nonsense"'
    assert reason(RuntimeError("")) == "no reason given"
