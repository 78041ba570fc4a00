"""Forms, however they are cut on the way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.multipart import Data, Multipart, Part, PartEnd, boundary_of
from steelyard.kernel.errors import CallerError

BOUNDARY = b"xyz"


def form(*parts: tuple[str, bytes]) -> bytes:
    made = b"".join(b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (h.encode(), d) for h, d in parts)
    return made + b"--xyz--\r\n"


def read(data: bytes, *cuts: int) -> list[tuple[str, str | None, bytes]]:
    reader, found = Multipart(BOUNDARY), []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        for token in reader.feed(data[start:end]):
            match token:
                case Part(name, filename):
                    found.append([name, filename, b"", False])
                case Data(piece):
                    found[-1][2] += piece
                case PartEnd():
                    found[-1][3] = True
    assert all(part[3] for part in found)
    assert reader.finished
    return [tuple(part[:3]) for part in found]


TRICKY = b"a\r\n--xy\r\n--xz\r\n\r\n-- \r"


@given(st.lists(st.integers(0, 400), max_size=30))
def test_a_form_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    data = form(('name="purpose"', b"batch"), ('name="file"; filename="a.jsonl"', TRICKY), ("name=empty", b""))
    whole = [("purpose", None, b"batch"), ("file", "a.jsonl", TRICKY), ("empty", None, b"")]
    assert read(data, *(min(cut, len(data)) for cut in cuts)) == whole


def test_every_single_cut() -> None:
    data = form(('name="purpose"', b"batch"), ('name="file"; filename="a.jsonl"', TRICKY))
    assert {repr(read(data, at)) for at in range(len(data))} == {repr(read(data))}


def test_names_as_browsers_and_libraries_quote_them() -> None:
    data = form(('name="file"; filename="a \\"b\\" %22c%22.jsonl"', b"1"), ("NAME=x", b"2"))
    assert read(data) == [("file", 'a "b" "c".jsonl', b"1"), ("x", None, b"2")]


@pytest.mark.parametrize(
    "data",
    [
        b"--xyz\r\nContent-Type: text/plain\r\n\r\n1\r\n--xyz--",
        b"--xyz\r\n\r\n1\r\n--xyz--",
        b"--xyzzy\r\n",
        b"--xyz\r\n" + b"a" * 9000,
        form(*[(f'name="n{n}"', b"") for n in range(17)]),
    ],
)
def test_broken_forms_are_refused(data: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        read(data)
    assert caught.value.status == 400


def test_what_is_no_form_is_refused() -> None:
    assert boundary_of('multipart/form-data; charset=x; boundary="a b"') == b"a b"
    assert boundary_of("Multipart/Form-Data;boundary=ab") == b"ab"
    for wrong in (None, "application/json", "multipart/form-data", "multipart/mixed; boundary=x"):
        with pytest.raises(CallerError) as caught:
            boundary_of(wrong)
        assert caught.value.status == 415
