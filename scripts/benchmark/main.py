"""Compares Triptych with bare vLLM, token for token: starts the stacks in turn, measures, reports.

Every round starts each stack, measures it at every concurrency and stops it; the next round takes
the stacks in the opposite order. Drift of the machine then cancels in the ratio of a round.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmark.arguments import Plan, read_plan
from scripts.benchmark.embeddings.comparison import run_embeddings
from scripts.benchmark.hostile.comparison import run_hostile
from scripts.benchmark.images.comparison import run_images
from scripts.benchmark.load.generator import Load
from scripts.benchmark.load.many_streams import run_streams
from scripts.benchmark.load.measurement import measure
from scripts.benchmark.report.report import Report
from scripts.benchmark.stacks.launch import Model, StackError
from scripts.benchmark.stacks.rigs import RIGS
from scripts.benchmark.stacks.running import Interrupts, Running, started
from scripts.benchmark.stacks.stacks import Stack
from scripts.service import process_tree


@dataclass(slots=True)
class Bench:
    """One run of the benchmark."""

    plan: Plan
    report: Report
    interrupts: Interrupts
    engine: dict[str, Any]  # the rig's options
    unusable: set[str] = field(default_factory=set)  # failed before their first measurement

    def run(self) -> None:
        """Run all measurements; the report has each one as soon as it is done."""
        if self.plan.target:
            for number in range(1, self.plan.rounds + 1):
                self._measure_all("url", self.plan.target, number)
            return
        rig = self.plan.rig
        model = Model(rig.model, str(rig.prepare(self.plan.home)), self.engine)
        for number in range(1, self.plan.rounds + 1):
            order = self.plan.stacks if number % 2 else self.plan.stacks[::-1]
            for stack in order:
                if stack.name not in self.unusable:
                    self._run_stack(stack, model, number)

    def _run_stack(self, stack: Stack, model: Model, number: int) -> None:
        say(f"round {number}: starting {stack.name}")
        log = self.plan.out / "logs" / f"{stack.name}-{number}.log"
        try:
            with started(stack, model, log, self.interrupts) as running:
                self._measure_all(stack.name, running, number)
        except StackError as failure:
            say(f"{stack.name} failed: {failure}")
            if not self.report.has_measured(stack.name):
                self.unusable.add(stack.name)
            self.report.add_failure(stack.name, number, str(failure))

    def _measure_all(self, name: str, running: Running, number: int) -> None:
        for concurrency in self.plan.concurrencies:
            load = Load(
                base_url=running.base_url,
                key=running.key,
                model=running.model,
                concurrency=concurrency,
                requests=self.plan.requests or self.plan.rig.requests(concurrency),
                max_tokens=self.plan.max_tokens or self.plan.rig.max_tokens,
                ignores_eos=running.pid is not None,
                context_words=self.plan.rig.context_words,
                shares_context=self.plan.rig.shares_context,
                first_number=(number * 1000 + concurrency) * 100_000,
            )
            figures = measure(load, running.pid)
            self.report.add(name, number, figures)
            say(to_line(name, number, figures))


def to_line(name: str, number: int, figures: dict[str, Any]) -> str:
    cpu = ", ".join(
        f"{group} {us:.0f}" for group, us in figures.get("cpu_us_per_token", {}).items()
    )
    return (
        f"round {number}  {name}  c={figures['concurrency']}  {figures['tokens_per_s']:.0f} tok/s  "
        f"TTFT {figures['ttft_p50_ms']:.1f} ms  gap p99 {figures['gap_p99_ms']:.1f} ms  "
        f"{figures['chunks_per_token']:.2f} chunks/token  errors {figures['errors']}  "
        f"load generator {figures['load_cores']:.2f} cores" + (f"  µs/token: {cpu}" if cpu else "")
    )


def main() -> int:
    plan = read_plan(sys.argv[1:])
    interrupts = Interrupts()
    (plan.out / "logs").mkdir(parents=True, exist_ok=True)
    try:
        if plan.kind == "embeddings":
            return run_embeddings(plan.out, plan.home, plan.rounds, plan.peers, interrupts)
        if plan.kind == "images":
            return run_images(plan.out, plan.rounds, interrupts)
        if plan.kind == "hostile":
            rig = RIGS["engine"]
            model = Model(rig.model, str(rig.prepare(plan.home)), rig.engine_here())
            return run_hostile(plan.stacks, model, plan.out, interrupts)
        if plan.streams:
            return run_streams(
                plan.streams, plan.stream_tokens_per_s, plan.triptych, plan.out, interrupts
            )
        return run(plan, interrupts)
    except StackError as failure:
        print(f"scripts/bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        process_tree.kill(process_tree.descendants())


def run(plan: Plan, interrupts: Interrupts) -> int:
    about: dict[str, Any] = {"command": plan.command, "rig": plan.rig.name}
    engine = about["engine"] = {} if plan.target else plan.rig.engine_here()
    about["stacks"] = [stack.describe() for stack in plan.stacks] if not plan.target else []
    bench = Bench(plan, Report(plan.out, about), interrupts, engine)
    is_interrupted = False
    try:
        bench.run()
    except KeyboardInterrupt:
        is_interrupted = True
        say("interrupted: reporting what was measured")
    with interrupts.held():
        print(bench.report.write())
    say(f"written to {shown(plan.out)}")
    return 130 if is_interrupted else int(bench.report.has_errors)


def shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def say(text: str) -> None:
    print(f"[bench] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
