"""MiniMax, emulated: its own form of an error (some under 200), reasoning within the text unless it is asked apart.

Facts: platform.minimax.io (codes, OpenAI dialect), read 2026-11. Which status goes with which code is not told there.
"""

from collections.abc import Iterator

import msgspec

from steelyard.emulators.chat import Body, Chat, thinking_type
from steelyard.emulators.script import Script


class MiniMax(Chat):
    name = "minimax"
    models = ("MiniMax-M3", "MiniMax-M2")
    errors = {
        "bad_request": (400, 2013),
        "auth": (401, 1004),
        "no_money": (200, 1008),
        "rate_limited": (200, 1002),
        "quota": (200, 2056),
        "content": (200, 1026),
        "server": (200, 1033),
    }
    messages = {"no_money": "insufficient balance", "rate_limited": "rate limit", "content": "input new_sensitive"}

    def error_body(self, message: str, inner: object) -> Body:
        return {"base_resp": {"status_code": inner, "status_msg": message}}

    def is_thinking(self, body: Body) -> bool:
        return thinking_type(body) != "disabled"

    def check(self, body: Body) -> None:
        if thinking_type(body) not in {None, "adaptive", "disabled"}:
            raise self.refuse("invalid params, thinking")

    def scripted(self, body: Body, script: Script) -> Script:
        if body.get("reasoning_split") or not script.reasoning:
            return script
        texts = ("<think>\n", *script.reasoning, "\n</think>\n\n", *script.texts)
        return msgspec.structs.replace(script, reasoning=(), texts=texts)

    def usage(self, script: Script) -> Body:
        return super().usage(script) | {"total_characters": 0}

    def thought(self, text: str) -> Body:
        return {"reasoning_details": [{"type": "reasoning.text", "text": text}]}

    def thoughts(self, script: Script) -> Iterator[Body]:
        """`scene: repeated`: each piece is all of it so far, as its older models tell it."""
        if script.scene != "repeated":
            yield from super().thoughts(script)
            return
        for end in range(1, len(script.reasoning) + 1):
            yield self.thought("".join(script.reasoning[:end]))
