from typing import Any

import pytest

from tests.helpers.spoilt_config import DIFFUSION, problems

AT = "applications[3].deployments[0]"


def found(actor: dict[str, Any] | None = None, **deployment: Any) -> list[str]:
    """Return the problems of the image model, deployed with these options."""

    def change(config: Any) -> None:
        own = {} if actor is None else {"ray_actor_options": actor}
        config["applications"][DIFFUSION]["deployments"] = [
            {"name": "Diffusion", **own, **deployment}
        ]

    return problems(change)


@pytest.mark.parametrize(
    ("actor", "bundles"),
    [
        (None, [{"CPU": 1}]),
        ({"num_cpus": 0}, [{"GPU": 1}]),
        ({"num_gpus": 1}, [{"CPU": 2, "GPU": 1}, {"CPU": 4}]),
        ({"resources": {"fast": 1}}, [{"CPU": 1, "fast": 1}]),
    ],
)
def test_replica_that_fits_the_first_bundle_is_accepted(
    actor: Any, bundles: list[dict[str, float]]
) -> None:
    assert found(actor, placement_group_bundles=bundles) == []


@pytest.mark.parametrize(
    ("actor", "bundles", "reason"),
    [
        (
            None,
            [{"GPU": 1}, {"GPU": 1}],
            "takes 1 CPU, not 0 CPU; set placement_group_bundles: [{GPU: 1, CPU: 1}, {GPU: 1}]",
        ),
        (
            {"num_cpus": 4, "num_gpus": 1},
            [{"CPU": 2, "GPU": 0.5}, {"CPU": 8}],
            "takes 4 CPU, 1 GPU, not 2 CPU, 0.5 GPU; set placement_group_bundles: "
            "[{CPU: 4, GPU: 1}, {CPU: 8}]",
        ),
        (
            {"resources": {"fast": 1}},
            [{"CPU": 1}],
            "takes 1 fast, not 0 fast; set placement_group_bundles: [{CPU: 1, fast: 1}]",
        ),
    ],
)
def test_replica_that_exceeds_the_first_bundle_is_one_line(
    actor: Any, bundles: list[dict[str, float]], reason: str
) -> None:
    assert found(actor, placement_group_bundles=bundles) == [
        f"{AT}.placement_group_bundles[0]: the replica itself runs there and {reason}"
    ]


def test_value_that_stands_twice_is_written_twice() -> None:
    bundle = {"GPU": 1}

    (line,) = found(placement_group_bundles=[{}, bundle, bundle])
    assert line.endswith("[{CPU: 1}, {GPU: 1}, {GPU: 1}]")


def test_strategy_without_bundles_is_one_line() -> None:
    assert found(placement_group_strategy="PACK") == [
        f"{AT}.placement_group_strategy: takes effect with placement_group_bundles only"
    ]


def test_unknown_strategy_is_one_line() -> None:
    assert found(placement_group_bundles=[{"CPU": 1}], placement_group_strategy="TIGHT") == [
        f"{AT}.placement_group_strategy: must be PACK or SPREAD or STRICT_PACK or STRICT_SPREAD"
    ]


def test_bundles_beside_replicas_per_node_are_a_problem() -> None:
    lines = found(placement_group_bundles=[{"CPU": 1}], max_replicas_per_node=1)

    assert [line for line in lines if "max_replicas_per_node" in line] != []
