"""The languages of the console: which one a visitor reads, and the words in it.

Owns the choice (`?lang=`, then cookie, then Accept-Language) and the look-up. The words stand in one catalogue per
language with equal keys; a missing key is a bug and raises.
"""

from collections.abc import Mapping

from steelyard.console.words_en import WORDS as ENGLISH
from steelyard.console.words_zh import WORDS as CHINESE

CATALOGUES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "zh": CHINESE}
DEFAULT = "en"
HTML_LANG = {"en": "en", "zh": "zh-Hans"}


class Words:
    """One language. Called with a key and the values of its placeholders."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._words = CATALOGUES[language]

    def __call__(self, key: str, **values: object) -> str:
        text = self._words[key]
        return text.format(**values) if values else text

    def either(self, key: str, otherwise: str) -> str:
        """The words for a key that may not be in the catalogue (codes that other rooms invent)."""
        return self._words.get(key, otherwise)


def choose_language(asked: str | None, cookie: str | None, accept: str | None) -> str:
    """The first of the three that names a language we have."""
    for wanted in (asked, cookie):
        if wanted is not None and wanted in CATALOGUES:
            return wanted
    return _accepted(accept or "")


def _accepted(header: str) -> str:
    """The best of Accept-Language (RFC 9110, section 12.5.4): `zh-CN;q=0.9` counts as zh."""
    best, best_weight = DEFAULT, 0
    for part in header.split(",")[:20]:
        tag, _, parameter = part.strip().partition(";")
        language = tag.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if language in CATALOGUES and weight > best_weight:
            best, best_weight = language, weight
    return best


def _weight(parameter: str) -> int:
    """The q value in thousandths; 1000 when there is none, 0 when it is nonsense."""
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1000
    whole, _, fraction = value.strip().partition(".")
    digits = fraction[:3].ljust(3, "0")
    if whole not in {"0", "1"} or not digits.isdigit():
        return 0
    return min(1000, int(whole) * 1000 + int(digits))
