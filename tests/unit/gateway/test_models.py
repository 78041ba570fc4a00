from steelyard.gateway.models import anthropic_list, openai_list
from steelyard.kernel.records import Model, Offer

MODELS = [Model(1, name, 86_400 * 10**9 + 5, 100, (Offer(1, name, "u", "h:1", name, 4096, 512),)) for name in "ab"]


def test_each_family_of_clients_gets_its_own_shape() -> None:
    assert openai_list(MODELS)["data"][0] == {"id": "a", "object": "model", "created": 86_400, "owned_by": "steelyard"}
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
