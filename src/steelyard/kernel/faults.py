"""What was wrong when an upstream gave no answer, in one word that routing and messages to people both go by."""

from enum import StrEnum


class Fault(StrEnum):
    """The class of a failure; vendors' statuses and codes are put into these by tables in `upstream/`."""

    BAD_REQUEST = "bad_request"  # the request itself: no upstream would take it
    NOT_CARRIED = "not_carried"  # a field that this upstream has no word for; another may
    CONTENT = "content"  # blocked for what it says
    AUTH = "auth"  # our key is wrong, or may not do this
    NO_MONEY = "no_money"  # our account there is empty or locked: nothing mends it but a payment
    MODEL_MISSING = "model_missing"  # it does not serve this model, or not to us
    QUOTA = "quota"  # what we may use is used up until a moment that may be hours away
    RATE_LIMITED = "rate_limited"  # too many at once, or it is too busy: the same may do better in a moment
    SERVER = "server"  # it failed, could not be reached, or said what cannot be read

    @property
    def is_customers(self) -> bool:
        """He can mend it, so he may read why."""
        return self in _CUSTOMERS

    @property
    def is_ours(self) -> bool:
        """Our key, money or registration: nothing a customer could mend, so he is not told."""
        return self in _OURS


_CUSTOMERS = frozenset({Fault.BAD_REQUEST, Fault.NOT_CARRIED, Fault.CONTENT})
_OURS = frozenset({Fault.AUTH, Fault.NO_MONEY, Fault.MODEL_MISSING, Fault.QUOTA})


def fault_of(status: int) -> Fault:
    """What a status means where nothing else is known; 0 is no status."""
    if status in {429, 529}:
        return Fault.RATE_LIMITED
    return Fault.BAD_REQUEST if 400 <= status < 500 else Fault.SERVER
