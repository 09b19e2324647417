import pytest

from scripts.service.cpu_affinity import Seen, moves

ALL = frozenset(range(4))


def worker(*cores: int) -> Seen:
    return Seen(1, "VLLM::Worker", "VLLM::Worker", frozenset(cores))


def process(pid: int, title: str, name: str = "ray", cores: frozenset[int] = ALL) -> Seen:
    return Seen(pid, name, title, cores)


INGRESS = process(2, "ray::ServeReplica:ingress:Ingress")
LLM = process(3, "ray::ServeReplica:org--model:LLM")
HAPROXY = process(4, "/opt/bin/haproxy -db -f some.cfg", "haproxy")
OTHERS = [
    process(5, "ray::ServeReplica:shapes:Diffusion"),
    process(6, "ray::ServeReplica:vectors:Embedding"),
    process(7, "ray::ServeController"),
    process(8, "VLLM::EngineCore"),
]


def test_what_serves_goes_where_no_worker_is_bound() -> None:
    seen = [worker(0, 1), INGRESS, LLM, HAPROXY, *OTHERS]

    assert moves(seen, ALL) == {pid: {2, 3} for pid in (2, 3, 4)}


def test_the_cores_of_all_workers_are_avoided() -> None:
    assert moves([worker(0), worker(2), INGRESS], ALL) == {2: {1, 3}}


def test_who_is_there_already_stays() -> None:
    there = process(2, INGRESS.title, cores=frozenset({3}))

    assert moves([worker(0, 1, 2), there], ALL) == {}


@pytest.mark.parametrize(
    "workers", [[], [worker(0, 1, 2, 3)], [worker(0, 1), worker(2, 3)]], ids=["none", "one", "two"]
)
def test_nothing_moves_without_bound_workers_or_a_free_core(workers: list[Seen]) -> None:
    assert moves([*workers, INGRESS], ALL) == {}
