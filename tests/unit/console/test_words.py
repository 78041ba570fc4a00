"""Both languages say the same things, pages say nothing else, and the visitor's choice counts."""

import re
from pathlib import Path
from string import Formatter

import pytest

import steelyard.console
from steelyard.console.i18n import CATALOGUES, Words, choose_language

ROOM = Path(steelyard.console.__file__).parent
TEMPLATES = sorted((ROOM / "templates").glob("*.html"))
WORD = re.compile(r"[^\W\d_]{2,}")
SPOKEN = re.compile(r'\b(?:title|alt|placeholder|aria-label|value|data-(?:lost|you|answer|empty|stopped))="([^"]*)"')


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_the_languages_have_the_same_keys_and_placeholders() -> None:
    english, chinese = CATALOGUES["en"], CATALOGUES["zh"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert fields(text) == fields(chinese[key]), key
        assert text.strip() and chinese[key].strip(), key


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_words_of_its_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"{%.*?%}|{#.*?#}", "", text, flags=re.DOTALL)
    text = re.sub(r"{{.*?}}", "", text, flags=re.DOTALL)
    for value in SPOKEN.findall(text):
        assert not WORD.search(value), value
    assert not WORD.search(re.sub(r"<[^>]*>", "", text))


def test_every_word_that_is_used_exists_and_every_word_is_used() -> None:
    sources = [
        path.read_text(encoding="utf-8") for path in [*TEMPLATES, *ROOM.glob("*.py")] if "words_" not in path.name
    ]
    text = "\n".join(sources)
    whole = set(re.findall(r"""\b(?:t|words|either|fact|name)\(\s*f?["']([a-z_0-9.]+)["']\s*[,)]""", text))
    spoken = {key for key in whole if "." in key}
    assert spoken <= set(CATALOGUES["en"])
    # keys that are put together: their first part stands in the source with a dot and a hole
    families = ("end.", "meter.", "fact.", "state.", "error.", "theme.", "language.", "nav.", "chart.", "table.")
    families += (
        "energy.",
        "requests.all_",
        "overview.models",
        "overview.tenants",
        "play.",
        "day.",
        "why.",
        "fault.",
        "engines.",
    )
    unused = [k for k in CATALOGUES["en"] if k not in text and not k.startswith(families)]
    assert unused == []


@pytest.mark.parametrize(
    ("asked", "cookie", "accept", "language"),
    [
        ("zh", "en", "en", "zh"),
        (None, "zh", "en", "zh"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "de, en-GB;q=0.5, zh;q=0.4", "en"),
        (None, None, "en;q=0.1, zh;q=0.85", "zh"),
        (None, None, "zh;q=0, de", "en"),
        (None, None, "zh;q=nonsense", "en"),
        ("xx", "yy", "*", "en"),
        (None, None, None, "en"),
        (None, None, "," * 5000, "en"),
    ],
)
def test_the_language_is_asked_for_then_remembered_then_accepted(
    asked: str | None, cookie: str | None, accept: str | None, language: str
) -> None:
    assert choose_language(asked, cookie, accept) == language


def test_a_missing_word_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Words("en")("no.such.word")
    assert Words("en").either("no.such.word", "as given") == "as given"
