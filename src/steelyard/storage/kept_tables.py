"""Tables of what customers keep here for a while: answers to repeat, responses, files, batches. Rows change and go.

Times are int64 nanoseconds since 1970 UTC, ids sixteen bytes.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from steelyard.storage.schema import metadata

# --- idempotency --------------------------------------------------------------------------------------------------

answers = Table(
    "answers",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("key", String(255), primary_key=True),  # as the customer sent it
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("request_id", LargeBinary(16), nullable=False),
    Column("series", String(64), nullable=False),  # journal series of the worker that runs or ran it
    Column("state", String(8), nullable=False),  # a ledger.answers.State
    Column("changed_ns", BigInteger, nullable=False, index=True),
    Column("headers", LargeBinary),
    Column("body", LargeBinary),  # customer data; null when there is none or it is no longer kept
)

# --- stored responses ---------------------------------------------------------------------------------------------

responses = Table(
    "responses",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),  # of the request that made it
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("project_id", Integer, nullable=False),
    Column("previous_id", LargeBinary(16)),  # the response it goes on from
    Column("created_ns", BigInteger, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("input", LargeBinary, nullable=False),  # customer data, JSON: the request's own items
    Column("body", LargeBinary, nullable=False),  # customer data, JSON: the response as it was answered
)

# --- files and batches of customers -------------------------------------------------------------------------------

files = Table(
    "files",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),  # also names its content in the data directory
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("project_id", Integer, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),  # as the customer wrote it; no path is ever made of it
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, index=True),  # null: kept until it is deleted
    Index(None, "project_id", "id"),
)

jobs = Table(  # a customer calls one a batch; here that word means a posting batch
    "jobs",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("project_id", Integer, nullable=False),
    Column("key_id", Integer, nullable=False),  # who pays for its lines
    Column("endpoint", String(64), nullable=False),
    Column("input_id", LargeBinary(16), nullable=False),
    Column("output_id", LargeBinary(16), nullable=False),  # given at the start, a file once the job has ended
    Column("error_id", LargeBinary(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),  # a jobs.records.JobState
    Column("series", String(64), nullable=False),  # of the worker that runs it; empty: nobody does
    Column("metadata", Text, nullable=False),  # JSON, the customer's own
    Column("kept_s", BigInteger, nullable=False),  # how long its files are kept
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("problems", Text, nullable=False),  # JSON: why its file is no batch
    Column("output_bytes", BigInteger, nullable=False),
    Column("error_bytes", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("deadline_ns", BigInteger, nullable=False),
    Column("in_progress_ns", BigInteger),
    Column("finalizing_ns", BigInteger),
    Column("cancelling_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Index(None, "project_id", "id"),
)
