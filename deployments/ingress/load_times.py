"""How long each model takes to load, as seen by one ingress replica."""

import time
from collections.abc import Callable, Iterable

from deployments.discovery import DiscoveredModel


class LoadTimes:
    """When models began to load, and how long it took the last time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without having seen any; `clock` returns seconds."""
        self._clock = clock
        self._starts_s: dict[str, float] = {}
        self._times_s: dict[str, float] = {}

    def update(self, models: Iterable[DiscoveredModel]) -> None:
        """Note the states of all models; others are forgotten."""
        now_s = self._clock()
        starts_s, times_s = {}, {}
        for model in models:
            name = model.application
            start_s = self._starts_s.get(name)
            if model.state == "starting":
                starts_s[name] = now_s if start_s is None else start_s
            if name in self._times_s:
                times_s[name] = self._times_s[name]
            if model.state == "ready" and start_s is not None:
                times_s[name] = now_s - start_s
        self._starts_s, self._times_s = starts_s, times_s

    def find_start_s(self, model: DiscoveredModel) -> float | None:
        """When the model began to load, by the clock; None if it is not loading."""
        return self._starts_s.get(model.application)

    def find_load_time_s(self, model: DiscoveredModel) -> float | None:
        """How many seconds it took to load the last time; None if that has not been seen."""
        return self._times_s.get(model.application)

    def describe(self, model: DiscoveredModel) -> str | None:
        """Say in one line how long the model has been loading; None if it is not loading."""
        start_s = self.find_start_s(model)
        if start_s is None:
            return None
        line = f"loading for {self._clock() - start_s:.0f} s"
        load_time_s = self.find_load_time_s(model)
        return line if load_time_s is None else f"{line}; the last time it took {load_time_s:.0f} s"
