import pytest

from steelyard.kernel.address import Address, address_of


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
        ("my-vllm:8000", Address("my-vllm", 8000)),
        ("[::1]:8000", Address("::1", 8000)),
        ("http://127.0.0.1", Address("127.0.0.1", 80)),
        ("https://api.example", Address("api.example", 443, True)),
        ("https://api.example/", Address("api.example", 443, True)),
        ("https://[2001:db8::1]:8443/v1/", Address("2001:db8::1", 8443, True, "/v1")),
        ("https://ark.cn-beijing.volces.com/api/v3", Address("ark.cn-beijing.volces.com", 443, True, "/api/v3")),
    ],
)
def test_what_an_address_says(text: str, address: Address) -> None:
    assert address_of(text) == address


def test_the_api_lies_under_v1_unless_the_address_says_where() -> None:
    assert address_of("h:1").api("/chat/completions") == "/v1/chat/completions"
    assert address_of("https://h/api/v3").api("/chat/completions") == "/api/v3/chat/completions"
    assert address_of("https://h/engine").under("/health") == "/engine/health"


@pytest.mark.parametrize(
    "text",
    [
        *("", "h", "h:", "h:0", "h:70000", "h:80/v1", "ftp://h", "https://", "https://user:secret@h", "https://h/?a=1"),
        *("https://h/a b", "https://h/\r\nx: y", "h:80\r\n", "https://h//", "::1", f"https://{'h' * 300}"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|needs a port|has a port"):
        address_of(text)
