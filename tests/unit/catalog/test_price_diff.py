"""What loading a file would change, told line by line."""

from steelyard.catalog.price_diff import Fate, LineChange, changes
from steelyard.catalog.price_file import TariffDraft, parse_price_file
from steelyard.kernel.tariff import Tariff

PRICE = """
[[price]]
model = "m"
currency = "CNY"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "1.0"
cached_input = "0.1"
output = "2"
source = "a"
  [[price.when]]
  name = "long"
  input_over = 32000
  input = "3"
"""


def drafts(text: str = PRICE) -> tuple[TariffDraft, ...]:
    return parse_price_file(text).tariffs


def standing(*texts: str) -> dict[str, dict[str, tuple[Tariff, ...]]]:
    return {"price": {"m": tuple(drafts(text)[0].tariff(number) for number, text in enumerate(texts, 1))}}


def test_a_first_version_is_new_with_all_its_lines() -> None:
    (one,) = changes(drafts(), {})
    assert (one.fate, one.version, one.fields) == (Fate.NEW, None, {})
    assert one.lines[0] == LineChange("", "input", None, "1") and one.lines[-1] == LineChange(
        "long", "input", None, "3"
    )


def test_the_same_numbers_are_the_same_however_they_are_written() -> None:
    (one,) = changes(drafts(PRICE.replace('"1.0"', '"1.00"')), standing(PRICE))
    assert (one.fate, one.version, one.lines) == (Fate.UNCHANGED, 1, ())


def test_another_number_of_the_same_date_supersedes() -> None:
    changed = PRICE.replace('"2"', '"2.5"').replace('"3"', '"4"').replace("32000", "64000").replace('"a"', '"b"')
    (one,) = changes(drafts(changed), standing(PRICE))
    assert (one.fate, one.version) == (Fate.SUPERSEDES, 1)
    assert one.lines == (LineChange("", "output", "2", "2.5"), LineChange("long", "input", "3", "4"))
    assert one.fields == {
        "source": ("a", "b"),
        "conditions": ("long: input_over = 32000", "long: input_over = 64000"),
    }


def test_a_later_date_follows_the_version_before_it_and_says_what_becomes_of_its_lines() -> None:
    later = PRICE.replace("2026-01", "2026-02").replace('"0.1"', '"0.2"')
    without = later.partition("  [[price.when]]")[0]
    (one,) = changes(drafts(without), standing(PRICE, PRICE.replace("2026-01", "2026-03")))
    assert (one.fate, one.version) == (Fate.FOLLOWS, 1)
    assert one.lines == (LineChange("", "cached_input", "0.1", "0.2"), LineChange("long", "input", "3", None))


def test_a_tier_is_compared_with_its_own() -> None:
    (one,) = changes(drafts(PRICE.replace('model = "m"', 'model = "m"\ntier = "batch"')), standing(PRICE))
    assert one.fate is Fate.NEW
