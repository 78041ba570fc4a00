"""Zhipu (bigmodel.cn, Z.ai): a key or a token made from it, temperatures from 0 to 1, one stop word, codes as texts.

Facts: zai-sdk 0.2 (paths, token, temperatures), docs.bigmodel.cn (codes, efforts, tokenizer), read 2026-11.
"""

import base64
import hashlib
import hmac
from typing import Any

import msgspec

from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.faults import Fault
from steelyard.upstream.counting import CountAt
from steelyard.upstream.credential import Token
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.thinking import WORDS, thinking_of
from steelyard.upstream.vendor import ENDS, FAILED, Asked, Ends, Vendor, fields_of
from steelyard.upstream.whose import not_carried

SIGNED = "jwt:"
"""Begins a key of which only tokens are sent: `jwt:ID.SECRET`."""

_TOKEN_LIFE_MS = 210_000  # as long as the vendor's own SDK lets one live
_TOKEN_SENT_S = 180
_LEAST, _MOST = 0.01, 0.99  # the ends of both scales, as the vendor's own SDK writes them
_EFFORTS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "max", "max": "max"}
"""GLM-5.3 knows three; GLM-5.2 maps the others about so."""
_USER_CHARACTERS = range(6, 129)
_encode = msgspec.json.encode
_decode = msgspec.json.decode


def fields(asked: Asked) -> dict[str, Any]:
    """Refused by name: a temperature above 1, more than one stop text, a completion."""
    params = asked.params
    sent = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    wish = thinking_of(asked.upstream, params)
    thinking: dict[str, Any] = _decode(params["thinking"]) if "thinking" in params else {}
    kept = {name: thinking[name] for name in ("clear_thinking",) if thinking.get(name) is not None}
    if wish.on is not None or kept:
        sent["thinking"] = {"type": "disabled" if wish.on is False else "enabled", **kept}
    if wish.effort is not None and wish.on is not False:
        sent["reasoning_effort"] = _EFFORTS[wish.effort]
    if "tools" in params:
        sent["tool_stream"] = True  # calls come in pieces only if that is asked for
    if "temperature" in params:
        sent |= _heat(asked.upstream, _decode(params["temperature"], type=float))
    if "top_p" in params:
        sent["top_p"] = min(max(_decode(params["top_p"], type=float), _LEAST), _MOST)
    if "stop" in params:
        if len(asked.stops) > 1:
            raise not_carried(asked.upstream, "stop", "this model takes one text; send one")
        sent["stop"] = asked.stops
    if "user" in sent:
        user = _decode(sent.pop("user"))
        if isinstance(user, str) and len(user) in _USER_CHARACTERS:
            sent["user_id"] = user
    return sent


def _heat(upstream: str, heat: float) -> dict[str, Any]:
    if heat > 1:
        raise not_carried(upstream, "temperature", "this model takes at most 1")
    if heat <= 0:
        return {"do_sample": False, "temperature": _LEAST}
    return {"temperature": min(heat, _MOST)}


def token(key: str, now_ns: int) -> str:
    """The key itself or, of one that begins with SIGNED, a token of its own kind of JWT: times in milliseconds."""
    if not key.startswith(SIGNED):
        return key
    key_id, dot, secret = key.removeprefix(SIGNED).partition(".")
    if not (key_id and dot and secret):
        raise ValueError("a key to sign with is ID.SECRET")
    now_ms = now_ns // NS_PER_MS
    head = {"alg": "HS256", "sign_type": "SIGN"}
    claims = {"api_key": key_id, "exp": now_ms + _TOKEN_LIFE_MS, "timestamp": now_ms}
    said = b".".join(_part(_encode(each)) for each in (head, claims))
    return b".".join((said, _part(hmac.digest(secret.encode(), said, hashlib.sha256)))).decode()


def _part(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


ZHIPU = Vendor(
    fields=fields,
    faults=FaultTable(
        {
            Fault.BAD_REQUEST: "*/1210 */1212 */1213 */1214 */1215 */1231 */1261",
            Fault.AUTH: "*/1000 */1001 */1002 */1003 */1004 */1110 */1111 */1220",
            Fault.NO_MONEY: "*/1112 */1113 */1121",  # locked accounts among them
            Fault.MODEL_MISSING: "*/1211 */1221 */1222 */1311",
            Fault.CONTENT: "*/1300 */1301",
            Fault.QUOTA: "*/1304 */1308 */1309 */1310",  # two of them say until when
            Fault.RATE_LIMITED: "*/1302 */1303 */1305 */1312 */1313",
            Fault.SERVER: "*/500 */1120 */1230 */1234",
        },
        STATUSES,
    ),
    ends=Ends(
        ENDS | {"sensitive": "content_filter", "model_context_window_exceeded": "length", "network_error": FAILED}
    ),
    token=Token(token, _TOKEN_SENT_S),
    base="/api/paas/v4",
    completion_path="",
    count=CountAt("/tokenizer", ("messages", "tools")),
)
