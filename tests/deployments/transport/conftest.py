from collections.abc import AsyncIterator, Iterator

import pytest

from deployments.transport.peers import ChannelSettings
from deployments.transport.token_channel import Receiver, Sender
from tests.helpers.token_channel import UNMERGED, Tap


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver(UNMERGED)
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender(ChannelSettings(linger_ms=50))
    yield sender
    sender.shut_down()


@pytest.fixture
def tap() -> Iterator[Tap]:
    tap = Tap()
    yield tap
    tap.close()
