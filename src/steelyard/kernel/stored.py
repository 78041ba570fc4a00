"""The record of a stored response, as it passes between a worker, the books and their database. Only a shape."""

from steelyard.kernel.frozen import Record


class StoredResponse(Record, frozen=True):
    """An answer that can be asked for again and gone on from. `input` and `body` are JSON, and the customer's own text.

    `input` holds the items of its own request; those before it stand in the response `previous_id`.
    """

    id: bytes  # of the request that made it
    tenant_id: int
    project_id: int
    previous_id: bytes | None
    created_ns: int
    input: bytes
    body: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.input) + len(self.body)
