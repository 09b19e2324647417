"""The policies alone, and inside the factors and delays that Serve applies to every policy."""

import subprocess
import sys
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments import autoscaling
from deployments.autoscaling import IMAGE_STEPS, TOKENS, QueuedImageSteps, QueuedTokens


def context(
    steps: dict[str, float] | None = None,
    replicas: int = 1,
    requests: float = 0.0,
    queued: float = 0.0,
    **more: Any,
) -> AutoscalingContext:
    """What Serve passes to a policy; `steps` by replica, and the replicas are named a, b, …"""
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
    """The policy's own result."""
    policy = QueuedImageSteps(**{"target_steps": 100, "request_steps": 30, **options})
    return policy(context)[0]


def decided(context: AutoscalingContext) -> int:
    """The result after Serve's factors and delays."""
    policy = _apply_autoscaling_config(QueuedImageSteps(target_steps=100, request_steps=30))
    return policy(context)[0]


def test_replicas_are_pending_steps_divided_by_the_target() -> None:
    assert wanted(context({"a": 200.0, "b": 150.0}, 2, requests=9)) == 3.5


def test_few_requests_of_many_steps_want_more_replicas_than_many_of_few() -> None:
    heavy = wanted(context({"a": 2 * 10 * 50}, requests=2))
    light = wanted(context({"a": 20 * 1 * 4}, requests=20))

    assert (heavy, light) == (10.0, 1.0)


def test_target_is_configurable() -> None:
    assert wanted(context({"a": 800.0}), target_steps=200) == 4.0


def test_queued_request_counts_as_the_configured_steps() -> None:
    assert wanted(context({"a": 0.0}, requests=10, queued=10), request_steps=40) == 4.0


def test_without_reports_all_requests_count_as_the_configured_steps() -> None:
    assert wanted(context(None, requests=20, queued=5)) == 6.0


@pytest.mark.parametrize("metrics", [None, {}, {IMAGE_STEPS: {}}, {"other": {"a": 1e9}}])
def test_missing_metrics_change_nothing(metrics: Any) -> None:
    assert wanted(context(replicas=3, aggregated_metrics=metrics)) == 3


def test_no_scale_down_until_every_replica_has_reported() -> None:
    assert wanted(context({"a": 10.0, "b": 0.0}, replicas=3)) == 3


def test_missing_reports_do_not_prevent_scaling_up() -> None:
    assert wanted(context({"a": 500.0}, replicas=3)) == 5.0


def test_missing_count_of_queued_requests_counts_as_zero() -> None:
    assert wanted(context({"a": 100.0}, total_queued_requests=None)) == 1.0


def test_request_without_pending_steps_keeps_one_replica() -> None:
    assert wanted(context({"a": 0.0}, requests=0.2)) == 1.0


def test_idle_model_wants_no_replica() -> None:
    assert decided(context({"a": 0.0})) == 0


def test_idle_model_keeps_its_replica_during_the_downscale_delay() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=8, downscale_delay_s=60)

    assert decided(context({"a": 0.0}, config=config)) == 1


def test_first_request_starts_the_first_replica_at_once() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=8, upscale_delay_s=60)

    assert decided(context(replicas=0, requests=1, queued=1, config=config)) == 1


def test_starting_replica_is_kept_after_its_request_has_gone() -> None:
    assert decided(context(replicas=0, target_num_replicas=1)) == 1


def test_upscaling_factor_of_serve_applies() -> None:
    config = AutoscalingConfig(max_replicas=8, upscaling_factor=0.5, upscale_delay_s=0)

    assert decided(context({"a": 500.0}, config=config, requests=1)) == 3


def test_tokens_are_followed_as_steps_are() -> None:
    policy = QueuedTokens(target_tokens=1000, request_tokens=100)
    metrics = {TOKENS: {"a": 2000.0, "b": 400.0}, IMAGE_STEPS: {"a": 1e9}}

    wanted, _ = policy(context(replicas=2, queued=1, requests=9, aggregated_metrics=metrics))

    assert wanted == 2.5


@pytest.mark.parametrize("name", ["target_tokens", "request_tokens"])
@pytest.mark.parametrize("value", [0, -1, "many", None, True, float("nan"), float("inf")])
def test_tokens_must_be_a_positive_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        QueuedTokens(**{"target_tokens": 1000, name: value})


@pytest.mark.parametrize("name", ["target_steps", "request_steps"])
@pytest.mark.parametrize("value", [0, -1, "many", None, True, float("nan"), float("inf")])
def test_option_that_is_not_a_positive_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        QueuedImageSteps(**{name: value})


def test_policy_works_where_our_packages_are_not_installed() -> None:
    """Serve's controller gets the policy pickled by value, and may run on another node."""
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
