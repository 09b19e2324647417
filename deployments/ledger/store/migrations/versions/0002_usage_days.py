"""Usage by day, and which versions of the code may use the tables."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text

revision = "0002"
down_revision = "0001"
min_reader = "0002"
"""Reports of 0001 would miss the usage of rolled-up days."""


def upgrade() -> None:
    """Add the table of days, and the column that schema_version.py writes `min_reader` to."""
    op.create_table(
        "usage_days",
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("key_id", Text, primary_key=True),
        Column("tenant", Text, primary_key=True),
        Column("user", Text, primary_key=True),
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
    op.add_column("changes", Column("min_reader", Text, nullable=False, server_default=min_reader))
