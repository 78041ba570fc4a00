"""The pages on the running platform: a real model answers, its bill settles, every figure leads to the books."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Site
from tests.platform import Platform, wait_for

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def site(platform: Platform) -> Site:
    return Site(platform.url, platform.operator_key)


def ask(page: Page, text: str) -> None:
    page.fill("#max_tokens", "64")
    page.fill("#temperature", "0")
    page.fill("#message", text)
    page.get_by_role("button", name=re.compile("Send|发送")).click()


def test_an_answer_streams_settles_and_leads_to_its_receipt_and_entries(open_page: Open, platform: Platform) -> None:
    page = open_page("/console/playground")
    ask(page, "What is the capital of France?")
    expect(page.locator(".turn.assistant .said")).to_contain_text("Paris")
    expect(page.locator("#bill .state.settled")).to_be_visible()
    shown = page.locator("#bill .sum").last.inner_text()
    page.locator("#bill a.button").click()
    expect(page).to_have_url(re.compile(r"/console/requests/req_[0-9a-f]{32}"))
    request_id = page.url.rpartition("/")[2]
    posted = platform.get(f"/admin/v1/requests/{request_id}", platform.operator_key)
    expect(page.locator("main")).to_contain_text(shown)
    for account in ("wallet:demo", "revenue:smollm2-135m-instruct"):
        expect(page.locator("main")).to_contain_text(account)
    assert str(posted).count(request_id) >= 1
    receipt = platform.get(f"/v1/receipts/{request_id}", platform.api_key)
    assert receipt["amount"] in shown


def test_a_stopped_answer_is_settled_at_what_was_shown(open_page: Open, platform: Platform) -> None:
    page = open_page("/console/playground")
    before = {row["request_id"] for row in newest(platform)}
    page.fill("#max_tokens", "2000")
    page.fill("#temperature", "0")
    page.fill("#message", "Write a long essay on the history of Europe.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .said")).to_contain_text(re.compile(r"\w+ \w+"))
    page.get_by_role("button", name="Stop").click()

    def cut() -> dict | None:
        fresh = [row for row in newest(platform) if row["request_id"] not in before]
        return fresh[0] if fresh else None

    row = wait_for(cut, "the stopped request to be posted")
    assert row["end"] == "client_gone"
    assert 0 < row["output"] < 2000


def newest(platform: Platform) -> list[dict]:
    return list(platform.get("/admin/v1/requests", platform.operator_key)["rows"])


def test_the_playground_works_without_scripts(open_page: Open) -> None:
    page = open_page("/console/playground?lang=zh", java_script_enabled=False)
    ask(page, "What is the capital of France?")
    expect(page.locator(".turn.assistant .said")).to_contain_text("Paris")
    expect(page.locator("#bill .state.settled")).to_have_text("已结算")


def test_the_overview_shows_what_the_books_say(open_page: Open, platform: Platform) -> None:
    page = open_page("/console?lang=en")
    (margin, *_) = platform.run("margin", "--by", "model")
    expect(page.locator("main")).to_contain_text(margin["name"])
    expect(page.locator("svg").first).to_be_visible()


def test_the_engine_that_answered_is_shown_with_what_it_told_and_what_the_books_say(
    open_page: Open, platform: Platform
) -> None:
    ask(page := open_page("/console/playground?lang=en"), "What is the capital of France?")
    expect(page.locator("#bill .state.settled")).to_be_visible()
    told = platform.run("engine", "show", "local")
    page.goto("/console/engines")
    engine = page.locator("section[data-part=local]")
    expect(engine.locator("header .end")).to_have_text("running")
    for said in ("smollm2-135m-instruct", told["why"], told["address"]):
        expect(engine).to_contain_text(said)
    books = engine.locator("dl").last
    expect(books.locator("div", has_text="Tokens written").locator("dd")).not_to_have_text("0")
    expect(books.locator("div", has_text="Energy").locator("dd")).to_contain_text(re.compile("modelled|measured"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_fit_their_windows(
    open_page: Open, pictures: Callable[[Page, str], None], theme: str, language: str
) -> None:
    page = open_page(f"/console?theme={theme}&lang={language}", viewport={"width": 1360, "height": 900})
    for name, path in {
        "overview": "",
        "requests": "/requests",
        "engines": "/engines",
        "playground": "/playground",
    }.items():
        page.goto(f"/console{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        pictures(page, f"real-{name}-{theme}-{language}")
    page.goto("/console/requests")
    page.locator("table.requests tbody a").first.click()
    pictures(page, f"real-request-{theme}-{language}")
