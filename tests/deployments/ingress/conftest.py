from collections.abc import AsyncIterator

import pytest

from deployments.transport.token_channel import Receiver, Sender


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender()
    yield sender
    sender.shut_down()
