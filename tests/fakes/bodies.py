"""Bodies that no dialect can serve, made out of one that it can: for every dialect the same ways to go wrong.

`BROKEN` are whole bodies that are no JSON object; `spoilt` and `mutated` take a request apart. Nothing here knows a
dialect, so a new one is fuzzed by naming one good request of it.
"""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

BROKEN: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n",
    "no JSON": b"model=m&messages=Hello",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"model"',
    "an empty object": b"{}",
    "two objects": b"{} {}",
    "single quotes": b"{'model': 'm'}",
    "a zero byte": b"\0",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "a multipart form": b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n',
    "brackets without end": b'{"x": ' + b"[" * 100_000,
    "braces without end": b'{"x":' * 10_000,
}

HUGE = 10**40
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "\ud800", "\0", "x" * 10_000, -1, 0, 2**31, 2**63, HUGE, -HUGE])
    | st.sampled_from([float("nan"), float("inf"), float("-inf")])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
) | st.just(DEEP)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += places(inner, (*path, name))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at one place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy in which something is missing."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(value[path[0]], path[1:])
    return copy


def encoded(asked: Any) -> bytes:
    """As JSON, NaN and half surrogate pairs included."""
    return json.dumps(asked, separators=(",", ":")).encode()


def spoilt(asked: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """What no dialect serves, whatever it is: a name and a body each. All must be refused."""
    good = encoded(asked)
    for name in asked:
        yield f"{name} twice", good[:-1] + b"," + encoded({name: asked[name]})[1:]
    yield "an unknown field twice", good[:-1] + b',"x":1,"x":2}'
    yield "cut short", good[:-1]
    yield "something behind", good + b"x"
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "UTF-16", good.decode().encode("utf-16")
    for what, value in (
        ("NaN", b"NaN"),
        ("Infinity", b"-Infinity"),
        ("no UTF-8", b'"\xff"'),
        ("no text", b'"\\ud800"'),
    ):
        yield what, good[:-1] + b',"x":' + value + b"}"
    yield "too deep", good[:-1] + b',"x":' + encoded(DEEP) + b"}"
    yield "a number for the model", encoded({**asked, "model": 5})
    yield "an unknown model", encoded({**asked, "model": "nobody's"})
    yield "too large", encoded({**asked, "x": "word " * 2_100_000})


def mutated(asked: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """One thing wrong, or strange, anywhere."""
    good = encoded(asked)
    there = st.sampled_from(places(asked))
    return st.one_of(
        st.builds(lambda path, new: encoded(changed(asked, path, new)), there, JSON),
        st.builds(lambda path: encoded(without(asked, path)), there),
        st.builds(lambda name, new: encoded({**asked, name: new}), st.text(max_size=12), JSON),
        st.builds(lambda at: good[:at], st.integers(0, len(good) - 1)),
        st.builds(
            lambda at, junk: good[:at] + junk + good[at:], st.integers(0, len(good)), st.binary(min_size=1, max_size=4)
        ),
    )
