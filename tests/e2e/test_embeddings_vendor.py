"""openai-python asks a vendor's embedding model, its ranker and its judge: shown = receipt = posted."""

import struct
from decimal import Decimal

import openai
import pytest
from tests.e2e.vendor import MODEL
from tests.emulators.openai_server import OpenAIServer
from tests.emulators.reading_scenes import DIMENSIONS, vector
from tests.platform import Platform, wait_for

pytestmark = pytest.mark.usefixtures("server")
EMBED, RANK, JUDGE = "vendor-embed", "vendor-rank", "vendor-judge"
TEXTS = ["one two", "three"]


def floats(text: str) -> list[float]:
    """What is left of a vector in 32 bits."""
    return list(struct.unpack(f"<{DIMENSIONS}f", struct.pack(f"<{DIMENSIONS}f", *vector(text))))


def test_vectors_come_in_the_clients_own_format_and_in_the_plain_one(client) -> None:
    packed = client.embeddings.create(model=EMBED, input=TEXTS)  # base64, unless it is asked for something else
    plain = client.embeddings.create(model=EMBED, input=TEXTS, encoding_format="float")
    assert [one.embedding for one in packed.data] == [floats(text) for text in TEXTS]
    assert [one.embedding for one in plain.data] == [vector(text) for text in TEXTS]
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.model == EMBED


@pytest.mark.parametrize("scene", ["plain", "usage_total", "usage_meta", "usage_never"])
def test_what_is_shown_is_what_is_posted(client, receipt, scene: str) -> None:
    raw = client.embeddings.with_raw_response.create(model=EMBED, input=[f"scene: {scene}", "and three more"])
    usage = raw.parse().usage
    found = receipt(raw.headers["x-request-id"])
    assert found["prompt_tokens"] == usage.prompt_tokens == usage.total_tokens > 0
    assert (found["output_tokens"], found["cached_tokens"], found["end"]) == (0, 0, "complete")
    assert [line["meter"] for line in found["lines"]] == ["input"]
    assert Decimal(found["amount"]) == Decimal("0.7") * usage.prompt_tokens / 10**6
    assert found["amount"] == usage.steelyard["charge"] == raw.headers["x-steelyard-charge"]
    assert usage.steelyard.get("estimated", False) == (scene == "usage_never")


def test_token_ids_are_passed_on_as_they_are(client, server: OpenAIServer) -> None:
    answer = client.embeddings.create(model=EMBED, input=[[5, 6, 7], [8]])
    assert server.bodies[-1]["input"] == [[5, 6, 7], [8]]
    assert answer.usage.prompt_tokens == 4


def test_documents_are_ranked_by_a_vendor_and_paid_by_their_tokens(platform, server, receipt) -> None:
    documents = ["blue whale", "red fox", "a red red fox and more"]
    body, request_id = platform.post(
        "/v1/rerank", {"model": RANK, "query": "a red fox", "documents": documents, "top_n": 2}
    )
    assert [one["index"] for one in body["results"]] == [2, 1]
    assert body["results"][0] == {"index": 2, "relevance_score": 0.3, "document": {"text": documents[2]}}
    assert "top_n" not in server.bodies[-1]
    found = receipt(request_id)
    assert found["prompt_tokens"] == body["usage"]["prompt_tokens"] == 3 * 3 + 2 + 2 + 6
    assert found["amount"] == body["usage"]["steelyard"]["charge"]


def test_contents_are_judged_by_a_vendor_whose_silence_on_counts_is_told(client, receipt) -> None:
    raw = client.moderations.with_raw_response.create(model=JUDGE, input=["a bad word", "a good one"])
    judged = raw.parse()
    assert [one.flagged for one in judged.results] == [True, False]
    assert judged.results[0].category_scores.violence == 0.5
    found = receipt(raw.headers["x-request-id"])
    assert found["prompt_tokens"] == judged.usage["prompt_tokens"] == 3 + 3
    assert judged.usage["steelyard"]["estimated"] is True
    assert found["amount"] == judged.usage["steelyard"]["charge"]


def test_where_nobody_judges_it_is_said_how_somebody_is_offered(client) -> None:
    for fields, error in (({}, openai.NotFoundError), ({"model": MODEL}, openai.BadRequestError)):
        with pytest.raises(error, match="steelyard models offer NAME --for moderation"):
            client.moderations.create(input="Hi", **fields)


def test_each_model_is_asked_for_what_it_does(client) -> None:
    for ask, place in (
        (lambda: client.chat.completions.create(model=EMBED, messages=[{"role": "user", "content": "Hi"}]), "embed"),
        (lambda: client.completions.create(model=EMBED, prompt="Hi"), "embed"),
        (lambda: client.embeddings.create(model=MODEL, input="Hi"), "chat"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.code == "wrong_capability" and f"/v1/{place}" in caught.value.message


def test_refusals_are_charged_nothing(client, platform: Platform) -> None:
    mine = client.with_options(api_key=platform.new_customer("refused-reader", money="1"))
    for fields, status in (
        ({"input": "scene: refused"}, 400),
        ({"input": "scene: busy"}, 429),
        ({"input": "scene: nothing"}, 502),
        ({"input": "a", "dimensions": 3}, 400),
        ({"input": ""}, 400),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            mine.embeddings.create(model=EMBED, **fields)
        assert caught.value.status_code == status
    poor = client.with_options(api_key=platform.new_customer("poor-reader", money=None))
    with pytest.raises(openai.APIStatusError) as caught:
        poor.embeddings.create(model=EMBED, input="a")
    assert caught.value.status_code == 402
    wait_for(lambda: platform.wallet("refused-reader")["held_nano"] == 0, "the holds to be given back")
    assert platform.wallet("refused-reader")["balance_nano"] == 10**9


def test_the_models_say_what_they_can_be_asked_for(client) -> None:
    can = {model.id: model.capabilities for model in client.models.list()}
    assert (can[MODEL], can[EMBED]) == (["text"], ["embedding"])
