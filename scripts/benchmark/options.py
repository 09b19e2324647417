"""The options of scripts/bench; `python -m scripts.benchmark.options` prints them.

The standard library is enough to import this, so help needs no set-up.
"""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from scripts.benchmark.stacks.rigs import RIGS

STACKS = (
    "vllm",
    "vllm-rs",
    "triptych",
    "litellm",
    "litellm-no-db",
    "ray-llm",
    "ray-llm-direct",
)
PEERS = ("encode", "vllm", "infinity")
EXAMPLES = """examples:
  scripts/bench                                    the serving rig: vllm and triptych, 3 rounds
  scripts/bench --rig engine --concurrency 1,32    the demo LLM
  scripts/bench --rig capacity --stacks vllm,vllm-rs,triptych,litellm
  scripts/bench --stacks vllm,triptych,ray-llm     with ray.serve.llm (installs what it needs)
  scripts/bench --variant python-proxy:RAY_SERVE_ENABLE_HA_PROXY=0 \\
                --variant before:checkout=../before,engine.disable_log_stats=true
  scripts/bench --streams 1000                     1000 streams of a fake engine, all checked
  scripts/bench --streams 5000 --tokens-per-s 1 --ingress-replicas 2
  scripts/bench --kind embeddings --peers encode,vllm,infinity
  scripts/bench --kind hostile --stacks triptych --variant before:checkout=../before
  scripts/bench --url http://127.0.0.1:8000/v1 --model smollm2-135m-instruct --key-env KEY

One stack runs at a time, each with the same model, engine options and environment. Responses are
streamed, greedy and of a fixed length, over kept-alive connections; no two prompts share a prefix.
Ctrl-C ends the running stack and reports what was measured.

environment:
  TRIPTYCH_HOME  folder of models and results (.triptych in the checkout)
"""


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program; argparse calls this."""
        self.exit(2, f"scripts/bench: {message}\n")


NUMBER: dict[str, Any] = {"type": positive}
REPEATED: dict[str, Any] = {"action": "append", "default": []}
KINDS = ("text", "embeddings", "images", "hostile")
OPTIONS: dict[str, list[tuple[str, str, str, dict[str, Any]]]] = {
    "what is compared": [
        (
            "kind",
            "text|embeddings|images|hostile",
            "text (default): all options below; embeddings: the demo encoder beside "
            "sentence-transformers' own encode; images: the demo image model beside the bare "
            "pipeline; both with --rounds and --out only; hostile: what attacks cost the other "
            "clients of each Triptych, with --stacks, --variant and --out only",
            {"default": "text", "choices": KINDS},
        ),
        (
            "peers",
            "A,B",
            "what embeddings are compared with: encode (default), vllm (its pooling server), "
            "infinity (infinity-emb; installs 1.4 GB the first time)",
            {"default": "encode"},
        ),
        (
            "rig",
            "NAME",
            "serving (default): two random layers, so that serving limits the rate; requests: "
            "the same, one token for each request, so that figures per token are per request; "
            "prefill, prefill-cached: the same after 1,000 tokens, new or computed before; "
            "capacity: a fake engine, 50 tokens a second for each stream, so that only serving has "
            "work; capacity-requests: the same, one token each; "
            "engine: the demo LLM, so that the engine does",
            {"default": "serving", "choices": RIGS},
        ),
        (
            "stacks",
            "A,B",
            "any of vllm, vllm-rs (its Rust front-end), triptych, litellm (its proxy with keys on "
            "PostgreSQL before vllm; installs 0.8 GB the first time), litellm-no-db (limits in "
            "memory, no records), ray-llm, ray-llm-direct (direct streaming) "
            "(default: vllm,triptych)",
            {"default": "vllm,triptych"},
        ),
        (
            "variant",
            "NAME:KEY=VALUE,…",
            "another Triptych with these environment variables, or checkout=FOLDER, "
            "engine.OPTION=VALUE, ingress_replicas=N, tenancy=off; repeatable",
            REPEATED,
        ),
        ("env", "KEY=VALUE", "an environment variable of every Triptych; repeatable", REPEATED),
        (
            "ingress-replicas",
            "N",
            "ingress replicas of every Triptych (default: 1)",
            {**NUMBER, "default": 1},
        ),
        ("url", "BASE_URL", "measure a running server instead; needs --model", {}),
        ("model", "NAME", "the model of --url", {}),
        ("key-env", "VAR", "the environment variable with the API key of --url", {}),
        (
            "streams",
            "N",
            "instead of a comparison: N streams of a fake engine at once through Triptych, "
            "each checked word by word, and the memory of each",
            NUMBER,
        ),
        (
            "tokens-per-s",
            "N",
            "tokens that each stream of --streams gets in a second (default: 2)",
            {**NUMBER, "default": 2},
        ),
    ],
    "how it is measured": [
        (
            "rounds",
            "N",
            "number of rounds; each starts every stack again (default: 3)",
            {**NUMBER, "default": 3},
        ),
        (
            "concurrency",
            "N,N",
            "streams at once (default: 1,16,64,256 or, for other rigs, less)",
            {},
        ),
        (
            "requests",
            "N",
            "requests of a measurement (default: enough for 10 to 20 s on two cores)",
            NUMBER,
        ),
        (
            "max-tokens",
            "N",
            "tokens of each response (default: 256; engine and capacity: 128; other rigs: 1)",
            NUMBER,
        ),
        (
            "out",
            "DIR",
            "for results.json, table.md, plot.png and logs (default: .triptych/bench/<time>-<rig>)",
            {"type": Path},
        ),
    ],
}


def to_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="scripts/bench",
        description="Measures Triptych beside bare vLLM on this machine: throughput, latency, CPU.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, metavar, said, more in options:
            group.add_argument(f"--{name}", metavar=metavar, help=said, **more)
    return parser


if __name__ == "__main__":
    to_parser().print_help()
