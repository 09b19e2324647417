"""Runs many slow streams at once through the whole service, and checks each word by word.

The fake engine repeats the words of its prompt at a fixed rate. The measurement is the memory that
an open stream takes in the ingress.
"""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.load.generator import Load
from scripts.benchmark.load.measurement import Generator
from scripts.benchmark.stacks.launch import Model
from scripts.benchmark.stacks.process_cost import classify, pss_kb, read_title, tree
from scripts.benchmark.stacks.running import Interrupts, Running, started
from scripts.benchmark.stacks.stacks import Stack

TOKENS = 60
TARGET_KB = 60


def run_streams(
    count: int, tokens_per_s: int, stack: Stack, out: Path, interrupts: Interrupts
) -> int:
    """Start the service, hold `count` streams open and report; return 1 if any was wrong."""
    print(f"[bench] starting {stack.name} with the fake engine", flush=True)
    model = Model("fake", "fake:", {"tokens_per_s": tokens_per_s})
    with started(stack, model, out / "logs" / "streams.log", interrupts) as running:
        _measure(running, min(count, 20), tokens_per_s)  # warm-up: memory that is allocated once
        figures = _measure(running, count, tokens_per_s)
    wrong, per_stream_kb = figures["errors"], figures["ingress_kb_per_stream"]
    (out / "results.json").write_text(json.dumps(figures, indent=1))
    print(
        f"{count} streams, {TOKENS} tokens each: {wrong} wrong, {figures['tokens']} tokens in "
        f"{figures['wall_s']:.1f} s\n"
        f"first token p50 {figures['ttft_p50_ms']:.0f} ms (the engine takes "
        f"{1000 / tokens_per_s:.0f}), p95 {figures['ttft_p95_ms']:.0f} ms; gap p50 "
        f"{figures['gap_p50_ms']:.0f} ms, p99 {figures['gap_p99_ms']:.0f} ms\n"
        f"ingress: {per_stream_kb:.0f} KB of memory per stream (target: at most {TARGET_KB}), "
        f"{figures['ingress_before_kb'] / 1024:.0f} MB before\n"
        f"load generator: {figures['load_cores']:.2f} cores"
    )
    for sample in figures["error_samples"]:
        print(f"wrong: {sample}")
    return int(wrong > 0 or figures["tokens"] != count * TOKENS)


def _measure(running: Running, count: int, tokens_per_s: int) -> dict[str, Any]:
    assert running.pid
    load = Load(
        base_url=running.base_url,
        key=running.key,
        model=running.model,
        concurrency=count,
        requests=count,
        max_tokens=TOKENS,
        first_number=count * 1000,
        has_warm_up=False,
        checks_text=True,
    )
    during: list[int] = []
    with contextlib.closing(Generator(load)) as generator:
        before_kb = ingress_kb(running.pid)
        pid, middle_s = running.pid, TOKENS / tokens_per_s / 2
        reader = threading.Timer(middle_s, lambda: during.append(ingress_kb(pid)))
        reader.daemon = True
        reader.start()
        started_at = time.monotonic()
        figures = generator.measure()
        reader.join(max(0.0, middle_s - (time.monotonic() - started_at)) + 5)
    figures["ingress_before_kb"] = before_kb
    figures["ingress_kb_per_stream"] = (during[0] - before_kb) / count if during else float("nan")
    return figures


def ingress_kb(root_pid: int) -> int:
    """Return the proportional set size of all ingress replicas in kB."""
    total_kb = 0
    for pid in tree(root_pid):
        with contextlib.suppress(OSError):  # it has ended
            if classify(read_title(pid)) == "ingress":
                total_kb += pss_kb(pid)
    return total_kb
