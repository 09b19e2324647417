"""The arguments of the ledger (`deployments.app:ledger`): database, Redis, audit log."""

from pydantic import ConfigDict, Field, field_validator

from deployments.config.base import Args
from deployments.config.urls import check_redis_url, to_async_url


class LedgerArgs(Args):
    """Where keys, limits and usage are kept."""

    live_keys = frozenset({"usage_retention_days"})

    # Errors are logged, and a URL may contain a password.
    model_config = ConfigDict(hide_input_in_errors=True)

    database: str | None = Field(
        None,
        description="database of keys and usage: `sqlite:///FILE` or `postgresql://…`; without it "
        "`TRIPTYCH_DATABASE_URL`, else `triptych.db` in the home folder",
    )
    redis: str | None = Field(
        None,
        description="keep limits in this Redis, `redis://…`; without it `TRIPTYCH_REDIS_URL`, else "
        "`limits.db` in the home folder",
    )
    audit_log: str | None = Field(
        None, description="file of JSON lines; without it `logs/audit.jsonl` in the home folder"
    )
    poll_interval_s: float = Field(1.0, gt=0, description="how often to look for changed keys")
    usage_retention_days: int = Field(
        90,
        ge=1,
        description="days until the records of single requests are summed up by day; today does "
        "not count",
    )

    @field_validator("database")
    @classmethod
    def _check_database(cls, url: str | None) -> str | None:
        if url is not None:
            to_async_url(url)
        return url

    @field_validator("redis")
    @classmethod
    def _check_redis(cls, url: str | None) -> str | None:
        if url is not None:
            check_redis_url(url)
        return url
