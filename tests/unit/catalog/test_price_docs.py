"""The examples of docs/reference/prices.md are price files, and the table of conditions has every field there is."""

import re
from pathlib import Path

from steelyard.catalog import condition_file
from steelyard.catalog.price_file import parse_price_file

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "prices.md").read_text(encoding="utf-8")


def test_every_example_is_read() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 4
    drafts = [draft for example in examples for draft in parse_price_file(example).tariffs]
    assert any([variant.name for variant in draft.variants] == ["peak", "32k to 128k, thinking"] for draft in drafts)


def test_every_condition_is_described() -> None:
    for field in condition_file._CONDITIONS:
        assert f"`{field}`" in PAGE, field
