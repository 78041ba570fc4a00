"""The page of engines: what each tells, what the books say, a dash for the rest; and who may drain one."""

import re

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.fakes.console import NOW_NS, FakeHouse
from tests.unit.console.conftest import token_of

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.engines import EngineKnown, EngineState, Wanted
from steelyard.kernel.limits import ENGINE_SILENT_S
from steelyard.reports.engines import last_hour


def facts_of(page: str, name: str) -> dict[str, str]:
    """What stands beside each name in an engine's own lists; the books' come last and win."""
    section = re.search(rf'data-part="{name}".*?</section>', page, re.DOTALL)
    assert section, name
    found = re.findall(r"<div><dt>(.*?)</dt><dd[^>]*>(.*?)</dd></div>", section[0], re.DOTALL)
    return {key: re.sub(r"<[^>]+>", " ", value).strip() for key, value in found}


def change(house: FakeHouse, name: str, **seen: object) -> None:
    def changed(one: EngineKnown) -> EngineKnown:
        if one.spec.name != name or one.seen is None:
            return one
        return one._replace(seen=msgspec.structs.replace(one.seen, **seen))

    house.running = [changed(one) for one in house.running]


def test_what_an_engine_tells_is_shown_and_what_it_does_not_is_a_dash(operator: TestClient) -> None:
    facts = facts_of(operator.get("/console/engines?lang=en").text, "local")
    assert facts["Why this engine"] == "2 CPUs of x86_64; 8-bit weights"
    assert (facts["Running since"], facts["Restarts"]) == ("2026-11-23 21:33 UTC", "2")
    assert facts["Waiting in it"] == "3: 2 interactive, 1 batch"
    assert facts["KV cache in use"] == "–"
    assert facts["Prefix-cache hits"] == "36,000 of 90,000 (40.0 %)"
    assert facts["Drafts accepted"].split() == ["–", "speculation", "is", "off"]
    other = facts_of(operator.get("/console/engines?lang=en").text, "rack-2")
    assert (other["Model"].split()[0], other["Waiting in it"]) == ("qwen3-8b-instruct-2507", "1")
    assert other["Drafts accepted"].startswith("30,000 of 50,000 (60.0 %)")


def test_every_joule_has_a_label(operator: TestClient, house: FakeHouse) -> None:
    """Of the engine that measures, by its instrument; in the books, modelled, as the watts of the tariff made them."""
    page = operator.get("/console/engines?lang=en").text
    assert '5.83 Wh busy, 900.00 J idle <small class="tag">measured</small>' in page
    assert "by NVML, the whole GPUs" in page
    with house.books() as connection:
        hour = last_hour(connection, NOW_NS, ["local"])["local"]
    joules = sum(one.energy_uj for one in hour)
    assert joules and f"{joules / 10**6:.2f} J  modelled" in facts_of(page, "local")["Energy"]


def test_the_books_of_an_hour_are_the_sums_of_its_requests(operator: TestClient, house: FakeHouse) -> None:
    with house.books() as connection:
        hours = last_hour(connection, NOW_NS, ["local", "rack-2"])
        rows = connection.exec_driver_sql(
            "select count(*), sum(input), sum(cached_input), sum(output) from usage"
            f" where upstream = 'local' and closed_ns >= {hours['local'][0].start_ns}"
        ).one()
    sums = tuple(
        sum(getattr(one, name) for one in hours["local"]) for name in ("requests", "prefill", "cached", "decode")
    )
    assert sums == tuple(rows) and sums[0] > 0
    assert len(hours["local"]) == 60 and not any(one.requests for one in hours["rack-2"])
    page = operator.get("/console/engines?lang=en").text
    assert facts_of(page, "local")["Tokens written"] == f"{sums[3]:,}"
    assert facts_of(page, "rack-2")["Energy"] == "–"


def test_an_engine_that_is_not_heard_of_is_called_so(operator: TestClient, house: FakeHouse) -> None:
    house.clock.advance(ENGINE_SILENT_S * NS_PER_S)
    page = operator.get("/console/engines?lang=en").text
    assert page.count("not heard of") == 1  # the local one was seen a second before
    change(house, "rack-2", state=EngineState.FAILED, reason="vllm ended (exit code 1): no such <b>GPU</b>")
    page = operator.get("/console/engines?lang=zh").text
    assert "失败，正在重试" in page and "no such &lt;b&gt;GPU" in page


def test_nobody_reads_a_key_of_an_engine(operator: TestClient) -> None:
    page = operator.get("/console/engines").text
    assert "sealed" not in page and "VLLM_API_KEY" not in page


@pytest.mark.parametrize(
    ("path", "wanted", "said"), [("drain", Wanted.DRAINED, "is drained"), ("restart", Wanted.RUN, "is started anew")]
)
def test_an_added_engine_is_drained_and_restarted(
    operator: TestClient, house: FakeHouse, path: str, wanted: Wanted, said: str
) -> None:
    token = token_of(operator.get("/console/engines").text)
    fields = {"token": token, "reason": "  driver \n update " + "x" * 500}
    answer = operator.post(f"/console/engines/rack-2/{path}", data=fields)
    assert answer.status_code == 200 and f"rack-2 {said}" in answer.text
    spec = house.running[1].spec
    assert spec.wanted is wanted and spec.reason.startswith("driver update")
    assert len(spec.reason) == limits.ENGINE_REASON_CHARACTERS_MAX


@pytest.mark.parametrize(("name", "status"), [("local", 404), ("other", 404), ("..", 404), ("rack-2", 403)])
def test_only_added_engines_are_asked_and_only_by_our_own_form(
    operator: TestClient, house: FakeHouse, name: str, status: int
) -> None:
    token = token_of(operator.get("/console/engines").text) if status != 403 else "0" * 64
    before = list(house.running)
    answer = operator.post(f"/console/engines/{name}/drain", data={"token": token}, follow_redirects=False)
    assert answer.status_code == status and house.running == before


def test_without_engines_the_page_says_how_to_have_one(operator: TestClient, house: FakeHouse) -> None:
    house.running = []
    page = operator.get("/console/engines?lang=en&done=drain&engine=rack-2").text
    assert "No engine runs on this machine" in page and "steelyard engine add vllm" in page
    assert 'role="status"' not in page
