"""Replicas of models in the test's own process, without Ray."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from deployments.ingress.leases import LeasePool
from deployments.transport.request_channel import RequestSender
from deployments.transport.token_channel import Receiver
from tests.helpers.handles import LocalHandle
from tests.helpers.token_channel import UNMERGED

Replica = TypeVar("Replica")


@contextlib.asynccontextmanager
async def running_replica(cls: type[Replica], args: Any) -> AsyncIterator[Replica]:
    """Create a replica as Serve does; it must leave no task behind."""
    before = asyncio.all_tasks()
    replica = cls.__new__(cls)
    await replica.__init__(args)  # type: ignore[misc]  # Serve awaits the constructor too
    await asyncio.sleep(0)  # until it has looked for the ledger
    try:
        yield replica
    finally:
        replica.__del__()  # type: ignore[attr-defined]
        vars(replica).clear()  # the garbage collector calls `__del__` again
        left = asyncio.all_tasks() - before
        if left:
            await asyncio.wait(left, timeout=5)
    assert not asyncio.all_tasks() - before


@contextlib.asynccontextmanager
async def leasing(replica: Any) -> AsyncIterator[LeasePool]:
    """Yield a pool of leases of a replica, as an ingress replica has one; close them at the end."""
    receiver, sender, handle = Receiver(settings=UNMERGED), RequestSender(), LocalHandle(replica)
    pool = LeasePool(lambda: handle, receiver, sender)
    try:
        yield pool
    finally:
        pool.shut_down()
        await handle.lease.wait()
        sender.shut_down()
        receiver.shut_down()


def open_counts(stats: dict[str, int]) -> dict[str, int]:
    """The counts that must be zero at rest but are not."""
    ignored = {"pid", "sockets", "tasks"}
    return {name: count for name, count in stats.items() if count and name not in ignored}
