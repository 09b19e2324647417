import pytest

from scripts.benchmark.stacks.process_cost import TICK_S, Sample, classify, parse_stat, to_usage


@pytest.mark.parametrize(
    ("title", "group"),
    [
        ("VLLM::EngineCore", "engine"),
        ("VLLM::Worker", "engine"),
        ("ray::ServeReplica:smollm2:LLM", "replica"),
        ("ray::ServeReplica:smollm2:LLM.handle_request_with_rejection", "replica"),
        ("ray::ServeReplica:ingress:Ingress", "ingress"),
        (
            "ray::SERVE_REPLICA::ingress#Ingress#x:ServeReplica:ingress:Ingress.__init__",
            "ingress",
        ),
        ("ray::ServeReplica:llm:OpenAiIngress", "ingress"),
        ("ray::ServeReplica:ledger:Ledger", "ledger"),
        ("/usr/lib/haproxy -W -f /tmp/haproxy.cfg", "proxy"),
        ("ray::ProxyActor", "proxy"),
        ("ray::HAProxyManager", "other"),
        ("ray::ServeController", "other"),
        ("/venv/bin/python -m vllm.entrypoints.openai.api_server --port 1", "replica"),
        ("/l/bin/python /l/bin/litellm --config /h/litellm.yaml --port 1", "proxy"),
        ("/usr/lib/postgresql/17/bin/postgres -D /h/postgres/data", "other"),
        ("/venv/ray/core/src/ray/raylet/raylet --x", "other"),
    ],
)
def test_process_is_classified_by_its_title(title: str, group: str):
    assert classify(title) == group


def test_name_with_blanks_and_brackets_does_not_shift_the_fields():
    fields = " ".join(str(number) for number in range(3, 30))

    assert parse_stat(f"1 (a ) b) {fields}") == (22, (14 + 15) * TICK_S)


def test_ended_and_new_processes_count_with_their_last_reading():
    first = {(1, 0): Sample("a", "engine", 5.0), (2, 0): Sample("b", "replica", 1.0)}
    last = {
        (1, 0): Sample("a", "engine", 7.0),
        (2, 0): Sample("b", "replica", 1.5),  # last seen before it ended
        (2, 9): Sample("c", "replica", 0.25),  # its pid again, another process
    }

    usage = to_usage(first, last)

    assert usage.cpu_s == {"engine": 2.0, "replica": 0.75}
    assert usage.busiest_s == {"engine": 2.0, "replica": 0.5}
