"""Progress lines of a training stage."""

import time


class Progress:
    """Prints a stage's step, loss and time to go, every ten seconds."""

    def __init__(self, stage: str, steps: int) -> None:
        """Begin a stage."""
        self._stage, self._steps = stage, steps
        self._begun = self._told = time.monotonic()
        self._losses: list[float] = []

    def show(self, step: int, loss: float) -> None:
        """Note a step, and print if it is time to."""
        self._losses.append(loss)
        now = time.monotonic()
        if now - self._told < 10 and step != self._steps:
            return
        to_go_s = (now - self._begun) / step * (self._steps - step)
        mean = sum(self._losses) / len(self._losses)
        line = f"{self._stage:8} {step:6}/{self._steps}  loss {mean:.4f}"
        print(f"{line}  {to_go_s / 60:5.1f} min to go", flush=True)
        self._told, self._losses = now, []
