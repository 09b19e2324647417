from typing import Any

from deployments.discovery import DiscoveredModel
from deployments.ingress.load_times import LoadTimes


def model(state: Any, application: str = "m") -> DiscoveredModel:
    return DiscoveredModel(application, application, "llm", state, None, 0, {})


class Setup:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.times = LoadTimes(lambda: self.now_s)

    def pass_time(self, seconds: float, *models: DiscoveredModel) -> None:
        self.now_s += seconds
        self.times.update(models)


def test_loading_model_says_for_how_long() -> None:
    setup = Setup()
    setup.pass_time(0, model("starting"))
    setup.pass_time(7, model("starting"))

    assert setup.times.find_start_s(model("starting")) == 100
    assert setup.times.describe(model("starting")) == "loading for 7 s"


def test_time_is_known_once_the_model_is_loaded() -> None:
    setup = Setup()
    setup.pass_time(0, model("idle"))
    setup.pass_time(5, model("starting"))
    setup.pass_time(12, model("ready"))
    known_s = setup.times.find_load_time_s(model("ready"))
    setup.pass_time(50, model("idle"))
    setup.pass_time(50, model("starting"))

    assert known_s == 12
    line = "loading for 0 s; the last time it took 12 s"
    assert setup.times.describe(model("starting")) == line


def test_model_that_was_loaded_when_first_seen_has_no_time() -> None:
    setup = Setup()
    setup.pass_time(0, model("ready"))
    setup.pass_time(9, model("ready"))

    assert setup.times.find_load_time_s(model("ready")) is None
    assert setup.times.describe(model("ready")) is None


def test_load_that_failed_has_no_time() -> None:
    setup = Setup()
    setup.pass_time(0, model("starting"))
    setup.pass_time(9, model("failed"))
    setup.pass_time(9, model("ready"))

    assert setup.times.find_load_time_s(model("ready")) is None


def test_removed_model_is_forgotten() -> None:
    setup = Setup()
    setup.pass_time(0, model("starting"))
    setup.pass_time(3, model("ready"))
    setup.pass_time(1, model("ready", "other"))

    assert setup.times.find_load_time_s(model("ready")) is None
