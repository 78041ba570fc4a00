import msgspec

from steelyard.gateway.models import anthropic_list, openai_list
from steelyard.kernel.offers import Capability, Model, Offer

MODELS = [Model(1, name, 86_400 * 10**9 + 5, 100, (Offer(1, name, "u", "h:1", name, 4096, 512),)) for name in "ab"]


def test_each_family_of_clients_gets_its_own_shape() -> None:
    a = {"id": "a", "object": "model", "created": 86_400, "owned_by": "steelyard", "capabilities": (Capability.TEXT,)}
    assert openai_list(MODELS)["data"][0] == a
    listed = anthropic_list(MODELS)
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("a", "b", False)
    assert listed["data"][1] == {
        "type": "model",
        "id": "b",
        "display_name": "b",
        "created_at": listed["data"][0]["created_at"],
        "lifecycle": "active",
        "max_input_tokens": 4096,
        "max_tokens": 512,
    }
    assert listed["data"][0]["created_at"].startswith("1970-01-02T00:00:00")


def test_an_empty_house_lists_nothing() -> None:
    assert anthropic_list([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


def test_who_speaks_anthropic_is_shown_what_answers_messages() -> None:
    offer = msgspec.structs.replace(MODELS[0].offers[0], capabilities=(Capability.EMBEDDING,), max_output_tokens=0)
    reader = Model(9, "reader", 0, 0, (offer,))
    assert "reader" in [one["id"] for one in openai_list([*MODELS, reader])["data"]]
    assert anthropic_list([*MODELS, reader]) == anthropic_list(MODELS)
