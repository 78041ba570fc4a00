"""The receipt of a request that still runs: what its open record says. Posted ones are made in reports.receipts."""

from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.settled import Opened, Receipt


def open_receipt(opened: Opened, tenant_id: int | None) -> Receipt | None:
    """What can be said of a request that still runs; None when it is another tenant's."""
    if tenant_id is not None and tenant_id != opened.tenant_id:
        return None
    return Receipt(
        request_id=text_from_id(opened.request_id),
        state="open",
        model=opened.model,
        opened_at=iso_from_ns(opened.opened_ns),
        closed_at=None,
        end=None,
        prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        tariff=opened.price_id,
        currency=opened.currency,
        lines=(),
        amount_nano=0,
        amount=text_from_nano(0),
        hold_nano=opened.hold_nano,
    )
