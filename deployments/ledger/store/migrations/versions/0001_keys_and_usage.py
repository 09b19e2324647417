"""Keys, their changes and usage."""

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    LargeBinary,
    Text,
    text,
)

revision = "0001"
down_revision = None
min_reader = "0001"


def upgrade() -> None:
    """Create the first tables."""
    _make_keys()
    _make_usage()


def _make_keys() -> None:
    op.create_table(
        "keys",
        Column("id", Text, primary_key=True),
        Column("name", Text, nullable=False, unique=True),
        Column("tenant", Text, nullable=False),
        Column("models", JSON, nullable=False),
        Column("scopes", JSON, nullable=False),
        Column("limits", JSON, nullable=False),
        Column("priority", Text, nullable=False),
        Column("may_log_prompts", Boolean, nullable=False),
        Column("created_at_s", Double, nullable=False),
        Column("expires_at_s", Double),
        Column("is_disabled", Boolean, nullable=False),
        Column("digest", LargeBinary, nullable=False),
        Column("previous_digest", LargeBinary),
        Column("previous_until_s", Double),
    )
    op.create_table(
        "changes",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("version", BigInteger, nullable=False),
        Column("pepper_mark", LargeBinary),
    )
    op.execute(text("INSERT INTO changes (id, version) VALUES (1, 1)"))


def _make_usage() -> None:
    op.create_table(
        "usage",
        Column("id", Text, primary_key=True),
        Column("time_s", Double, nullable=False),
        Column("day", Integer, nullable=False),
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
    )
    op.create_index("usage_by_key", "usage", ["key_id", "time_s"])
    op.create_index("usage_by_time", "usage", ["time_s"])
