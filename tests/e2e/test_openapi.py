"""Schemathesis reads our own OpenAPI documents and asks what they allow: no answer is a 5xx or unlike the document,
and nothing that was refused is charged."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies
from tests.e2e.vendor import MODEL, sold
from tests.platform import Platform, wait_for

from steelyard.gateway.operations import OPERATIONS
from steelyard.gateway.public_places import PLACES, public_document

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("default")]
CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]
CUSTOMER, WALLET = "schemathesis", "schemathesis-wallet"
ASKED = {"messages", "prompt", "input", "max_tokens"}
PAID = {"chat", "complete", "respond", "message"}
# What would take the ground from under the other examples, or is proved elsewhere.
LEFT_OUT = {"revokeKey", "verify", "closePeriod"}


class Site:
    """A platform of its own: half of its operations are made up here."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.key = platform.new_customer(CUSTOMER, money="1000")
        platform.new_customer(WALLET)
        self.served: set[str] = set()
        self.documents = {
            "public": schemathesis.openapi.from_dict(public_document()),
            "admin": schemathesis.openapi.from_dict(platform.get("/admin/v1/openapi.json", platform.operator_key)),
        }

    def ask(self, name: str, operation: Any, key: str, examples: int) -> set[int]:
        """Some examples of an operation, judged; returns the statuses that were seen."""
        described = self.documents[name][operation.path][operation.method]
        mine = {"tenant": WALLET} if "{tenant}" in operation.path else None
        seen: set[int] = set()

        @settings(
            max_examples=examples,
            phases=[Phase.generate],
            database=None,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=described.as_strategy(path_parameters=mine), some=strategies.data())
        def examine(case: Any, some: Any) -> None:
            if name == "public" and isinstance(case.body, dict):
                case.body = self.sensible(case.body, operation.body.__struct_fields__, some)
            answer = case.call(base_url=self.platform.url, headers={"authorization": f"Bearer {key}"}, timeout=60)
            seen.add(answer.status_code)
            if answer.status_code == 200:
                self.served.add(answer.headers["x-request-id"][0])
            streamed = "text/event-stream" in answer.headers.get("content-type", [""])[0]
            case.validate_response(answer, checks=CHECKS[:1] if streamed else CHECKS)

        examine()
        return seen

    @staticmethod
    def sensible(body: dict[str, Any], known: tuple[str, ...], some: Any) -> dict[str, Any]:
        """For the model that is sold: a prompt that makes sense alone, or few of the optional fields at a time."""
        if some.draw(strategies.booleans()):
            text = some.draw(strategies.text(min_size=1))
            turns = [{"role": "user", "content": text}]
            plain = {"messages": turns, "prompt": text, "input": text, "max_tokens": 5}
            return {name: plain[name] for name in plain if name in known} | {"model": MODEL}
        few = some.draw(strategies.sets(strategies.sampled_from(sorted(body)), max_size=4)) | ASKED
        return {name: value for name, value in body.items() if name in few} | {"model": MODEL}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    platform = Platform(tmp_path_factory.mktemp("openapi") / "data", "--no-engine").start()
    with sold(platform):
        yield Site(platform)
    assert platform.stop() == 0, platform.text


@pytest.mark.parametrize("endpoint", PLACES, ids=lambda one: one.name)
def test_public_endpoints_answer_as_their_document_says(site: Site, endpoint: Any) -> None:
    seen = site.ask("public", endpoint, site.key, 12)
    assert 200 in seen or endpoint.name not in PAID, seen


def test_nothing_refused_is_charged(site: Site) -> None:
    platform = site.platform
    wait_for(lambda: platform.wallet(CUSTOMER)["held_nano"] == 0, "the last hold to end")
    rows = platform.get(f"/admin/v1/requests?tenant={CUSTOMER}&limit=200", platform.operator_key)["rows"]
    charged = {row["request_id"] for row in rows if row["charge_nano"]}
    assert charged and charged <= site.served


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.name not in LEFT_OUT], ids=lambda one: one.name)
def test_the_admin_api_answers_as_its_document_says(site: Site, operation: Any) -> None:
    assert site.ask("admin", operation, site.platform.operator_key, 4)


def test_the_books_are_right_after_all_that(site: Site) -> None:
    assert site.platform.run("verify")["ok"] is True
