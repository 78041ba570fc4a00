"""Tables of the catalog: models, where they can be served, what they cost and are sold for, keys of vendors.

Times are int64 nanoseconds since 1970 UTC. Rows of `tariffs` are never updated or deleted.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from steelyard.storage.schema import metadata

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("default_max_tokens", Integer, nullable=False),
)

offers = Table(
    "offers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("upstream", String(128), nullable=False),
    Column("address", String(256), nullable=False),
    Column("upstream_model", String(256), nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("max_output_tokens", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("kind", String(32), nullable=False, server_default="llama_cpp"),  # which adapter speaks to it
    Column("capabilities", String(64), nullable=False, server_default="text"),  # words of Capability, comma-separated
    Column("weight", Integer, nullable=False, server_default="100"),  # the operator's, like what follows; 0: unbounded
    Column("concurrency", BigInteger, nullable=False, server_default="0"),
    Column("rpm", BigInteger, nullable=False, server_default="0"),
    Column("tpm", BigInteger, nullable=False, server_default="0"),
    Column("first_token_s", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("model_id", "upstream"),
)

tariffs = Table(
    "tariffs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("book", String(8), nullable=False),  # "price", "cost" or "rate"
    Column("subject", String(128), nullable=False),  # model name, upstream name or currency
    Column("currency", String(3), nullable=False),
    Column("effective_from_ns", BigInteger, nullable=False),
    Column("loaded_ns", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("watts_milli", Integer, nullable=False),
    Column("lines", Text, nullable=False),  # JSON list of TariffLine
    Column("tier", String(16), nullable=False, server_default=""),  # price book: which requests it is for
    Column("model", String(256), nullable=False, server_default=""),  # cost book: the upstream's name of the model
    Column("variants", Text, nullable=False, server_default="[]"),  # JSON list of Variant
    Column("marginal", Boolean, nullable=False, server_default=false()),
    Index(None, "book", "subject", "effective_from_ns"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("upstream", String(128), primary_key=True),
    Column("token", Text, nullable=False),  # the vendor's key, sealed with the master key; see upstream.sealed
    Column("shown", String(8), nullable=False),  # what people may see of it
    Column("set_ns", BigInteger, nullable=False),
)
