"""Users and tokens of one-api and new-api as tenants, keys and opening balances.

A token is kept as `sk-` and its text: our key store looks up the SHA-256 of what a customer sends, so his key goes on
working. Owns which tokens may come: none without end, none that could be guessed, none whose bounds would be lost.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from steelyard.imports.foreign_database import Foreign, Row
from steelyard.imports.names import fitting
from steelyard.imports.plan import Step, begun
from steelyard.imports.price_text import Left
from steelyard.imports.ratios import Ratios, nano_of_quota
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.money import text_from_nano

KEY_PREFIX = "sk-"
KEY_CHARACTERS_MIN = 32  # of one-api's first keys; looked up by a plain hash, a shorter one could be guessed
_ENABLED = 1
_FOR_EVER = -1
_CURRENCY = "USD"


class Tenancy(NamedTuple):
    """`prefix` stands before tenants' names; `loosen`: keys come also without the bounds that we cannot keep.

    What has ended by `now_ns` comes in no case.
    """

    source: str
    prefix: str = ""
    loosen: bool = False
    now_ns: int = 0


def tenant_groups(foreign: Foreign, tenancy: Tenancy, ratios: Ratios, left: list[Left]) -> list[tuple[Step, ...]]:
    """For each user the steps that make his tenant, his opening balance and his keys."""
    tokens: dict[int, list[Row]] = {}
    for token in foreign.rows("tokens"):
        if token.get("deleted_at") is None:
            tokens.setdefault(int(token["user_id"]), []).append(token)
    groups = []
    for user in foreign.rows("users"):
        if user.get("deleted_at") is not None:
            continue
        what = f"user {user['id']} ({user['username']})"
        if user.get("status") != _ENABLED:
            left.append(Left(what, f"It is switched off; it had {_dollars(user.get('quota'), ratios)}."))
            continue
        left += [Left(what, sentence) for sentence in _untold_user(user, ratios)]
        steps = [*_tenant(user, tenancy, ratios)]
        for token in tokens.pop(int(user["id"]), ()):
            steps += _key(user, token, tenancy, ratios, left)
        groups.append(tuple(steps))
    return groups


def _tenant(user: Row, tenancy: Tenancy, ratios: Ratios) -> Iterator[Step]:
    user_id = str(user["id"])
    name = fitting(f"{tenancy.prefix}{user['username']}", f"{tenancy.source}-{user_id}")
    yield Step("tenant", {"id": user_id, "name": name, "currency": _CURRENCY}, f"tenant {name}")
    amount_nano = nano_of_quota(int(user.get("quota") or 0), ratios.per_unit)
    if amount_nano > 0:
        used = _dollars(user.get("used_quota"), ratios)
        reason = f"opening balance from {tenancy.source} (user {user_id}, used before: {used})"
        payload = {"tenant": user_id, "amount": text_from_nano(amount_nano), "reason": reason}
        yield Step("balance", payload, f"opening balance of {name}: {text_from_nano(amount_nano)} {_CURRENCY}")


def _untold_user(user: Row, ratios: Ratios) -> Iterator[str]:
    quota = int(user.get("quota") or 0)
    if quota < 0:
        yield f"It owes {_dollars(-quota, ratios)}: book that by hand (steelyard wallet limit, then adjust)."
    group = str(user.get("group") or "default")
    if ratios.groups.get(group, ratios.group) != ratios.group:
        yield f"Its group {group} pays {ratios.groups[group]} times the ratios; here it pays as the group default."


def _key(user: Row, token: Row, tenancy: Tenancy, ratios: Ratios, left: list[Left]) -> Iterator[Step]:
    text = str(token.get("key") or "").strip()
    secret = text if text.startswith(KEY_PREFIX) else f"{KEY_PREFIX}{text}"
    what = f"key {begun(secret)} ({token.get('name') or token['id']}) of {user['username']}"
    bounds = list(_bounds(token))
    quota_nano = nano_of_quota(int(token.get("remain_quota") or 0), ratios.per_unit)
    limited = not token.get("unlimited_quota")
    if token.get("status") != _ENABLED or _has_ended(token, tenancy) or (limited and quota_nano <= 0):
        left.append(Left(what, "It is switched off, ended or used up."))
    elif len(text) < KEY_CHARACTERS_MIN:
        left.append(Left(what, f"It has fewer than {KEY_CHARACTERS_MIN} characters and could be guessed."))
    elif bounds and not tenancy.loosen:
        sentence = f"{'; '.join(bounds)}: keys here have no such bound. Give a new one, or --loosen it."
        left.append(Left(what, sentence[0].upper() + sentence[1:]))
    else:
        if bounds:
            left.append(Left(what, f"It comes without its bounds: {'; '.join(bounds)}."))
        payload = {
            "id": str(token["id"]),
            "tenant": str(user["id"]),
            "name": fitting(token.get("name"), f"token-{token['id']}"),
            "hash": hashlib.sha256(secret.encode()).hexdigest(),
            "shown": begun(secret),
        }
        yield Step("key", payload, what)
        if limited:
            budget = {"budget": text_from_nano(quota_nano), "every": "month"}
            told = f"{budget['budget']} {_CURRENCY}"
            yield Step(
                "limits", {"tenant": payload["tenant"], "key": payload["id"]} | budget, f"{what}: {told} a month"
            )
            left.append(Left(what, f"It may spend {told} more in all; here it may spend as much a month."))


def _ends_s(token: Row) -> int:
    return int(token.get("expired_time") or _FOR_EVER)


def _has_ended(token: Row, tenancy: Tenancy) -> bool:
    """Whether its time is over: there it is switched off only when somebody asks with it."""
    return _ends_s(token) != _FOR_EVER and _ends_s(token) * NS_PER_S <= tenancy.now_ns


def _bounds(token: Row) -> Iterator[str]:
    """What a token is bound to that a key of ours is not."""
    ends = _ends_s(token)
    if ends != _FOR_EVER:
        yield f"it ends on {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
    models = token.get("models") or (token.get("model_limits") if token.get("model_limits_enabled") else "")
    if models:
        yield "it is for some models only"
    if str(token.get("subnet") or token.get("allow_ips") or "").strip():
        yield "it is for some addresses only"


def _dollars(quota: object, ratios: Ratios) -> str:
    amount = int(quota) if isinstance(quota, int | str) and quota else 0
    return f"{text_from_nano(nano_of_quota(amount, ratios.per_unit))} {_CURRENCY}"
