"""What every record is made of: a frozen msgspec struct, as a map or as an array."""

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A record that travels as a map (sockets, pages, command output). Those a worker keeps by the thousand say
    `gc=False`: they hold no cycles, and looking for some stops everything."""


class JournalRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record that travels as an array (journal frames); fields are only ever added at the end."""
