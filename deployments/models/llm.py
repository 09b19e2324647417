"""Replica of an LLM: Ray's lifecycle around an engine."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

from ray import serve

from api.ports.text import Completion, Generation
from deployments.autoscaling import TOKENS
from deployments.config.llm import LlmArgs
from deployments.config.user_config import LiveArgs
from deployments.engines.fakes import FakeLlmEngine
from deployments.engines.llm.vllm_chat import ChatOptions
from deployments.engines.llm.vllm_engine import VllmEngine
from deployments.engines.protocol import LlmEngine
from deployments.engines.vllm_sources import check_vllm_options
from deployments.ledger.address import find_ledger
from deployments.ledger.client import LedgerClient
from deployments.models.accounting import AccountedRequest, RequestAccounting
from deployments.models.capabilities import PublishedCapabilities
from deployments.models.engine_loading import load_engine
from deployments.models.fair_queue import FairQueue
from deployments.models.fake_workers import FakeWorkers
from deployments.models.leases import Leases
from deployments.models.lora_adapters import Adapters
from deployments.models.pending_tokens import PendingTokens
from deployments.models.replica import ModelReplica
from deployments.transport.token_channel import StreamWriter

_MAX_LORAS = 4
"""Adapters in one batch unless the configuration sets it; vLLM's default is 1."""


class LlmReplica(ModelReplica[LlmArgs]):
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: LlmArgs
    ) -> None:
        """Load the model. Must run on the event loop: vLLM binds to the one that is running."""
        self._engine = load_engine(args, partial(_build_engine, args))
        self._leases = Leases(
            {"complete": (Generation, self._complete), "stream": (Generation, self._stream)}
        )
        self._capabilities = PublishedCapabilities(args, self._engine, self.cluster_store)
        self._args = LiveArgs(args)
        self._queue = FairQueue(self._engine.capacity, args.max_waiting)
        ledger = LedgerClient(find_ledger)
        self._accounting = RequestAccounting(args.id, "llm", self._queue, ledger)
        self._adapters = Adapters(args, self._engine.load_adapter)
        self._announce_adapter = _to_announcer(args)
        self._tokens = PendingTokens()
        await self._capabilities.publish()

    def _apply(self, args: LlmArgs) -> None:
        super()._apply(args)
        self._adapters.args = args

    async def _complete(self, generation: Generation, writer: StreamWriter) -> Completion:
        """Generate the whole completion."""
        async with self._track(generation, writer) as request:
            with writer, self._tokens.counting(generation, request):
                adapter = await self._find_adapter(generation)
                completion = await self._engine.generate(generation, None, adapter, request)
            request.finish_reason = completion.choices[0].finish_reason
            return completion

    async def _stream(self, generation: Generation, writer: StreamWriter) -> Completion:
        """Send the completion in deltas."""
        async with self._track(generation, writer) as request:
            with writer, self._tokens.counting(generation, request):
                try:
                    adapter = await self._find_adapter(generation)
                    completion = await self._engine.generate(
                        generation, writer.send, adapter, request
                    )
                finally:
                    request.first_s = writer.first_s
            request.finish_reason = writer.finish_reason
            return completion

    def _track(
        self, generation: Generation, writer: StreamWriter
    ) -> AbstractAsyncContextManager[AccountedRequest]:
        return self._accounting.track(
            generation.request_id, generation.context, generation.adapter, writer.send_waiting
        )

    async def _find_adapter(self, generation: Generation) -> Any:
        if not generation.adapter:
            return None
        adapter = await self._adapters.get(generation.adapter)
        await self._announce_adapter(generation.adapter)
        return adapter

    async def record_autoscaling_stats(self) -> dict[str, int]:
        """The metric that Serve polls and passes to `QueuedTokens`."""
        return {TOKENS: self._tokens.total}

    async def stats(self) -> dict[str, int]:
        """Counts of open requests and streams; all but `pid`, `sockets` and `tasks` are 0 at rest.

        `leases` are idle ones; `sockets` are those of the token channel, one per ingress replica.
        """
        return {
            "pid": os.getpid(),
            "requests": self._engine.unfinished_requests,
            "tokens": self._tokens.total,
            **self._leases.stats(),
            **self._accounting.stats(),
            "tasks": len(asyncio.all_tasks()),
        }

    async def check_health(self) -> None:
        """Raise if the engine does not work; Serve then replaces the replica."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's processes with the replica; its constructor may have failed half-way."""
        if hasattr(self, "_leases"):
            self._leases.shut_down()
            self._engine.shut_down()
        if hasattr(self, "_accounting"):
            self._capabilities.shut_down()
            self._accounting.shut_down()


def _build_engine(args: LlmArgs, folder: str | None) -> LlmEngine:
    if folder is None:
        return FakeLlmEngine(args.engine, FakeWorkers)
    template = Path(args.chat_template).expanduser().read_text() if args.chat_template else None
    chat = ChatOptions(args.tool_call_parser, template)
    check_vllm_options(args.engine, args.trust)
    lora: dict[str, Any] = (
        {"enable_lora": True, "max_loras": _MAX_LORAS} if args.takes_adapters else {}
    )
    options = {**lora, "trust_remote_code": "code" in args.trust, **args.engine}
    return VllmEngine(folder, options, args.stall_timeout_s, chat)


def _to_announcer(args: LlmArgs) -> Callable[[str], Awaitable[str]]:
    """Tell Serve's router which adapters are loaded here: it prefers this replica for them.

    Serve keeps the names only: adapters that it kept would never be read again.
    """
    most = args.engine.get("max_cpu_loras") or args.engine.get("max_loras") or _MAX_LORAS

    @serve.multiplexed(max_num_models_per_replica=most)
    async def announce(name: str) -> str:
        return name

    return cast(Callable[[str], Awaitable[str]], announce)


LLM = serve.deployment(
    name="LLM",
    # Requests wait in the replica's fair queue, up to `max_waiting`, and not in Serve.
    max_ongoing_requests=4096,
    max_queued_requests=1024,
    max_constructor_retry_count=1,
    # A frozen replica is replaced after three failed checks, within 20 s.
    health_check_period_s=2,
    health_check_timeout_s=3,
    max_surge_percent=100,  # a new version must run before the old one stops
    graceful_shutdown_timeout_s=660,  # above the ingress's request_timeout_s: streams finish
)(LlmReplica)
