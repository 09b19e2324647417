"""One replica of an LLM: Ray's lifecycle around an engine, and the token channel's sending end."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

from ray import serve

from api.ports.text import Completion, Generation
from deployments.config.llm import LlmArgs
from deployments.engines.fakes import FakeLlmEngine
from deployments.engines.llm.vllm_chat import ChatOptions
from deployments.engines.llm.vllm_engine import VllmEngine
from deployments.engines.protocol import LlmEngine
from deployments.models.accounting import AccountedRequest, RequestAccounting
from deployments.models.engine_loading import load_engine
from deployments.models.fair_queue import FairQueue
from deployments.models.lora_adapters import Adapters
from deployments.transport.token_channel import ReplyTo, Sender, StreamEnd

_MAX_LORAS = 4
"""How many adapters one batch may hold unless the configuration says otherwise; vLLM's own is 1."""


class LlmReplica:
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: LlmArgs
    ) -> None:
        """Load the model; on the event loop, because vLLM ties itself to the one that runs."""
        self._engine = load_engine(args, partial(_build_engine, args))
        self._sender = Sender()
        self._accounting = RequestAccounting(
            args.id, "llm", FairQueue(self._engine.capacity, args.max_waiting)
        )
        self._get_adapter = _to_getter(Adapters(args, self._engine.load_adapter), args)

    async def complete(self, generation: Generation) -> Completion:
        """Write the whole answer; cancelling the call aborts the work."""
        async with self._take_in(generation) as work:
            adapter = await self._find_adapter(generation)
            completion = await self._engine.generate(generation, None, adapter, work)
            work.finish_reason = completion.choices[0].finish_reason
            return completion

    async def stream(self, generation: Generation, reply_to: ReplyTo) -> StreamEnd[Completion]:
        """Write piece by piece to `reply_to`; the call lasts until the last piece is sent."""
        async with self._take_in(generation) as work:
            with self._sender.open(reply_to) as writer:
                try:
                    adapter = await self._find_adapter(generation)
                    completion = await self._engine.generate(generation, writer.send, adapter, work)
                finally:
                    work.first_s = writer.first_s
                work.finish_reason = writer.finish_reason
            return StreamEnd(completion, writer.sent)

    def _take_in(self, generation: Generation) -> AbstractAsyncContextManager[AccountedRequest]:
        return self._accounting.track(generation.request_id, generation.context, generation.adapter)

    async def _find_adapter(self, generation: Generation) -> Any:
        return await self._get_adapter(generation.adapter) if generation.adapter else None

    async def capabilities(self) -> Mapping[str, Any]:
        """What the card of the model tells of it."""
        return self._engine.capabilities

    async def stats(self) -> dict[str, int]:
        """What is under way here; all but `pid`, `sockets` and `tasks` are 0 at rest.

        `sockets` are those of the token channel: one to each ingress replica that has asked.
        """
        return {
            "pid": os.getpid(),
            "requests": self._engine.unfinished_requests,
            "streams": self._sender.writers,
            "sockets": self._sender.peers,
            **self._accounting.stats(),
            "tasks": len(asyncio.all_tasks()),
        }

    async def check_health(self) -> None:
        """Prove that the engine works; Serve replaces the replica when this raises."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's processes with the replica."""
        if hasattr(self, "_sender"):
            self._sender.shut_down()
            self._engine.shut_down()
        if hasattr(self, "_accounting"):
            self._accounting.shut_down()


def _build_engine(args: LlmArgs, folder: str | None) -> LlmEngine:
    if folder is None:
        return FakeLlmEngine(args.engine)
    template = Path(args.chat_template).expanduser().read_text() if args.chat_template else None
    chat = ChatOptions(args.tool_call_parser, template, args.template_options)
    has_adapters = bool(args.adapters or args.adapters_dir)
    lora = {"enable_lora": True, "max_loras": _MAX_LORAS} if has_adapters else {}
    return VllmEngine(folder, {**lora, **args.engine}, args.stall_timeout_s, chat)


def _to_getter(adapters: Adapters, args: LlmArgs) -> Callable[[str], Awaitable[Any]]:
    """Tells Serve's router which adapters are here, so that it sends their requests here first."""
    most = args.engine.get("max_cpu_loras") or args.engine.get("max_loras") or _MAX_LORAS

    @serve.multiplexed(max_num_models_per_replica=most)
    async def get(name: str) -> Any:
        return await adapters.get(name)

    return cast(Callable[[str], Awaitable[Any]], get)


LLM = serve.deployment(
    name="LLM",
    # Whoever waits does so in the replica, where turns are fair: up to `max_waiting`.
    max_ongoing_requests=4096,
    max_queued_requests=1024,
    max_constructor_retry_count=1,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=660,  # above the ingress's request_timeout_s: streams finish
)(LlmReplica)
