"""Which GPUs a replica sees, with fake accelerator ids; no Ray is started."""

import pytest

from deployments.models.gpu_visibility import hide_gpus_unless_assigned, hide_unassigned_gpus


@pytest.mark.parametrize("before", [{}, {"CUDA_VISIBLE_DEVICES": "0,1"}])
@pytest.mark.parametrize("ids", [{}, {"GPU": []}, {"GPU": [], "TPU": ["0"]}])
@pytest.mark.parametrize("bundles", [[], [{"CPU": 1.0}], [{"CPU": 1.0, "GPU": 0}]])
def test_replica_without_gpus_sees_none(before, ids, bundles) -> None:
    environment = {**before}

    hide_gpus_unless_assigned(environment, ids, bundles)

    assert environment == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("ids", "bundles"),
    [
        ({"GPU": ["1"]}, []),
        ({"GPU": []}, [{"CPU": 1.0, "GPU": 1.0}, {"GPU": 1.0}]),
    ],
)
def test_replica_sees_the_gpus_that_ray_has_given(ids, bundles) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "1"}

    hide_gpus_unless_assigned(environment, ids, bundles)

    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}


def test_outside_ray_nothing_is_hidden() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0"}

    hide_unassigned_gpus(environment)

    assert environment == {"CUDA_VISIBLE_DEVICES": "0"}
