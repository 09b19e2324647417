"""The tables in this version of the code; `migrations` creates them.

Text columns have no length: text that clients choose is capped before it is stored.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("models", JSON, nullable=False),  # list of globs
    Column("scopes", JSON, nullable=False),  # sorted list
    Column("limits", JSON, nullable=False),  # the fields of KeyLimits
    Column("priority", Text, nullable=False),
    Column("may_log_prompts", Boolean, nullable=False),
    Column("created_at_s", Double, nullable=False),
    Column("expires_at_s", Double),
    Column("is_disabled", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("previous_digest", LargeBinary),
    Column("previous_until_s", Double),
)

changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("version", BigInteger, nullable=False),
    Column("pepper_mark", LargeBinary, key="pepper_fingerprint"),  # `to_pepper_fingerprint`
    Column("min_reader", Text, nullable=False),  # the oldest revision whose code may use the tables
)
"""One row, whose version grows with every change of a key."""

usage = Table(
    "usage",
    metadata,
    Column("id", Text, primary_key=True),
    Column("time_s", Double, nullable=False),
    Column("day", Integer, nullable=False),  # days since 1970-01-01, UTC
    Column("request_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("user", Text),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text),
    Column("kind", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("image_steps", BigInteger, nullable=False),
    Column("image_pixel_steps", BigInteger, nullable=False),
    Column("queue_ms", Double),
    Column("ttft_ms", Double),
    Column("total_ms", Double, nullable=False),
    Column("finish_reason", Text),
    Column("error_code", Text),
    Column("is_streamed", Boolean, nullable=False),
    Index("usage_by_key", "key_id", "time_s"),
    Index("usage_by_time", "time_s"),
)
"""The fields of `UsageRecord` and the day."""

usage_days = Table(
    "usage_days",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),  # days since 1970-01-01, UTC
    Column("key_id", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("user", Text, primary_key=True),  # "" for none
    Column("model", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("image_steps", BigInteger, nullable=False),
    Column("image_pixel_steps", BigInteger, nullable=False),
)
"""Sums over records that are no longer in `usage`; each record is in one of the two tables."""
