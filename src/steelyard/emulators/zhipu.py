"""Zhipu (bigmodel.cn, Z.ai), emulated: two forms of credential, codes as texts, one stop word, temperatures up to 1.

Facts: zai-sdk 0.2 for paths, fields and the token; docs.bigmodel.cn for the codes, read 2026-11.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator

import msgspec

from steelyard.emulators import chat
from steelyard.emulators.chat import Body, Chat, event, thinking_type
from steelyard.emulators.script import Script
from steelyard.emulators.server import Heard, Piece, Whole

KEY_ID, SECRET = "emulated", "secret"
KEY = f"{KEY_ID}.{SECRET}"
RESET = "2026-12-01 08:00:00"


class Zhipu(Chat):
    name = "zhipu"
    base = "/api/paas/v4"
    models = ("glm-5.3", "glm-4.7-flash")
    errors = {
        "bad_request": (400, "1214"),
        "auth": (401, "1000"),
        "no_money": (429, "1113"),
        "rate_limited": (429, "1302"),
        "quota": (429, "1308"),
        "content": (400, "1301"),
        "model_missing": (400, "1211"),
        "server": (500, "1234"),
    }
    messages = {
        "auth": "身份验证失败。",
        "no_money": "您的账户已欠费，请充值后重试。",
        "quota": f"已达到 5 小时 的使用上限。您的限额将在 {RESET} 重置。",
        "model_missing": "模型不存在，请检查模型代码。",
    }
    ends = {"sensitive": "sensitive", "network": "network_error", "window": "model_context_window_exceeded"}

    def is_key(self, heard: Heard) -> bool:
        token = heard.headers.get("authorization", "").removeprefix("Bearer ")
        return token in {KEY, chat.KEY} or _is_signed(token)

    def error_body(self, message: str, inner: object) -> Body:
        return {"error": {"code": inner, "message": message}}

    def is_thinking(self, body: Body) -> bool:
        return (body.get("thinking") or {}).get("type", "enabled") == "enabled" and body.get(
            "reasoning_effort"
        ) != "none"

    def check(self, body: Body) -> None:
        for name in ("temperature", "top_p"):
            if body.get(name) is not None and not 0 < body[name] < 1:  # both ends are open
                raise self.refuse(f"{name} 参数非法。请检查文档")
        stop = body.get("stop")
        if stop is not None and not (isinstance(stop, list) and len(stop) == 1):
            raise self.refuse("stop 参数非法。请检查文档")
        if body.get("reasoning_effort", "max") not in {"low", "high", "max"}:
            raise self.refuse("reasoning_effort 参数非法。请检查文档")
        if thinking_type(body) not in {None, "enabled", "disabled"}:
            raise self.refuse("thinking 参数非法。请检查文档")

    def other(self, heard: Heard) -> Whole | None:
        if heard.path != f"{self.base}/tokenizer":
            return None
        tokens = self.script(heard.body).prompt_tokens
        return Whole(200, {"id": "emulated", "request_id": "1", "usage": {"prompt_tokens": tokens}})

    def closing(self, body: Body, script: Script, end: Body) -> Iterator[Piece]:
        """The counts ride on the last chunk, asked for or not."""
        yield event(end | ({"usage": self.usage(script)} if script.is_counted else {}))


def _is_signed(token: str) -> bool:
    """A token as zai-sdk makes it. Its times are not looked at: this is no vendor."""
    try:
        head, claims, signature = token.split(".")
        wanted = hmac.digest(SECRET.encode(), f"{head}.{claims}".encode(), hashlib.sha256)
        said = msgspec.json.decode(_decoded(claims), type=dict[str, str | int])
        header = msgspec.json.decode(_decoded(head), type=dict[str, str])
        lives_ms = int(said["exp"]) - int(said["timestamp"])
    except (ValueError, KeyError):
        return False
    is_ours = said.get("api_key") == KEY_ID and hmac.compare_digest(_decoded(signature), wanted)
    return is_ours and header.get("sign_type") == "SIGN" and header.get("alg") == "HS256" and 0 < lives_ms <= 3_600_000


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
