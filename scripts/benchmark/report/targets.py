"""Triptych's targets beside the other stacks, and the values that a run reached."""

from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmark.report.results import Get, Results, busiest, cpu_of, of
from scripts.benchmark.report.round_statistics import Spread
from scripts.benchmark.stacks.process_cost import SERVING

Reached = Callable[[Results, str, int], Spread | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound."""

    text: str
    rigs: tuple[str, ...]
    concurrency: int
    reached: Reached
    at_least: float | None = None
    at_most: float | None = None


def _ratio_of(name: str, baseline: str = "vllm") -> Reached:
    return lambda results, stack, c: results.ratio(stack, c, of(name), baseline)


def _cpu_of(get: Get) -> Reached:
    return lambda results, stack, c: results.ratio(stack, c, get)


SPEED, REQUESTS = ("serving", "capacity"), ("requests", "capacity-requests")
OWN_SERVER = "vs vllm's API server"
TARGETS = [
    *(
        Target(f"tok/s vs {peer}", SPEED, c, _ratio_of("tokens_per_s", peer), at_least=bound)
        for c in (64, 256)
        for peer, bound in (
            ("vllm", 1.05),
            ("vllm-rs", 0.95),
            ("litellm", 2),
            ("litellm-no-db", 2),
        )
    ),
    Target("tok/s vs ray-llm", SPEED, 64, _ratio_of("tokens_per_s", "ray-llm"), at_least=2.3),
    Target(
        f"CPU per token of the busiest serving process {OWN_SERVER}",
        SPEED,
        64,
        _cpu_of(busiest),
        at_most=0.35,
    ),
    Target(
        f"CPU per token of replica, ingress, ledger and proxy {OWN_SERVER}",
        SPEED,
        64,
        _cpu_of(cpu_of(*SERVING)),
        at_most=0.80,
    ),
    Target("gap p99 vs vllm", SPEED, 64, _ratio_of("gap_p99_ms"), at_most=1.0),
    *(
        Target(
            f"requests/s vs {peer}", REQUESTS, c, _ratio_of("requests_per_s", peer), at_least=bound
        )
        for c in (32, 64)
        for peer, bound in (("vllm", 1.0), ("vllm-rs", 0.6))
    ),
    Target("TTFT p50 vs vllm", REQUESTS, 32, _ratio_of("ttft_p50_ms"), at_most=1.0),
    Target(
        f"CPU per request of all serving processes {OWN_SERVER}",
        REQUESTS,
        32,
        _cpu_of(cpu_of(*SERVING, "other")),
        at_most=1.0,
    ),
    Target("tok/s vs vllm", ("engine",), 32, _ratio_of("tokens_per_s"), at_least=0.98),
    Target(
        "TTFT p50 minus vllm's, ms",
        ("serving", "engine", *REQUESTS),
        1,
        lambda results, stack, c: results.difference(stack, c, of("ttft_p50_ms")),
        at_most=1.5,
    ),
]


def to_rows(results: Results, stack: str) -> list[str]:
    """Format a row of Markdown for each target that the run has measured."""
    rows = []
    for target in TARGETS:
        if results.rig not in target.rigs:
            continue
        if spread := target.reached(results, stack, target.concurrency):
            bound = f"≥ {target.at_least}" if target.at_most is None else f"≤ {target.at_most}"
            text = f"{target.text}, c={target.concurrency}"
            reached = f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"
            answer = "yes" if is_met(target, spread.median) else "no"
            rows.append(f"| {stack} | {text} | {reached} | {bound} | {answer} |")
    return rows


def is_met(target: Target, value: float) -> bool:
    """Return whether a value meets the target."""
    if target.at_least is not None:
        return value >= target.at_least
    return target.at_most is None or value <= target.at_most
