"""The built-in embedding model as every newcomer has it: real vectors, exact counts, one receipt per request."""

import math
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from operator import mul

import openai
import psutil
import pytest
from tests.platform import Platform, wait_for

MODEL = "all-minilm-l6-v2"
CHAT = "smollm2-135m-instruct"
CAT, KITTEN, BANK = (
    "The cat sat on the mat.",
    "A kitten rested on the rug.",
    "The central bank raised interest rates.",
)
CAT_IDS = [101, 1996, 4937, 2938, 2006, 1996, 13523, 1012, 102]  # of its own vocabulary, with [CLS] and [SEP]
CAT_VECTOR = (0.130237, -0.015773, -0.036717, 0.057986)  # begins so by the published weights, reckoned in numpy


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("embeddings") / "data", embeddings=True).start()
    wait_for(lambda: MODEL in running.get("/readyz")["models"], "the embedding model", 90)
    yield running
    assert running.stop() == 0, running.text


@pytest.fixture(scope="module")
def client(house: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key=house.api_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def receipt(house: Platform) -> Callable[[str], dict]:
    return house.posted_receipt


def vectors(client: openai.OpenAI, *texts: object, **fields: object) -> list[list[float]]:
    answer = client.embeddings.create(model=MODEL, input=list(texts), **fields)  # type: ignore[arg-type]
    assert [one.index for one in answer.data] == list(range(len(texts)))
    return [one.embedding for one in answer.data]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(map(mul, one, other))


def test_it_starts_after_the_others_and_says_so(house: Platform) -> None:
    wait_for(lambda: f"serves {MODEL}" in house.text, "the line about it")
    assert house.text.index("Running. Ctrl-C stops it.") < house.text.index("Embeddings:")
    assert len(house.children("engine")) == 2
    rows = {row["name"]: row for row in house.run("models", "list")}
    assert (rows[MODEL]["for"], rows[MODEL]["price"], rows[MODEL]["upstream"]) == (
        "embedding, rerank",
        "yes",
        "local-embedding",
    )


def test_vectors_are_the_models_own_of_length_one_and_near_when_the_texts_are(client) -> None:
    cat, kitten, bank = vectors(client, CAT, KITTEN, BANK)
    assert len(cat) == 384
    assert cat[:4] == pytest.approx(CAT_VECTOR, abs=5e-4)
    assert all(math.isclose(cosine(one, one), 1, abs_tol=1e-5) for one in (cat, kitten, bank))
    assert cosine(cat, kitten) > 0.5
    assert cosine(cat, bank) < 0.2


def test_the_same_text_has_the_same_vector_alone_and_among_others(client) -> None:
    [alone], [again] = vectors(client, CAT), vectors(client, CAT)
    assert alone == again == vectors(client, BANK, CAT, KITTEN)[1]


def test_both_formats_hold_the_same_numbers(client) -> None:
    [packed] = vectors(client, CAT)  # openai-python asks for base64 by itself
    [plain] = vectors(client, CAT, encoding_format="float")
    assert packed == list(struct.unpack("<384f", struct.pack("<384f", *plain)))


@pytest.mark.parametrize(
    ("given", "tokens"),
    [(CAT, 9), ([CAT, "Hi"], 9 + 3), (CAT_IDS, 9), ([CAT_IDS, [101, 7632, 102]], 9 + 3)],
)
def test_the_tokenizers_count_is_shown_posted_and_charged(client, receipt, given: list | str, tokens: int) -> None:
    raw = client.embeddings.with_raw_response.create(model=MODEL, input=given)
    usage = raw.parse().usage
    found = receipt(raw.headers["x-request-id"])
    assert usage.prompt_tokens == usage.total_tokens == found["prompt_tokens"] == tokens
    assert (found["output_tokens"], found["cached_tokens"], found["end"]) == (0, 0, "complete")
    assert Decimal(found["amount"]) == Decimal("0.05") * tokens / 10**6
    assert found["amount"] == usage.steelyard["charge"] == raw.headers["x-steelyard-charge"]


def test_token_ids_of_its_own_vocabulary_are_its_text(client) -> None:
    [text], [ids] = vectors(client, CAT), vectors(client, CAT_IDS)
    assert cosine(text, ids) > 0.9999
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.embeddings.create(model=MODEL, input=[[101, 40_000, 102]])


def test_nothing_is_cut(client) -> None:
    assert client.embeddings.create(model=MODEL, input="word " * 510).usage.prompt_tokens == 512
    for given, where in (("word " * 511, "'input'"), (["a", "word " * 511], "'input\\[1\\]'"), ([5] * 513, "'input'")):
        with pytest.raises(openai.BadRequestError, match=f"{where} has 513 tokens.*512"):
            client.embeddings.create(model=MODEL, input=given)
    with pytest.raises(openai.BadRequestError, match="384") as caught:
        client.embeddings.create(model=MODEL, input="a", dimensions=128)
    assert caught.value.param == "dimensions"
    assert len(vectors(client, "a", dimensions=384)[0]) == 384


def test_documents_are_ranked_by_the_cosine_and_query_and_documents_are_charged(client, house, receipt) -> None:
    query, documents = "Where did the cat sit?", [BANK, KITTEN, CAT]
    asked_for = {"model": MODEL, "query": query, "documents": documents, "top_n": 2}
    body, request_id = house.post("/v1/rerank", asked_for)
    assert [one["document"]["text"] for one in body["results"]] == [CAT, KITTEN]
    asked, cat = vectors(client, query, CAT)
    assert body["results"][0]["relevance_score"] == pytest.approx(cosine(asked, cat), abs=1e-6)
    found = receipt(request_id)
    assert found["prompt_tokens"] == body["usage"]["prompt_tokens"] == 8 + 3 * 9
    assert found["amount"] == body["usage"]["steelyard"]["charge"]


def test_it_writes_nothing_and_the_chat_model_makes_no_vectors(client) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        client.embeddings.create(model=CHAT, input="Hi")


def test_what_it_cost_is_known_and_the_books_agree(client, house: Platform, receipt) -> None:
    texts = [f"A longer text that keeps the engine busy for a while, number {number}." for number in range(60)]
    raw = client.embeddings.with_raw_response.create(model=MODEL, input=texts)
    receipt(raw.headers["x-request-id"])
    [row] = [row for row in house.run("margin") if row["name"] == MODEL]
    assert row["cost_nano"] > 0
    assert house.run("verify")["ok"] is True


def test_it_comes_back_at_another_address_when_it_dies(client, house: Platform) -> None:
    [pid] = [pid for pid in house.children("engine") if "--embedding" in psutil.Process(pid).cmdline()]
    psutil.Process(pid).kill()

    def served() -> bool:
        try:
            return len(vectors(client, "Hi")[0]) == 384
        except openai.APIStatusError:
            return False

    wait_for(lambda: pid not in house.children("engine") and served(), "the embedding model to be back", 60)
