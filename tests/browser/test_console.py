"""The console in a real browser: the policy holds, pages live, answers stream, and it works without scripts too."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Site
from tests.platform import wait_for

Open = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
DESK = {"viewport": {"width": 1360, "height": 900}}
PERIOD_MS = 4_000  # data-every-ms of the live pages
PATHS = {
    "overview": "/console",
    "requests": "/console/requests",
    "prices": "/console/prices",
    "engines": "/console/engines",
    "playground": "/console/playground",
}


def test_a_visitor_signs_in_where_he_wanted_to_go_and_out(open_page: Open, site: Site) -> None:
    page = open_page("/console/requests", signed_in=False)
    expect(page).to_have_url(re.compile(r"/console/login\?next="))
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type(site.operator_key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.base_url}/console/requests")
    cookie = next(one for one in page.context.cookies() if one["name"].startswith("steelyard_session"))
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{site.base_url}/console/login")
    page.goto("/console")
    expect(page).to_have_url(re.compile("/console/login"))


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_page_is_wider_than_its_window(
    open_page: Open, pictures: Callable[[Page, str], None], size: dict, theme: str, language: str
) -> None:
    page = open_page(f"/console?theme={theme}&lang={language}", **size)
    for name, path in PATHS.items():
        page.goto(path)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        pictures(page, f"{name}-{theme}-{language}-{size['viewport']['width']}")
    page.goto("/console/requests")
    page.locator("table.requests tbody a").first.click()
    expect(page.locator(".ticket")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pictures(page, f"request-{theme}-{language}-{size['viewport']['width']}")


def test_the_dark_theme_is_dark_and_the_system_is_asked(open_page: Open) -> None:
    def lightness(page: Page) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert lightness(open_page("/console?theme=light", color_scheme="dark")) > 600
    assert lightness(open_page("/console?theme=dark", color_scheme="light")) < 150
    assert lightness(open_page("/console", color_scheme="dark")) < 150
    assert lightness(open_page("/console", color_scheme="light")) > 600


def test_the_overview_keeps_itself_fresh_and_rests_when_hidden(open_page: Open) -> None:
    page = open_page("/console")
    expect(page.locator(".live-on")).to_be_visible()
    page.evaluate("document.querySelector('.tile dd').textContent = 'stale'")
    with page.expect_response("**/console/overview/live"):
        page.clock.fast_forward(PERIOD_MS)
    expect(page.locator(".tile dd").first).not_to_have_text("stale")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    expect(page.locator(".live-off")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.fast_forward(10 * PERIOD_MS)
    assert asked == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    with page.expect_response("**/console/overview/live"):
        page.clock.fast_forward(PERIOD_MS)


def test_an_open_table_is_not_taken_away(open_page: Open) -> None:
    page = open_page("/console")
    page.locator("details summary").first.click()
    page.evaluate("document.querySelector('.tile dd').textContent = 'stale'")
    page.clock.fast_forward(PERIOD_MS)
    expect(page.locator(".tile dd").first).not_to_have_text("stale")
    expect(page.locator("details").first).to_have_attribute("open", "")


def test_a_session_that_ended_leads_back_to_the_sign_in(open_page: Open) -> None:
    page = open_page("/console")
    page.context.clear_cookies()
    page.clock.fast_forward(PERIOD_MS)
    expect(page).to_have_url(re.compile("/console/login"))


def test_a_chart_tells_the_column_under_the_pointer(open_page: Open) -> None:
    page = open_page("/console", **DESK)
    readout = page.locator("[data-part=hour-requests] [data-readout]")
    at_rest = readout.inner_text()
    page.locator("[data-part=hour-requests] .hit").nth(30).hover()
    expect(readout).to_have_text(re.compile(r"^\d\d:\d\d: \d+ requests$"))
    page.locator("h1").hover()
    expect(readout).to_have_text(at_rest)


def test_filters_and_paging_work_by_keyboard(open_page: Open) -> None:
    page = open_page("/console/requests", **DESK)
    page.get_by_label("Tenant").select_option("demo")
    page.get_by_role("button", name="Apply").press("Enter")
    expect(page).to_have_url(re.compile("tenant=demo"))
    tenants = page.locator("tbody td.name:nth-child(2)").all_inner_texts()
    assert tenants and set(tenants) == {"demo"}
    first = page.locator("tbody a").first
    address = first.get_attribute("href")
    first.press("Enter")
    expect(page).to_have_url(re.compile(str(address)))


def test_an_engine_is_drained_and_started_again(open_page: Open, site: Site) -> None:
    if site.house is None:
        pytest.skip("the engine on a GPU is the generated house's")
    before = list(site.house.running)
    page = open_page("/console/engines", java_script_enabled=False)
    engine = page.locator("section.engine", has=page.get_by_role("heading", name="rack-2"))
    expect(page.locator("section.engine", has_text="The local model").locator("form")).to_have_count(0)
    engine.get_by_text("Drain or restart").press("Enter")
    engine.get_by_label("Reason").fill("driver update")
    engine.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("status")).to_have_text("rack-2 is drained: nothing new is sent to it.")
    expect(engine.locator("header .end")).to_have_text("draining")
    expect(engine).to_contain_text("driver update")
    engine.get_by_text("Drain or restart").click()
    engine.get_by_role("button", name="Start again").click()
    expect(engine.locator("header .end")).to_have_text("running")
    site.house.running = before


def test_an_answer_streams_with_its_bill_and_settles(open_page: Open, site: Site) -> None:
    if site.house is not None:
        site.house.pause_s = 0.02
    page = open_page("/console/playground")
    page.fill("#message", "What is the capital of France?")
    page.keyboard.press("Enter")
    expect(page.locator(".state.running")).to_be_visible()
    sums: set[str] = set()
    settled = page.locator("#bill .state.settled")
    while not settled.count():
        sums.update(page.locator("#bill .sum").all_inner_texts())
    assert len(sums) > 2
    expect(page.locator(".turn.assistant .said")).to_contain_text("Paris")
    expect(page.locator("#bill a.button")).to_have_attribute("href", re.compile(r"/console/requests/req_[0-9a-f]{32}"))
    expect(page.locator("#message")).to_be_focused()
    page.fill("#message", "And of Italy?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator(".turn.running")).to_have_count(0)
    expect(settled).to_be_visible()
    expect(page.get_by_role("rowheader", name="Prompt, cached")).to_be_visible()
    for width in (1360, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator("#bill .scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth"), width


def test_stopping_hangs_up(open_page: Open, site: Site) -> None:
    page = open_page("/console/playground")
    before = 0
    if site.house is not None:
        site.house.pause_s = 0.2
        before = site.house.closed_early
    page.fill("#message", "Tell me all you know.")
    page.keyboard.press("Enter")
    expect(page.locator(".state.running")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#failure")).to_contain_text("Stopped.")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.locator(".turn.assistant .said")).not_to_be_empty()
    if site.house is not None:
        house = site.house
        wait_for(lambda: house.closed_early > before, "the paid request to be closed")


def test_what_was_not_answered_can_be_sent_again(open_page: Open, site: Site, complaints: list[str]) -> None:
    if site.house is None:
        pytest.skip("the message that finds an empty wallet is the generated house's")
    site.house.pause_s = 0
    page = open_page("/console/playground")
    page.fill("#message", "broke")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The wallet cannot cover this request")
    expect(page.locator("#message")).to_have_value("broke")
    expect(page.locator(".turn")).to_have_count(0)
    page.evaluate("document.getElementById('play').elements.token.value = 'of an older session'")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("This form is from another or an older session.")
    expect(page.locator("#message")).to_have_value("broke")
    assert ["403" in told for told in complaints] == [True], "the browser's own word of the refusal"
    complaints.clear()


def test_everything_works_without_scripts(open_page: Open, site: Site) -> None:
    if site.house is not None:
        site.house.pause_s = 0
    page = open_page("/console", java_script_enabled=False)
    page.get_by_role("link", name="Reload").click()
    page.get_by_role("link", name="中文").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("今日")
    page.get_by_role("link", name="深色").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("link", name="试用台").click()
    page.fill("#message", "What is the capital of France?")
    page.get_by_role("button", name="发送").click()
    expect(page.locator(".turn.assistant .said")).to_contain_text("Paris")
    expect(page.locator("#bill .state.settled")).to_have_text("已结算")


def test_the_policy_forbids_what_is_not_ours(open_page: Open, complaints: list[str]) -> None:
    page = open_page("/console")
    ran = page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        " document.head.append(script); return Boolean(window.ran) }"
    )
    assert not ran
    asked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert asked == "TypeError"
    assert [bool(re.search("Content Security Policy", told)) for told in complaints] == [True] * len(complaints)
    assert len(complaints) >= 2
    complaints.clear()
