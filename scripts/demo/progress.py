"""Progress lines of a training stage."""

import time


class Progress:
    """Prints a stage's step, loss and remaining time, every ten seconds."""

    def __init__(self, stage: str, steps: int) -> None:
        """Start a stage."""
        self._stage, self._steps = stage, steps
        self._begun = self._printed = time.monotonic()
        self._losses: list[float] = []

    def show(self, step: int, loss: float) -> None:
        """Record a step, and print a line if the last is ten seconds old."""
        self._losses.append(loss)
        now = time.monotonic()
        if now - self._printed < 10 and step != self._steps:
            return
        remaining_s = (now - self._begun) / step * (self._steps - step)
        mean = sum(self._losses) / len(self._losses)
        line = f"{self._stage:8} {step:6}/{self._steps}  loss {mean:.4f}"
        print(f"{line}  {remaining_s / 60:5.1f} min to go", flush=True)
        self._printed, self._losses = now, []
