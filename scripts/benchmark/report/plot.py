"""Draws throughput and latency by concurrency: a line per stack, bars over its rounds.

Where answers have one token, there are no gaps between chunks; the slowest first tokens take their
place.
"""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.benchmark.report.results import Get, Results, of

STREAM_PANELS = (
    ("tokens per second", "tokens_per_s"),
    ("time to first token, p50, ms", "ttft_p50_ms"),
    ("gap between chunks, p99, ms", "gap_p99_ms"),
)
REQUEST_PANELS = (
    ("requests per second", "requests_per_s"),
    ("time to first token, p50, ms", "ttft_p50_ms"),
    ("time to first token, p99, ms", "ttft_p99_ms"),
)


def draw(results: Results, path: Path) -> None:
    """Write the plot to a PNG file."""
    matplotlib.use("Agg")
    panels = STREAM_PANELS if has_gaps(results) else REQUEST_PANELS
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (title, name) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for stack in results.stacks:
            _draw_line(axes, results, stack, of(name))
        axes.set_title(title)
        axes.set_xlabel("concurrent streams")
        axes.set_xscale("log", base=2)
        axes.set_xticks(results.concurrencies, [str(count) for count in results.concurrencies])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"{results.rig} rig: medians over rounds, bars from least to greatest")
    figure.savefig(path, dpi=120)


def has_gaps(results: Results) -> bool:
    """Return whether any stream had more than one chunk."""
    gap = of("gap_p99_ms")
    return any(
        results.spread(stack, c, gap) for c in results.concurrencies for stack in results.stacks
    )


def _draw_line(axes: Axes, results: Results, stack: str, get: Get) -> None:
    points = {c: results.spread(stack, c, get) for c in results.concurrencies}
    known = {c: spread for c, spread in points.items() if spread}
    medians = [spread.median for spread in known.values()]
    below = [spread.median - spread.low for spread in known.values()]
    above = [spread.high - spread.median for spread in known.values()]
    axes.errorbar(list(known), medians, [below, above], marker="o", capsize=3, label=stack)
