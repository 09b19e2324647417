"""The policy alone, and with what Serve puts around every policy."""

import subprocess
import sys
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments import autoscaling
from deployments.autoscaling import IMAGE_STEPS, QueuedImageSteps


def context(
    steps: dict[str, float] | None = None,
    replicas: int = 1,
    requests: float = 0.0,
    queued: float = 0.0,
    **more: Any,
) -> AutoscalingContext:
    """What Serve knows: `steps` by the names of replicas a, b, …, of which there are `replicas`."""
    known: dict[str, Any] = {
        "deployment_id": None,
        "deployment_name": "Diffusion",
        "app_name": "shapes",
        "current_num_replicas": replicas,
        "target_num_replicas": replicas,
        "running_replicas": list("abcdefgh"[:replicas]),
        "total_num_requests": requests,
        "total_queued_requests": queued,
        "aggregated_metrics": {} if steps is None else {IMAGE_STEPS: steps},
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": None,
        "config": AutoscalingConfig(
            min_replicas=0, max_replicas=8, upscale_delay_s=0, downscale_delay_s=0
        ),
    }
    return AutoscalingContext(**{**known, **more})


def wanted(context: AutoscalingContext, **options: float) -> float:
    """By the policy alone."""
    policy = QueuedImageSteps(**{"target_steps": 100, "request_steps": 30, **options})
    return policy(context)[0]


def decided(context: AutoscalingContext) -> int:
    """By the policy within Serve's factors and delays."""
    policy = _apply_autoscaling_config(QueuedImageSteps(target_steps=100, request_steps=30))
    return policy(context)[0]


def test_each_replica_has_about_the_target() -> None:
    assert wanted(context({"a": 200.0, "b": 150.0}, 2, requests=9)) == 3.5


def test_few_requests_of_many_steps_count_more_than_many_of_few() -> None:
    heavy = wanted(context({"a": 2 * 10 * 50}, requests=2))
    light = wanted(context({"a": 20 * 1 * 4}, requests=20))

    assert (heavy, light) == (10.0, 1.0)


def test_target_is_what_is_configured() -> None:
    assert wanted(context({"a": 800.0}), target_steps=200) == 4.0


def test_request_that_no_replica_has_yet_is_taken_for_some_steps() -> None:
    assert wanted(context({"a": 0.0}, requests=10, queued=10), request_steps=40) == 4.0


def test_without_any_report_requests_are_counted() -> None:
    assert wanted(context(None, requests=20, queued=5)) == 6.0


@pytest.mark.parametrize("metrics", [None, {}, {IMAGE_STEPS: {}}, {"other": {"a": 1e9}}])
def test_missing_figures_are_no_reason_to_change(metrics: Any) -> None:
    assert wanted(context(replicas=3, aggregated_metrics=metrics)) == 3


def test_nobody_is_sent_away_while_one_has_not_reported() -> None:
    assert wanted(context({"a": 10.0, "b": 0.0}, replicas=3)) == 3


def test_replicas_that_have_not_reported_do_not_keep_others_from_coming() -> None:
    assert wanted(context({"a": 500.0}, replicas=3)) == 5.0


def test_missing_count_of_queued_requests_is_none() -> None:
    assert wanted(context({"a": 100.0}, total_queued_requests=None)) == 1.0


def test_last_request_keeps_a_replica_though_its_steps_are_done() -> None:
    assert wanted(context({"a": 0.0}, requests=0.2)) == 1.0


def test_at_rest_none_is_wanted() -> None:
    assert decided(context({"a": 0.0})) == 0


def test_at_rest_serve_keeps_one_till_its_delay_is_over() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=8, downscale_delay_s=60)

    assert decided(context({"a": 0.0}, config=config)) == 1


def test_first_request_brings_the_first_replica_at_once() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=8, upscale_delay_s=60)

    assert decided(context(replicas=0, requests=1, queued=1, config=config)) == 1


def test_first_replica_is_waited_for() -> None:
    """Its request may be gone by now; it is not sent away before it has begun."""
    assert decided(context(replicas=0, target_num_replicas=1)) == 1


def test_serves_factor_applies() -> None:
    config = AutoscalingConfig(max_replicas=8, upscaling_factor=0.5, upscale_delay_s=0)

    assert decided(context({"a": 500.0}, config=config, requests=1)) == 3


@pytest.mark.parametrize("name", ["target_steps", "request_steps"])
@pytest.mark.parametrize("value", [0, -1, "many", None, True, float("nan"), float("inf")])
def test_options_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        QueuedImageSteps(**{name: value})


def test_policy_works_where_none_of_ours_is_installed() -> None:
    """Serve's controller gets it pickled by value, and may run on a node of its own."""
    cloudpickle.register_pickle_by_value(autoscaling)
    try:
        pickled = cloudpickle.dumps(QueuedImageSteps)
    finally:
        cloudpickle.unregister_pickle_by_value(autoscaling)
    code = (
        "import sys; sys.modules['deployments'] = sys.modules['api'] = None\n"
        "from types import SimpleNamespace as Context; from ray import cloudpickle\n"
        "policy = cloudpickle.loads(sys.stdin.buffer.read())(target_steps=100)\n"
        "print(policy(Context(running_replicas=['a'], total_num_requests=1, "
        "total_queued_requests=0, aggregated_metrics={'image_steps': {'a': 200.0}})))"
    )

    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True)

    assert done.stdout.decode().strip() == "(2.0, {})"
