"""What operators say about routing, and why requests went where they went.

Rows of rules are replaced when a rule changes: they decide nothing of what was served. Choices are for people.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from steelyard.storage.schema import metadata

routes = Table(
    "routes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("scope", String(8), nullable=False),  # "model", "key" or "upstream"
    Column("subject", String(128), nullable=False),  # the model's or upstream's name, or the key's id
    Column("policy", String(16), nullable=False),  # empty: the rule says nothing of it, like what follows
    Column("pinned", Text, nullable=False),  # JSON: upstreams, best first
    Column("guard", String(16), nullable=False),
    Column("fallbacks", Text, nullable=False),  # JSON: models, best first
    Column("answers_s", Integer, nullable=False, server_default="0"),  # of a key: how old an answer may be given again
    Column("set_ns", BigInteger, nullable=False),
    UniqueConstraint("scope", "subject"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("set_ns", BigInteger, nullable=False),
)

choices = Table(
    "choices",
    metadata,
    Column("request_id", LargeBinary(16), primary_key=True),  # of a usage row; most have none: they had no choice
    Column("way", LargeBinary, nullable=False),  # kernel.why.Way
)
