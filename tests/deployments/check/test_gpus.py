"""Each rule with configurations that it accepts, and with those that it refuses."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.check.gpus import DEFAULT_UTILIZATION
from tests.helpers.spoilt_config import DIFFUSION, EMBEDDING, LLM, Change, problems

LLM_AT = "applications[1].deployments[0]"
ENGINE = "applications[1].args.engine"
RAY = {"distributed_executor_backend": "ray"}
PER_WORKER = {"env_vars": {"VLLM_RAY_PER_WORKER_GPUS": "0.5"}}


def llm(engine: dict[str, Any], actor: dict[str, Any] | None = None, **deployment: Any) -> Change:
    """Replace the language model's options, and those of its deployment."""

    def change(config: Any) -> None:
        application = config["applications"][LLM]
        application["args"]["engine"] = engine
        own = {} if actor is None else {"ray_actor_options": actor}
        application["deployments"] = [{"name": "LLM", **own, **deployment}]

    return change


def with_gpu_elsewhere(change: Change) -> Change:
    """Give a GPU to another model of the file."""

    def both(config: Any) -> None:
        change(config)
        options = config["applications"][DIFFUSION]["deployments"][0]["ray_actor_options"]
        options["num_gpus"] = 1

    return both


def sizes(tensor: int = 1, pipeline: int = 1, data: int = 1) -> dict[str, int]:
    return {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "data_parallel_size": data,
    }


def bundles(count: int, **first: float) -> list[dict[str, float]]:
    return [{"CPU": 1, "GPU": 1, **first}, *({"GPU": 1} for _ in range(count - 1))]


@pytest.mark.parametrize(
    "change",
    [
        llm({}),
        llm({}, {"num_gpus": 1}),
        llm(sizes(8), {"num_gpus": 8}),
        llm(sizes(2, 2), {"num_gpus": 4}),
        llm(sizes(2, 1, 2), {"num_gpus": 4.0}),
        llm({"tensor_parallel_size": None}, {"num_gpus": 1}),
        with_gpu_elsewhere(llm({})),
    ],
)
def test_model_with_the_gpus_that_it_needs_is_accepted(change: Change) -> None:
    assert problems(change) == []


@pytest.mark.parametrize("actor", [None, {}, {"num_gpus": 0}, {"num_gpus": None}])
def test_several_workers_without_gpus_are_accepted_in_a_file_for_cpus(actor: Any) -> None:
    assert problems(llm(sizes(2) | {"distributed_executor_backend": "mp"}, actor)) == []
    assert problems(llm(sizes(2), actor)) == []


def test_several_workers_without_gpus_are_refused_in_a_file_for_gpus() -> None:
    assert problems(with_gpu_elsewhere(llm(sizes(2)))) == [
        f"{LLM_AT}.ray_actor_options.num_gpus: tensor_parallel_size 2 needs 2 GPUs, not 0; set "
        "ray_actor_options: {num_gpus: 2}; over several nodes: placement_group_bundles: "
        "[{CPU: 1, GPU: 1}, {GPU: 1}], placement_group_strategy: PACK, and engine: "
        "{distributed_executor_backend: ray}"
    ]


@pytest.mark.parametrize(
    ("engine", "num_gpus", "reason"),
    [
        (sizes(8), 1, "tensor_parallel_size 8 needs 8 GPUs, not 1"),
        (sizes(8), 0.5, "tensor_parallel_size 8 needs 8 GPUs, not 0.5"),
        (sizes(2), 3, "tensor_parallel_size 2 needs 2 GPUs, not 3"),
        (sizes(1, 2), 1, "pipeline_parallel_size 2 needs 2 GPUs, not 1"),
        (sizes(1, 1, 2), 1, "data_parallel_size 2 needs 2 GPUs, not 1"),
        (
            {"prefill_context_parallel_size": 2},
            1,
            "prefill_context_parallel_size 2 needs 2 GPUs, not 1",
        ),
        (
            sizes(2, 2, 2),
            2,
            "tensor_parallel_size 2 x pipeline_parallel_size 2 x data_parallel_size 2 needs 8 "
            "GPUs, not 2",
        ),
    ],
)
def test_model_with_other_gpus_than_it_needs_is_one_line(
    engine: dict[str, Any], num_gpus: float, reason: str
) -> None:
    (line,) = problems(llm(engine, {"num_gpus": num_gpus}))

    assert line.startswith(f"{LLM_AT}.ray_actor_options.num_gpus: {reason}; set ray_actor_options")


def test_line_has_the_blocks_for_one_node_and_for_several() -> None:
    assert problems(llm(sizes(4), {"num_gpus": 1, "num_cpus": 3})) == [
        f"{LLM_AT}.ray_actor_options.num_gpus: tensor_parallel_size 4 needs 4 GPUs, not 1; set "
        "ray_actor_options: {num_gpus: 4}; over several nodes: placement_group_bundles: "
        "[{CPU: 3, GPU: 1}, {GPU: 1}, {GPU: 1}, {GPU: 1}], placement_group_strategy: PACK, and "
        "engine: {distributed_executor_backend: ray}"
    ]


def test_block_of_very_many_bundles_is_cut() -> None:
    (line,) = problems(llm(sizes(10**9), {"num_gpus": 1}))

    assert "{GPU: 1}, …] with 1000000000 bundles" in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("num_gpus", "block"),
    [(2, "{num_gpus: 1}, or engine: {tensor_parallel_size: 2}"), (1.5, "{num_gpus: 1}")],
)
def test_idle_gpus_are_one_line(num_gpus: float, block: str) -> None:
    assert problems(llm({}, {"num_gpus": num_gpus})) == [
        f"{LLM_AT}.ray_actor_options.num_gpus: vLLM needs 1 GPU, not {num_gpus:g}; set "
        f"ray_actor_options: {block}"
    ]


@pytest.mark.parametrize(
    ("engine", "deployment"),
    [
        (sizes(2) | RAY, {"placement_group_bundles": bundles(2)}),
        (
            sizes(8, 2) | RAY,
            {"placement_group_bundles": bundles(16), "placement_group_strategy": "PACK"},
        ),
        # The replica's node has all GPUs, so vLLM finds out by itself.
        (
            sizes(2),
            {"placement_group_bundles": bundles(2), "placement_group_strategy": "STRICT_PACK"},
        ),
        (RAY, {"placement_group_bundles": bundles(1)}),
        (sizes(2) | RAY, {"placement_group_bundles": [{"CPU": 1}, {"GPU": 1}, {"GPU": 1}]}),
        # Processes of the replica, which is in the first bundle.
        (
            sizes(2) | {"distributed_executor_backend": "mp"},
            {
                "placement_group_bundles": [{"CPU": 1, "GPU": 2}],
                "ray_actor_options": {"num_gpus": 2},
            },
        ),
        ({}, {"placement_group_bundles": bundles(1), "ray_actor_options": {"num_gpus": 1}}),
        # Two workers on one GPU.
        (
            sizes(2) | RAY,
            {
                "placement_group_bundles": [{"CPU": 1, "GPU": 0.5}, {"GPU": 0.5}],
                "ray_actor_options": {"runtime_env": PER_WORKER},
            },
        ),
    ],
)
def test_bundles_with_room_for_each_worker_are_accepted(
    engine: dict[str, Any], deployment: dict[str, Any]
) -> None:
    assert problems(llm(engine, **deployment)) == []


@pytest.mark.parametrize(
    ("given", "has"),
    [
        (bundles(3), "3 in 3"),
        (bundles(5), "5 in 5"),
        ([{"CPU": 1, "GPU": 2}, {"GPU": 2}], "4 in 2"),
        ([{"CPU": 1, "GPU": 4}], "4 in 1"),
        ([{"CPU": 1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}, {"GPU": 0.5}], "3.5 in 4"),
        ([{"CPU": 1}], "0 in 0"),
    ],
)
def test_bundles_without_room_for_each_worker_are_one_line(
    given: list[dict[str, float]], has: str
) -> None:
    assert problems(llm(sizes(2, 2) | RAY, placement_group_bundles=given)) == [
        f"{LLM_AT}.placement_group_bundles: tensor_parallel_size 2 x pipeline_parallel_size 2 "
        f"needs 4 GPUs, each in a bundle of its own, not {has}; set placement_group_bundles: "
        "[{CPU: 1, GPU: 1}, {GPU: 1}, {GPU: 1}, {GPU: 1}], placement_group_strategy: PACK"
    ]


def test_replica_that_takes_the_gpu_of_a_worker_is_one_line() -> None:
    change = llm(sizes(2) | RAY, {"num_gpus": 1}, placement_group_bundles=bundles(2))

    assert problems(change) == [
        f"{LLM_AT}.ray_actor_options.num_gpus: the workers take the GPUs of "
        "placement_group_bundles, so none is left for the replica itself; leave it out"
    ]


def test_bundles_that_may_be_on_several_nodes_need_the_ray_backend() -> None:
    assert problems(llm(sizes(2), placement_group_bundles=bundles(2))) == [
        f"{ENGINE}.distributed_executor_backend: without it vLLM fails if the bundles are on "
        "several nodes; set engine: {distributed_executor_backend: ray}, or "
        "placement_group_strategy: STRICT_PACK for one node"
    ]


@pytest.mark.parametrize("actor", [None, {"num_gpus": 2}])
def test_ray_backend_without_bundles_is_one_line(actor: Any) -> None:
    assert problems(llm(sizes(2) | RAY, actor)) == [
        f"{ENGINE}.distributed_executor_backend: ray takes the GPUs of placement_group_bundles; "
        "set placement_group_bundles: [{CPU: 1, GPU: 1}, {GPU: 1}], placement_group_strategy: PACK"
    ]


def test_data_parallel_ranks_over_ray_are_one_line() -> None:
    change = llm(sizes(2, 1, 2) | RAY, placement_group_bundles=bundles(4))

    assert problems(change) == [
        f"{ENGINE}.data_parallel_size: over Ray every rank would wait for the same bundles; on one "
        "node set ray_actor_options: {num_gpus: 4} without placement_group_bundles and "
        "distributed_executor_backend; over several nodes num_replicas instead"
    ]


def test_bundles_of_processes_that_are_not_ray_actors_must_not_idle() -> None:
    change = llm({}, {"num_gpus": 1}, placement_group_bundles=bundles(2))

    assert problems(change) == [
        f"{LLM_AT}.placement_group_bundles: vLLM needs 1 GPU, all in the replica's own bundle, "
        "not 2; leave placement_group_bundles out"
    ]


def test_replica_without_the_gpu_of_its_bundle_is_one_line() -> None:
    assert problems(llm({}, placement_group_bundles=bundles(1))) == [
        f"{LLM_AT}.ray_actor_options.num_gpus: vLLM needs 1 GPU, not 0; set ray_actor_options: "
        "{num_gpus: 1}"
    ]


@pytest.mark.parametrize(
    "engine",
    [
        {"gpu_memory_utilization": 0.4},
        {"gpu_memory_utilization": 0.35},
        {"gpu_memory_utilization": "0.9"},  # vLLM refuses it
    ],
)
def test_share_of_a_gpu_that_vllm_keeps_to_is_accepted(engine: dict[str, Any]) -> None:
    assert problems(llm(engine, {"num_gpus": 0.4})) == []


@pytest.mark.parametrize(
    ("engine", "share", "value", "right"),
    [
        ({}, 0.4, "0.92 by vLLM's default", "0.36"),
        ({"kv_cache_memory_bytes": 1_000_000_000}, 0.4, "0.92 by vLLM's default", "0.36"),
        ({"gpu_memory_utilization": None}, 0.4, "0.92 by vLLM's default", "0.36"),
        ({"gpu_memory_utilization": 0.41}, 0.4, "0.41", "0.36"),
        ({"gpu_memory_utilization": 1}, 0.01, "1", "0.009"),
    ],
)
def test_share_of_a_gpu_that_vllm_exceeds_is_one_line(
    engine: dict[str, Any], share: float, value: str, right: str
) -> None:
    assert problems(llm(engine, {"num_gpus": share})) == [
        f"{ENGINE}.gpu_memory_utilization: {value} is more than num_gpus: {share:g}, so two such "
        "replicas would exceed the memory of their GPU; set engine: {gpu_memory_utilization: "
        f"{right}}}"
    ]


def test_default_share_is_that_of_the_installed_vllm() -> None:
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    source = Path(package.origin).with_name("config").joinpath("cache.py").read_text()

    found = re.search(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", source)
    assert found is not None
    assert float(found[1]) == DEFAULT_UTILIZATION


def encoder(num_gpus: float, vllm: dict[str, Any], runner: str = "vllm") -> Change:
    def change(config: Any) -> None:
        application = config["applications"][EMBEDDING]
        application["args"] |= {"runner": runner, **({"vllm": vllm} if runner == "vllm" else {})}
        application["deployments"][0]["ray_actor_options"] = {"num_gpus": num_gpus}

    return change


@pytest.mark.parametrize(
    "change",
    [
        encoder(2, sizes(2)),
        encoder(0.4, {"gpu_memory_utilization": 0.35}),
        encoder(0.2, {}, runner="sentence-transformers"),
        encoder(2, {}, runner="sentence-transformers"),
    ],
)
def test_encoder_with_the_gpus_that_it_needs_is_accepted(change: Change) -> None:
    assert problems(change) == []


def test_encoder_with_fewer_gpus_than_it_needs_is_one_line() -> None:
    (line,) = problems(encoder(1, sizes(2)))

    path = "applications[2].deployments[0].ray_actor_options.num_gpus"
    assert line.startswith(f"{path}: tensor_parallel_size 2 needs 2 GPUs, not 1")
    assert line.endswith("and vllm: {distributed_executor_backend: ray}")


def test_fake_engine_needs_no_gpus() -> None:
    def change(config: Any) -> None:
        llm({"tensor_parallel_size": 8}, {"num_gpus": 1})(config)
        config["applications"][LLM]["args"]["source"] = "fake:"

    assert problems(change) == []


@pytest.mark.parametrize("option", ["nnodes", "data_parallel_rank", "data_parallel_size_local"])
def test_workers_that_others_start_are_not_counted(option: str) -> None:
    assert problems(llm(sizes(8) | {option: 2}, {"num_gpus": 1})) == []


@pytest.mark.parametrize("size", ["8", 2.5, True, [8], {}, 0, -1])
def test_size_that_is_no_count_is_not_checked_against_gpus(size: Any) -> None:
    assert problems(llm({"tensor_parallel_size": size}, {"num_gpus": 1})) == []


@pytest.mark.parametrize(
    ("actor", "deployment"),
    [
        ({"num_gpus": "many"}, {}),
        ({"num_gpus": -1}, {}),
        ({"num_gpus": [1]}, {}),
        ({"resources": 3}, {}),
        (None, {"placement_group_bundles": 3}),
        (None, {"placement_group_bundles": [3]}),
        (None, {"placement_group_bundles": [{"GPU": "one"}]}),
        (None, {"placement_group_bundles": bundles(2), "max_replicas_per_node": 1}),
    ],
)
def test_value_that_serve_refuses_is_a_problem_and_no_crash(
    actor: Any, deployment: dict[str, Any]
) -> None:
    assert problems(llm(sizes(2) | RAY, actor, **deployment)) != []


@pytest.mark.parametrize("num_gpus", [float("inf"), float("nan"), 10**30])
def test_number_without_bounds_is_no_crash(num_gpus: float) -> None:
    problems(llm({}, {"num_gpus": num_gpus}))
