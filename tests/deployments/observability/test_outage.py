import logging

import pytest

from deployments.observability.outage import Outage


def test_failure_and_its_end_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage(logging.getLogger("outage"))
    outage.end("well again")
    for number in range(2):
        outage.begin("failure %d", number)
    assert outage.is_present
    for _ in range(2):
        outage.end("well again")
    outage.begin("failure %d", 2)
    outage.end()

    assert not outage.is_present
    assert [record.getMessage() for record in caplog.records] == [
        "failure 0",
        "well again",
        "failure 2",
    ]
