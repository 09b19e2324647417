import pytest

from scripts.service.cpu_affinity import ProcessState, plan_moves

ALL = frozenset(range(4))


def worker(*cores: int) -> ProcessState:
    return ProcessState(1, "VLLM::Worker", "VLLM::Worker", frozenset(cores))


def process(pid: int, title: str, name: str = "ray", cores: frozenset[int] = ALL) -> ProcessState:
    return ProcessState(pid, name, title, cores)


INGRESS = process(2, "ray::ServeReplica:ingress:Ingress")
LLM = process(3, "ray::ServeReplica:org--model:LLM")
HAPROXY = process(4, "/opt/bin/haproxy -db -f some.cfg", "haproxy")
OTHERS = [
    process(5, "ray::ServeReplica:shapes:Diffusion"),
    process(6, "ray::ServeReplica:vectors:Embedding"),
    process(7, "ray::ServeController"),
    process(8, "VLLM::EngineCore"),
]


def test_serving_processes_move_to_cores_without_a_worker() -> None:
    seen = [worker(0, 1), INGRESS, LLM, HAPROXY, *OTHERS]

    assert plan_moves(seen, ALL) == {pid: {2, 3} for pid in (2, 3, 4)}


def test_cores_of_all_workers_are_avoided() -> None:
    assert plan_moves([worker(0), worker(2), INGRESS], ALL) == {2: {1, 3}}


def test_process_on_a_free_core_is_not_moved() -> None:
    there = process(2, INGRESS.title, cores=frozenset({3}))

    assert plan_moves([worker(0, 1, 2), there], ALL) == {}


@pytest.mark.parametrize(
    "workers", [[], [worker(0, 1, 2, 3)], [worker(0, 1), worker(2, 3)]], ids=["none", "one", "two"]
)
def test_nothing_moves_without_bound_workers_or_a_free_core(workers: list[ProcessState]) -> None:
    assert plan_moves([*workers, INGRESS], ALL) == {}
