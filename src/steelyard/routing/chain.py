"""A prompt as routing sees it: the chain of its blocks, the customer's session, and where it is at home.

Only done where there is more than one offer to choose from.
"""

from hashlib import blake2b

from steelyard.kernel import limits
from steelyard.kernel.offers import Capability
from steelyard.kernel.prefix import FINE, REACH, Prompt, chain_of, text_of
from steelyard.kernel.records import Caller, Order


def prompt_of(order: Order, caller: Caller) -> Prompt:
    """What the index needs to know of a request. `session` and `home` are the same in every worker."""
    session = (
        _digest(b"%d %s %s" % (caller.tenant_id, order.model.encode(), order.session[: limits.SESSION_BYTES_MAX]))
        if order.session
        else 0
    )
    if order.capability is not Capability.TEXT:
        return Prompt(session=session)
    text = text_of(order.params)
    chain = chain_of(order.model, text)
    home = _digest(order.model.encode() + text[:FINE]) if chain else 0
    return Prompt(chain, REACH, -(-(len(text) - 1) // FINE), session, home)


def _digest(text: bytes) -> int:
    """Never 0."""
    return int.from_bytes(blake2b(text, digest_size=7).digest(), "big") + 1
