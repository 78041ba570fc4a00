"""The pages over HTTP, read as a browser without scripts reads them."""

import html
import re
from collections.abc import Callable
from dataclasses import replace as replace_field

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import event, insert, update
from starlette.testclient import TestClient
from tests.fakes.console import OPERATOR_KEY, FakeHouse
from tests.fakes.ledger import Requests
from tests.unit.console.conftest import sign_in, token_of
from tests.unit.ledger.test_vendor_costs import FAR, USD_CNY

from steelyard.catalog.store import tariffs_by_id
from steelyard.console import visits
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.ids import id_from_text, text_from_id
from steelyard.kernel.money import money_from_nano
from steelyard.kernel.settled import End, Settlement
from steelyard.kernel.why import Tried, Weighed, Why, bytes_from_way, bytes_from_why
from steelyard.ledger.posting import post
from steelyard.rating.rate import rate
from steelyard.reports.requests import latest
from steelyard.storage import tables

PAGES = ("/console", "/console/requests", "/console/prices", "/console/engines", "/console/playground")


def first_request(house: FakeHouse) -> str:
    with house.books() as connection:
        return latest(connection).rows[0].request_id


# --- who may see them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *PAGES,
        "/console/overview/live",
        "/console/requests/live",
        "/console/engines/live",
        "/console/requests/req_" + "0" * 32,
    ],
)
def test_nobody_sees_a_page_without_a_session(visitor: TestClient, path: str) -> None:
    answer = visitor.get(path, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/login?next=")


@pytest.mark.parametrize(
    "path",
    [
        *("/console/logout", "/console/playground", "/console/playground/stream"),
        *("/console/engines/rack-2/drain", "/console/engines/rack-2/restart"),
    ],
)
def test_nobody_posts_without_a_session(visitor: TestClient, path: str) -> None:
    assert visitor.post(path, data={"message": "x"}, follow_redirects=False).status_code == 303


def test_the_operator_key_opens_the_console(visitor: TestClient) -> None:
    answer = sign_in(visitor)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    cookie = answer.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=lax", "path=/console"):
        assert part in cookie
    assert "secure" not in cookie  # plain http
    assert visitor.get("/console").status_code == 200


def test_the_cookie_is_secure_over_https(house: FakeHouse) -> None:
    from steelyard.console.app import console_app

    proxied = {"x-forwarded-proto": "https"}
    for base, headers in (("https://steelyard.test", {}), ("http://steelyard.test", proxied)):
        with TestClient(console_app(house), base_url=base, headers=headers) as client:
            set_cookie = client.get("/console/login").headers["set-cookie"]
            assert "secure" in set_cookie.lower()


def test_behind_a_proxy_a_stranger_does_not_use_up_the_operators_tries(house: FakeHouse) -> None:
    """Both come from this machine then; the proxy says for whom."""
    from steelyard.console.app import console_app

    app = console_app(house)
    for client_address, status in (("127.0.0.1", 303), ("203.0.113.1", 429)):  # the second is no proxy of ours
        with TestClient(app, base_url="http://steelyard.test", client=(client_address, 1)) as client:
            for _ in range(limits.WRONG_KEYS_MAX):
                client.headers["x-forwarded-for"] = "198.51.100.9, 203.0.113.9"
                assert sign_in(client, "sk-sy-op-wrong").status_code == 401
            client.headers["x-forwarded-for"] = "203.0.113.9, 198.51.100.7"
            assert sign_in(client).status_code == status


@pytest.mark.parametrize("key", ["", "sk-sy-op-wrong", OPERATOR_KEY[:-1], "sk-sy-" + "A" * 32, "密钥"])
def test_a_wrong_key_opens_nothing_and_is_not_echoed(visitor: TestClient, key: str) -> None:
    answer = sign_in(visitor, key)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert not key or key not in answer.text
    assert visitor.get("/console", follow_redirects=False).status_code == 303


def test_after_many_wrong_keys_even_the_right_one_waits(visitor: TestClient, house: FakeHouse) -> None:
    for _ in range(limits.WRONG_KEYS_MAX):
        assert sign_in(visitor, "sk-sy-op-wrong").status_code == 401
    refused = sign_in(visitor)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= limits.WRONG_KEYS_WINDOW_S
    house.clock.advance(limits.WRONG_KEYS_WINDOW_S * NS_PER_S)
    assert sign_in(visitor).status_code == 303


def test_who_comes_from_another_site_is_not_signed_out(operator: TestClient) -> None:
    """With its forms and pictures a browser sends no cookie; one that came back would end the session of all tabs."""
    operator.cookies.clear()
    answers = [
        operator.get("/console", follow_redirects=False),
        operator.get("/console/nowhere"),
        operator.post("/console/login", data={"token": "0" * 64}),
        operator.post("/console/logout", data={"token": "0" * 64}, follow_redirects=False),
    ]
    assert [answer.status_code for answer in answers] == [303, 404, 403, 303]
    assert not any("set-cookie" in answer.headers for answer in answers)


def test_two_platforms_on_one_machine_sign_nobody_out_of_the_other(operator: TestClient, house: FakeHouse) -> None:
    from steelyard.console.app import console_app

    other = console_app(replace_field(house, secret=bytes(32)))
    with TestClient(other, base_url="http://steelyard.test:9000", cookies=operator.cookies) as client:
        assert sign_in(client).status_code == 303
        operator.cookies = client.cookies
        for one in (client, operator):
            assert one.get("/console", follow_redirects=False).status_code == 200
    for host in ("steelyard.test:x", "[::1]", "steelyard.test:٣"):
        assert operator.get("/console", headers={"host": host.encode()}).status_code == 200


def test_a_form_without_its_token_does_nothing(visitor: TestClient) -> None:
    visitor.get("/console/login")
    for token in ("", "0" * 64):
        answer = visitor.post("/console/login", data={"token": token, "key": OPERATOR_KEY}, follow_redirects=False)
        assert answer.status_code == 403
    assert visitor.get("/console", follow_redirects=False).status_code == 303


def test_signing_out_needs_the_token_and_ends_the_session(operator: TestClient) -> None:
    token = token_of(operator.get("/console").text)
    assert operator.post("/console/logout", data={"token": "0" * 64}, follow_redirects=False).status_code == 403
    assert operator.get("/console").status_code == 200
    assert operator.post("/console/logout", data={"token": token}, follow_redirects=False).status_code == 303
    assert operator.get("/console", follow_redirects=False).status_code == 303


def test_revoking_the_operator_key_ends_the_session(operator: TestClient, house: FakeHouse) -> None:
    import msgspec

    house.snapshot = msgspec.structs.replace(house.snapshot, operators=frozenset())
    assert operator.get("/console", follow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    ("onward", "leads_to"),
    [
        ("/console/requests?tenant=demo", "/console/requests?tenant=demo"),
        ("/console/playground", "/console/playground"),
        ("https://evil.example/", "/console"),
        ("//evil.example/console", "/console"),
        ("/console//evil.example", "/console"),
        ("/console/../v1/models", "/console"),
        ("/consolee", "/console"),
        ("/console\r\nset-cookie: a=b", "/console"),
        ("", "/console"),
    ],
)
def test_signing_in_leads_only_to_our_own_pages(visitor: TestClient, onward: str, leads_to: str) -> None:
    assert sign_in(visitor, onward=onward).headers["location"] == leads_to


# --- how they are served ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/console/login", "/console/nothing", "/console/requests/x", "/console/"])
def test_every_answer_carries_the_security_headers(operator: TestClient, path: str) -> None:
    headers = operator.get(path, follow_redirects=False).headers
    policy = headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_a_bug_is_an_error_page_with_the_same_headers(
    operator: TestClient, house: FakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "engine", None)
    answer = operator.get("/console?lang=zh")
    assert answer.status_code == 500
    assert "错误 500" in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_nothing_on_a_page_is_inline(operator: TestClient, house: FakeHouse) -> None:
    for path in (*PAGES, f"/console/requests/{first_request(house)}", "/console/login", "/console/nothing"):
        page = operator.get(path).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page))


def test_static_files_are_kept_for_ever_under_their_hash(operator: TestClient) -> None:
    page = operator.get("/console").text
    addresses = set(re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page))
    assert {address.rpartition(".")[2] for address in addresses} == {"css", "js", "svg"}
    for address in addresses:
        answer = operator.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    old = re.sub(r"/static/\w+/", "/static/0000000000000000/", addresses.pop())
    assert operator.get(old).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "console.css/x", ".css"])
def test_only_our_static_files_are_served(operator: TestClient, name: str) -> None:
    assert operator.get(f"/console/static/0/{name}").status_code == 404


def test_a_page_asked_in_the_wrong_way(operator: TestClient) -> None:
    assert operator.put("/console").status_code == 405
    assert operator.get("/console/logout").status_code == 405


def test_a_form_has_a_bound(operator: TestClient) -> None:
    assert operator.post("/console/playground", content=b"a=" + b"x" * limits.FORM_BYTES_MAX).status_code == 413
    assert operator.post("/console/playground", content=b"\xff\xfe=%%").status_code == 400
    assert operator.post("/console/playground", content=b"&".join([b"a=1"] * 60)).status_code == 400


# --- languages and colours ----------------------------------------------------------------------------------------


def test_the_language_is_chosen_by_a_link_and_remembered(operator: TestClient) -> None:
    assert '<html lang="en"' in operator.get("/console").text
    assert '<html lang="zh-Hans"' in operator.get("/console?lang=zh").text
    page = operator.get("/console/requests").text
    assert '<html lang="zh-Hans"' in page
    assert "请求" in page


def test_the_browsers_language_counts_without_a_choice(operator: TestClient) -> None:
    page = operator.get("/console", headers={"accept-language": "zh-CN,zh;q=0.9"}).text
    assert '<html lang="zh-Hans"' in page


def test_the_colours_are_chosen_by_a_link_and_remembered(operator: TestClient) -> None:
    assert 'data-theme="auto"' in operator.get("/console").text
    assert 'data-theme="dark"' in operator.get("/console?theme=dark").text
    assert 'data-theme="dark"' in operator.get("/console/playground").text
    assert 'data-theme="dark"' in operator.get("/console?theme=pink").text


def test_a_switch_keeps_the_rest_of_the_address(operator: TestClient) -> None:
    page = operator.get("/console/requests?tenant=demo&end=complete").text
    assert "/console/requests?tenant=demo&amp;end=complete&amp;lang=zh" in page


@pytest.mark.parametrize("path", [*PAGES, "/console/login"])
def test_no_english_is_left_on_a_chinese_page(operator: TestClient, path: str) -> None:
    """Latin words may only be names: of the brand, languages, models, tenants, currencies and units."""
    page = operator.get(path, params={"lang": "zh"}).text
    text = html.unescape(
        re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style|option|pre|code|cite).*?</\1>", "", page, flags=re.DOTALL))
    )
    known = "Steelyard English UTC CNY CPU Wh min ms Enter Shift sk sy op "
    known += "demo acme default script alert smollm instruct qwen "
    known += "deepseek flash peak local openai llama cpp Asia Shanghai CN "
    known += "OpenVINO vLLM GPU NVML KV kWh Qwen rack"
    assert set(re.findall(r"[A-Za-z]{2,}", text)) <= set(known.split())


# --- what they say ------------------------------------------------------------------------------------------------


def test_the_overview_adds_up(operator: TestClient, house: FakeHouse) -> None:
    from sqlalchemy import func, select

    from steelyard.kernel.clock import day_of
    from steelyard.storage.tables import usage

    today = usage.c.closed_ns >= day_of(house.clock.now_ns())
    columns = (
        func.count(),
        func.sum(usage.c.charge_nano),
        func.sum(usage.c.cpu_cost_nano + usage.c.energy_cost_nano),
        func.sum(usage.c.output),
    )
    with house.books() as connection:
        requests, charge, cost, output = connection.execute(select(*columns).where(today)).one()
    page = operator.get("/console").text
    for nano in (charge, cost, charge - cost):
        assert f'title="{money_from_nano(nano, "CNY")}"' in page
    for count in (requests, output):
        assert f"<dd>{count:,}<small>" in page
    assert page.count('<svg class="chart"') == 4
    assert page.count("<table>") == 4 + 2


def test_the_overview_says_what_it_leaves_out(operator: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "steelyard margin --by" not in operator.get("/console?lang=en").text
    monkeypatch.setattr(limits, "OVERVIEW_ROWS", 1)
    page = operator.get("/console?lang=en").text
    for kind in ("model", "tenant"):
        assert re.search(rf"and \d+ more, charged less: <code>steelyard margin --by {kind}</code>", page)


def test_energy_of_which_nothing_is_known_is_a_dash(operator: TestClient, house: FakeHouse) -> None:
    from steelyard.storage.tables import rollups

    assert "<dd>–<small>– in all" not in operator.get("/console?lang=en").text
    with house.engine.begin() as connection:
        connection.execute(update(rollups).values(energy_uj=0))
    assert "<dd>–<small>– in all" in operator.get("/console?lang=en").text


def test_a_look_at_what_is_new_asks_nothing_of_the_filters(operator: TestClient, house: FakeHouse) -> None:
    """A look every four seconds, in a worker: all tenants there are, and all that was ever served, were looked up."""
    asked: list[str] = []
    event.listen(house.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    for path, looks_up in (("/console/requests", True), ("/console/requests/live", False)):
        asked.clear()
        assert operator.get(path).status_code == 200
        assert any("FROM rollups" in statement for statement in asked) is looks_up


def test_the_fragment_is_the_pages_own_content(operator: TestClient) -> None:
    fragment = operator.get("/console/overview/live").text
    assert "<html" not in fragment
    assert fragment.strip() in operator.get("/console").text


def test_a_fresh_install_says_how_to_begin(fresh_operator: TestClient) -> None:
    for path in ("/console", "/console/requests"):
        page = fresh_operator.get(path).text
        assert "curl http://steelyard.test/v1/chat/completions" in page
        assert "YOUR_KEY" in page
        assert '<svg class="chart"' not in page


def test_names_from_outside_are_shown_never_run(operator: TestClient) -> None:
    for path in (*PAGES, '/console/requests?tenant=<script>alert(1)</script>&model="><script>x'):
        page = operator.get(path).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page or path in {"/console", "/console/prices"}  # none there
        assert not re.search(r"<script>(alert|x)", page)


def test_pages_of_requests_miss_and_repeat_none(operator: TestClient, house: FakeHouse) -> None:
    with house.books() as connection:
        wanted = [row.request_id for row in latest(connection, limit=1000).rows]
    seen: list[str] = []
    address = "/console/requests"
    for _ in range(10):
        page = operator.get(address).text
        seen += re.findall(r'<a href="/console/requests/(req_\w+)"', page)
        older = re.search(r'<a href="([^"]+)" rel="next"', page)
        if older is None:
            break
        address = html.unescape(older[1])
    assert seen == wanted
    assert 'rel="first"' in page


def test_filters_narrow_and_are_kept_by_the_links(operator: TestClient) -> None:
    page = operator.get("/console/requests?tenant=demo&end=complete").text
    tenants = set(re.findall(r'class="name">([^<]*)</td>', page)[::2])
    assert tenants == {"demo"}
    assert 'class="end bad"' not in page
    assert re.search(r'<option value="demo" selected', page)
    assert 'data-live="/console/requests/live?tenant=demo&amp;end=complete"' in page


def test_a_filter_that_finds_nothing_says_so(operator: TestClient) -> None:
    page = operator.get("/console/requests?tenant=nobody").text
    assert "No request fits this filter." in page
    assert '<option value="nobody" selected' in page


def test_a_request_opens_its_receipt_and_its_entries(operator: TestClient, house: FakeHouse) -> None:
    with house.books() as connection:
        row = next(row for row in latest(connection, limit=100).rows if row.charge_nano)
    page = operator.get(f"/console/requests/{row.request_id}").text
    for nano in (row.charge_nano, row.cost_nano, row.margin_nano, row.hold_nano):
        assert f'title="{money_from_nano(nano, "CNY")}"' in page
    for text in (f"wallet:{row.tenant}", f"revenue:{row.model}", "expense-cpu:local", "clearing-energy", "posted"):
        assert html.escape(text) in page
    assert re.search(r"\b[0-9a-f]{64}\b</dd>", page)


@pytest.mark.parametrize(("request_id", "status"), [("nonsense", 404), ("req_12", 404), (text_from_id(bytes(16)), 404)])
def test_an_unknown_request_is_an_error_page(operator: TestClient, request_id: str, status: int) -> None:
    answer = operator.get(f"/console/requests/{request_id}")
    assert answer.status_code == status
    assert "Error 404" in answer.text


def test_a_broken_page_link_is_an_error_page(operator: TestClient) -> None:
    assert operator.get("/console/requests?before=nonsense").status_code == 400


def test_tables_and_landmarks_are_named(operator: TestClient, house: FakeHouse) -> None:
    for path in (*PAGES, f"/console/requests/{first_request(house)}"):
        page = operator.get(path).text
        for landmark in ("<main id=", '<header class="top"', '<nav class="pages" aria-label=', "<footer"):
            assert landmark in page
        assert page.count("<h1") == 1
        assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))
        labels = set(re.findall(r'<label[^>]* for="([^"]+)"', page))
        fields = set(re.findall(r'<(?:input|select|textarea) id="([^"]+)"', page))
        assert fields <= labels
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))


def test_reading_the_books_happens_in_a_thread(
    operator: TestClient, house: FakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    threads: list[str] = []
    original: Callable[..., object] = visits.run_in_threadpool

    async def noted(function: Callable[..., object], *arguments: object) -> object:
        def inner() -> object:
            threads.append(threading.current_thread().name)
            return function(*arguments)

        return await original(inner)

    monkeypatch.setattr(visits, "run_in_threadpool", noted)
    operator.get("/console")
    assert threads and all("AnyIO worker" in name for name in threads)


def test_a_request_that_we_counted_says_so(operator: TestClient, house: FakeHouse) -> None:
    request_id = first_request(house)
    address = f"/console/requests/{request_id}"
    notices = {"en": "Counted by us: the vendor gave no counts.", "zh": "由本平台计数：供应商未提供用量。"}
    assert not any(notices[lang] in operator.get(f"{address}?lang={lang}").text for lang in notices)
    with house.engine.begin() as connection:
        row = tables.usage.c.request_id == id_from_text(request_id)
        connection.execute(update(tables.usage).where(row).values(estimated=True))
    for lang, notice in notices.items():
        assert notice in operator.get(f"{address}?lang={lang}").text


def test_a_request_that_had_a_choice_says_why_it_went_there(operator: TestClient, house: FakeHouse) -> None:
    request_id = first_request(house)
    address = f"/console/requests/{request_id}"
    assert "Why this offer" not in operator.get(f"{address}?lang=en").text
    offers = (
        Weighed(1, 1, score=1000, cost_nano=2_000, held_permille=756),
        Weighed(3, 2, score=900),
        Weighed(4, 0, "open"),
    )
    way = bytes_from_way(bytes_from_why(Why("balanced", "default", offers)), (Tried("local", "rate_limited"),))
    with house.engine.begin() as connection:
        connection.execute(insert(tables.choices).values(request_id=id_from_text(request_id), way=way))
    page = html.unescape(operator.get(f"{address}?lang=en").text)
    for said in ("Why this offer", "76 %", "hold most of the prompt", "left out: its circuit breaker is open"):
        assert said in page
    assert "stood behind: its last call failed" in page  # its score is the better one
    assert "was asked in vain: it was busy." in page
    page = html.unescape(operator.get(f"{address}?lang=zh").text)
    for said in ("为何选择此供应", "未参选：熔断器已断开", "未果：上游繁忙"):
        assert said in page


def test_a_request_at_a_vendor_abroad_shows_his_prices_and_what_they_came_to(
    operator: TestClient, house: FakeHouse
) -> None:
    requests = Requests(house.clock)
    with house.engine.begin() as connection:
        price = tariffs_by_id(connection)[1]
        for book, one in (("cost", FAR), ("rate", USD_CNY)):
            row = {name: getattr(one, name) for name in ("id", "subject", "currency", "effective_from_ns", "source")}
            lines = msgspec.json.encode(one.lines).decode()
            row |= {"book": book, "loaded_ns": 0, "watts_milli": 0, "lines": lines}
            connection.execute(insert(tables.tariffs).values(row))
        plain = requests.opened(model=price.subject)
        opened = replace(plain, upstream=FAR.subject, cost_id=FAR.id, rate_id=USD_CNY.id)
        closed = replace(requests.closed(opened), end=End.CLIENT_GONE.value)
        rated = rate(Settlement(opened, closed), price, FAR, USD_CNY)
        post(connection, [rated], {}, house.clock)
    page = operator.get(f"/console/requests/{text_from_id(opened.request_id)}").text
    for text in ("$4 / 1M", "7.1034 CNY / USD", "their list", "In the customer&#39;s currency", "payable:far", "fx"):
        assert text in page, text
    assert "What the vendor will bill is estimated" in page
    for nano, currency in ((rated.payable_nano, "USD"), (rated.vendor_cost_nano, "CNY"), (30 * 4000, "USD")):
        assert f'title="{money_from_nano(nano, currency)}"' in page
