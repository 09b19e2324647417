"""A fixture for modules whose tests must pass on both kinds of event loop."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    """Replicas run on uvloop, whose transports are not asyncio's."""
    return request.param()
