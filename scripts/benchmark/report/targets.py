"""Triptych's targets beside bare vLLM, and the values that a run reached."""

from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmark.report.results import Results, busiest, cpu_of, of
from scripts.benchmark.report.round_statistics import Spread
from scripts.benchmark.stacks.process_cost import SERVING


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound."""

    text: str
    rigs: tuple[str, ...]
    concurrency: int
    reached: Callable[[Results, str, int], Spread | None]
    at_least: float | None = None
    at_most: float | None = None


def _ratio_of(name: str, baseline: str = "vllm") -> Callable[[Results, str, int], Spread | None]:
    return lambda results, stack, c: results.ratio(stack, c, of(name), baseline)


TARGETS = [
    Target("tok/s vs vllm", ("serving",), 64, _ratio_of("tokens_per_s"), at_least=1.00),
    Target("tok/s vs vllm", ("serving",), 256, _ratio_of("tokens_per_s"), at_least=1.00),
    Target(
        "CPU per token of the busiest serving process vs vllm's API server",
        ("serving",),
        64,
        lambda results, stack, c: results.ratio(stack, c, busiest),
        at_most=0.55,
    ),
    Target("requests/s vs vllm", ("requests",), 32, _ratio_of("requests_per_s"), at_least=1.00),
    Target("requests/s vs vllm", ("requests",), 64, _ratio_of("requests_per_s"), at_least=1.00),
    Target(
        "requests/s vs vllm-rs",
        ("requests",),
        32,
        _ratio_of("requests_per_s", "vllm-rs"),
        at_least=0.6,
    ),
    Target("TTFT p50 vs vllm", ("requests",), 32, _ratio_of("ttft_p50_ms"), at_most=1.00),
    Target(
        "CPU per request of all serving processes vs vllm's API server",
        ("requests",),
        32,
        lambda results, stack, c: results.ratio(stack, c, cpu_of(*SERVING, "other")),
        at_most=1.00,
    ),
    Target("tok/s vs vllm", ("engine",), 32, _ratio_of("tokens_per_s"), at_least=0.98),
    Target(
        "TTFT p50 minus vllm's, ms",
        ("serving", "engine"),
        1,
        lambda results, stack, c: results.difference(stack, c, of("ttft_p50_ms")),
        at_most=3,
    ),
    Target("gap p99 vs vllm", ("serving",), 64, _ratio_of("gap_p99_ms"), at_most=1.1),
    Target(
        "CPU per token of replica, ingress and proxy together vs vllm's API server",
        ("serving",),
        64,
        lambda results, stack, c: results.ratio(stack, c, cpu_of(*SERVING)),
        at_most=1.00,
    ),
    Target(
        "tok/s vs ray-llm", ("serving",), 64, _ratio_of("tokens_per_s", "ray-llm"), at_least=2.3
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
