from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config.ledger import LedgerArgs


@pytest.mark.parametrize(
    "args",
    [
        {"database": "mysql://u:opensesame@h/d"},
        {"database": "sqlite:///:memory:"},
        {"database": ""},
        {"redis": "http://u:opensesame@h"},
        {"redis": "redis://u:opensesame/more@h"},
        {"redis": ""},
        {"redis": ["redis://u:opensesame@h"]},
    ],
)
def test_invalid_url_is_refused_without_quoting_its_password(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(args))) as caught:
        LedgerArgs.model_validate(args)

    assert "opensesame" not in str(caught.value)


def test_urls_of_stores_are_kept_as_they_are() -> None:
    args = {"database": "postgresql://u:p@h/d", "redis": "rediss://u:p@h:1/2"}

    assert LedgerArgs.model_validate(args).model_dump(include=set(args)) == args


@pytest.mark.parametrize("days", [0, -1])
def test_records_are_kept_for_a_day_at_least(days: int) -> None:
    with pytest.raises(ValidationError, match="usage_retention_days"):
        LedgerArgs(usage_retention_days=days)
