"""All measurements of one run: medians over rounds, ratios between stacks round by round."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmark.report.round_statistics import Spread, differences, ratios, to_spread
from scripts.benchmark.stacks.process_cost import SERVING

Figures = dict[str, Any]
Get = Callable[[Figures], float]


@dataclass(slots=True)
class Results:
    """Figures by stack, concurrency and round."""

    rig: str
    figures: dict[tuple[str, int, int], Figures] = field(default_factory=dict)

    def add(self, stack: str, number: int, figures: Figures) -> None:
        """Add one measurement."""
        self.figures[stack, figures["concurrency"], number] = figures

    @property
    def stacks(self) -> list[str]:
        """The stacks, in the order in which they were first measured."""
        return list(dict.fromkeys(stack for stack, _, _ in self.figures))

    @property
    def concurrencies(self) -> list[int]:
        """The concurrencies, ascending."""
        return sorted({concurrency for _, concurrency, _ in self.figures})

    def stacks_at(self, concurrency: int) -> list[str]:
        """Return the stacks that were measured at one concurrency."""
        return [
            stack
            for stack in self.stacks
            if any((stack, concurrency) == (name, count) for name, count, _ in self.figures)
        ]

    @property
    def baseline(self) -> str:
        """The stack that the others are compared with."""
        return "vllm" if "vllm" in self.stacks else self.stacks[0]

    def by_round(self, stack: str, concurrency: int, get: Get) -> dict[int, float]:
        """Return one figure by round."""
        return {
            number: get(figures)
            for (name, count, number), figures in self.figures.items()
            if (name, count) == (stack, concurrency)
        }

    def spread(self, stack: str, concurrency: int, get: Get) -> Spread | None:
        """Return the spread of one figure over the rounds."""
        return to_spread(list(self.by_round(stack, concurrency, get).values()))

    def ratio(
        self,
        stack: str,
        concurrency: int,
        get: Get,
        baseline: str = "vllm",
        base: Get | None = None,
    ) -> Spread | None:
        """Return the ratio of one figure to that (or another) of the baseline, round by round."""
        ours = self.by_round(stack, concurrency, get)
        return to_spread(ratios(ours, self.by_round(baseline, concurrency, base or get)))

    def difference(
        self, stack: str, concurrency: int, get: Get, baseline: str = "vllm"
    ) -> Spread | None:
        """Return one figure minus that of the baseline, round by round."""
        ours = self.by_round(stack, concurrency, get)
        return to_spread(differences(ours, self.by_round(baseline, concurrency, get)))

    def errors(self, stack: str, concurrency: int) -> int:
        """Return the number of failed streams of all rounds."""
        return int(sum(self.by_round(stack, concurrency, of("errors")).values()))


def of(name: str) -> Get:
    """Read a figure by its name."""
    return lambda figures: float(figures[name])


def cpu_of(*groups: str) -> Get:
    """Read the CPU µs per token of groups of processes together; NaN if none was measured."""

    def get(figures: Figures) -> float:
        cpu = figures.get("cpu_us_per_token", {})
        known = [cpu[group] for group in groups if group in cpu]
        return sum(known) if known else float("nan")

    return get


def busiest(figures: Figures) -> float:
    """Return CPU µs per token of the busiest process between engine and client."""
    cpu = figures.get("busiest_us_per_token", {})
    return max((cpu[group] for group in SERVING if group in cpu), default=float("nan"))


def memory_of(group: str) -> Get:
    """Read the memory of a group in MB."""
    return lambda figures: float(figures.get("memory_mb", {}).get(group, float("nan")))


def engine_cores(figures: Figures) -> float:
    """Return the CPU cores that the engine's processes took; 0 if they were not measured."""
    us_per_token = figures.get("cpu_us_per_token", {}).get("engine", 0.0)
    return float(us_per_token * figures["tokens_per_s"] / 1e6)


def count_cores() -> int:
    return len(os.sched_getaffinity(0))
