"""The page of prices: what counts now, when it changes, where it is from; of a vendor's key only that there is one."""

import re

import pytest
from sqlalchemy import insert
from starlette.testclient import TestClient
from tests.fakes.console import FakeHouse

from steelyard.storage import tables
from steelyard.upstream.sealed import key_variable

TOKEN = "gAAAAABsealed-and-never-shown"


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_what_counts_now_is_marked_with_its_next_change_and_its_source(operator: TestClient) -> None:
    """The house's clock stands at 21:20 UTC on a Monday: off-peak in Beijing until Tuesday, 09:00."""
    page = operator.get("/console/prices?lang=en").text
    rows = re.findall(r'<tr class="(\w+)"><th scope="row">([^<]+)', page)
    assert ("later", "peak") in rows and ("now", "otherwise") in rows and ("now", "always") in rows
    shown = text_of(page)
    assert "next change 2026-11-24 01:00 UTC" in shown
    assert 'href="https://api-docs.deepseek.com/zh-cn/quick_start/pricing"' in page
    assert "Monday to Friday · 09:00–12:00, 14:00–18:00 Asia/Shanghai · not on public holidays (CN)" in shown
    assert "Cost at deepseek CNY per 1M tokens" in shown
    assert "Without a price this model is not sold." in shown


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
