"""The page of prices: what counts now, when it changes, where it is from; of a vendor's key only that there is one."""

import re

import pytest
from msgspec.structs import replace
from sqlalchemy import insert
from starlette.testclient import TestClient
from tests.fakes.console import FakeHouse

from steelyard.kernel.tariff import Condition, Variant
from steelyard.storage import tables
from steelyard.upstream.sealed import key_variable

TOKEN = "gAAAAABsealed-and-never-shown"


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_what_counts_now_is_marked_with_its_next_change_and_its_source(operator: TestClient) -> None:
    """The house's clock stands at 22:40 UTC on a Monday: off-peak in Beijing until Tuesday, 09:00."""
    page = operator.get("/console/prices?lang=en").text
    rows = re.findall(r'<tr class="(\w+)"><th scope="row">([^<]+)', page)
    assert ("later", "peak") in rows and ("now", "otherwise") in rows and ("now", "always") in rows
    shown = text_of(page)
    assert "next change 2026-11-24 01:00 UTC" in shown
    assert 'href="https://api-docs.deepseek.com/zh-cn/quick_start/pricing"' in page
    assert "Monday to Friday · 09:00–12:00, 14:00–18:00 Asia/Shanghai · not on public holidays (CN)" in shown
    assert "Cost at deepseek CNY per 1M tokens" in shown
    assert "Cost at local CNY" in shown and "CPU time / h Energy / kWh" in shown
    assert "Without a price this model is not sold." in shown


def test_marginal_bands_are_told_from_those_of_a_whole_request(operator: TestClient, house: FakeHouse) -> None:
    assert "each band prices only the tokens inside it" not in operator.get("/console/prices?lang=en").text
    name, (price, *_) = next(iter(house.snapshot.prices.items()))
    banded = Variant("long", Condition(input_over=32_000), price.lines[:1])
    house.snapshot.prices[name] = (replace(price, variants=(banded,), marginal=True),)
    shown = text_of(operator.get("/console/prices?lang=en").text)
    assert shown.count("each band prices only the tokens inside it") == 1 and "prompt &gt; 32,000 tokens" in shown


def test_of_a_key_only_its_end_is_shown(
    operator: TestClient, house: FakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(key_variable("deepseek"), raising=False)
    row = {"upstream": "deepseek", "token": TOKEN, "shown": "…ab12", "set_ns": 0}
    with house.engine.begin() as connection:
        connection.execute(insert(tables.credentials).values(row))
    page = operator.get("/console/prices?lang=en").text
    assert "set, ends in …ab12" in page and TOKEN not in page
    monkeypatch.setenv(key_variable("deepseek"), "sk-from-the-environment")
    page = operator.get("/console/prices?lang=zh").text
    assert "来自环境变量" in page and "sk-from-the-environment" not in page


def test_offers_that_are_left_alone_are_counted_and_the_reason_is_said(operator: TestClient, house: FakeHouse) -> None:
    page = text_of(operator.get("/console/prices?lang=en").text)
    assert "asked" in page and "left alone:" not in page
    house.sick["deepseek-flash"] = "no_money"
    page = text_of(operator.get("/console/prices?lang=en").text)
    assert "1 of 1 left alone: our account there is empty" in page
    house.sick["deepseek-flash"] = "something_new"
    assert "1 of 1 left alone: something_new" in text_of(operator.get("/console/prices?lang=en").text)
    house.sick["deepseek-flash"] = "open"
    assert "1 个中 1 个暂停使用：熔断器已断开" in text_of(operator.get("/console/prices?lang=zh").text)
