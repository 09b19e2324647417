"""The command line of scripts/bench, read into a plan."""

import argparse
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from scripts.benchmark.rigs import RIGS, Rig
from scripts.benchmark.running import Running
from scripts.benchmark.stacks import ROOT, Stack, to_variant

STACKS = ("vllm", "triptych", "ray-llm")
PEERS = ("encode", "vllm", "infinity")
EXAMPLES = """examples:
  scripts/bench                                    the serving rig: vllm and triptych, 3 rounds
  scripts/bench --rig engine --concurrency 1,32    the demo LLM
  scripts/bench --stacks vllm,triptych,ray-llm     with ray.serve.llm (installs what it needs)
  scripts/bench --variant python-proxy:RAY_SERVE_ENABLE_HA_PROXY=0 \\
                --variant before:checkout=../before,engine.disable_log_stats=true
  scripts/bench --streams 1000                     1000 streams of a fake engine, all checked
  scripts/bench --kind embeddings --peers encode,vllm,infinity
  scripts/bench --url http://127.0.0.1:8000/v1 --model smollm2-135m-instruct --key-env KEY

Each stack runs with the same model, engine options and variables, one at a time. The answers are
streamed, greedy and of a fixed length, over connections that are kept alive; no two prompts begin
alike. Ctrl-C ends what runs and reports what was measured.
"""


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        self.exit(2, f"scripts/bench: {message}\n")


NUMBER: dict[str, Any] = {"type": positive}
REPEATED: dict[str, Any] = {"action": "append", "default": []}
KINDS = ("text", "embeddings", "images")
OPTIONS: dict[str, list[tuple[str, str, str, dict[str, Any]]]] = {
    "what is compared": [
        (
            "kind",
            "text|embeddings|images",
            "text (default): all the options below; embeddings: the demo's encoder beside "
            "sentence-transformers' own encode; images: the demo's painter beside the bare "
            "pipeline; both with --rounds and --out",
            {"default": "text", "choices": KINDS},
        ),
        (
            "peers",
            "A,B",
            "whom embeddings are compared with: of encode (default), vllm (its pooling server), "
            "infinity (infinity-emb; once makes an environment of 1.4 GB for it)",
            {"default": "encode"},
        ),
        (
            "rig",
            "serving|engine",
            "serving (default): two random layers, so that the serving path is the limit; "
            "engine: the demo LLM",
            {"default": "serving", "choices": RIGS},
        ),
        (
            "stacks",
            "A,B",
            "of vllm, triptych, ray-llm (default vllm,triptych)",
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
        ("ingress-replicas", "N", "of every Triptych (default 1)", {**NUMBER, "default": 1}),
        ("url", "BASE_URL", "measure a server that runs already instead; needs --model", {}),
        ("model", "NAME", "the model of --url", {}),
        ("key-env", "VAR", "the environment variable with the API key of --url", {}),
        (
            "streams",
            "N",
            "instead of all this: N streams of a fake engine at once through Triptych, each "
            "checked word by word, and what each costs in memory",
            NUMBER,
        ),
    ],
    "how it is measured": [
        ("rounds", "N", "each starts every stack anew (default 3)", {**NUMBER, "default": 3}),
        (
            "concurrency",
            "N,N",
            "streams at once (default 1,16,64,256; engine rig 1,16,32,64)",
            {},
        ),
        ("requests", "N", "of a measurement (default: 10 to 20 s on two cores)", NUMBER),
        ("max-tokens", "N", "of each answer (default 256; engine rig 128)", NUMBER),
        (
            "out",
            "DIR",
            "for results.json, table.md, plot.png and logs (default .triptych/bench/<time>-<rig>)",
            {"type": Path},
        ),
    ],
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    kind: str
    peers: list[str]
    rig: Rig
    stacks: list[Stack]
    triptych: Stack
    concurrencies: list[int]
    rounds: int
    requests: int | None
    max_tokens: int | None
    out: Path
    home: Path
    target: Running | None
    streams: int | None
    command: str


def read_plan(arguments: list[str]) -> Plan:
    """What the arguments ask for; a mistake ends the program with one line."""
    parser = to_parser()
    options = parser.parse_args(arguments)
    try:
        return to_plan(options, " ".join(["scripts/bench", *arguments]))
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.exit(2, f"scripts/bench: {error}\n")


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


def to_plan(options: argparse.Namespace, command: str) -> Plan:
    home = Path(os.environ.get("TRIPTYCH_HOME") or ROOT / ".triptych").resolve()
    env = dict(to_pair(text) for text in options.env)
    rig = RIGS[options.rig]
    kind = f"{options.streams}-streams" if options.streams else options.rig
    kind = options.kind if options.kind != "text" else kind
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}"
    counts = options.concurrency.split(",") if options.concurrency else rig.concurrencies
    return Plan(
        kind=options.kind,
        peers=to_peers(options.peers),
        rig=rig,
        stacks=to_stacks(options, env),
        triptych=Stack("triptych", "triptych", env, ingress_replicas=options.ingress_replicas),
        concurrencies=[positive(str(count)) for count in counts],
        rounds=options.rounds,
        requests=options.requests,
        max_tokens=options.max_tokens,
        out=(options.out or home / "bench" / name).resolve(),
        home=home,
        target=to_target(options),
        streams=options.streams,
        command=command,
    )


def to_stacks(options: argparse.Namespace, env: dict[str, str]) -> list[Stack]:
    stacks = []
    for name in options.stacks.split(","):
        if name not in STACKS:
            raise ValueError(f"no stack {name!r}: there are {', '.join(STACKS)}")
        own = env if name == "triptych" else {}
        stacks.append(Stack(name, name, own, ingress_replicas=options.ingress_replicas))
    stacks += [to_variant(text, env, options.ingress_replicas) for text in options.variant]
    names = [stack.name for stack in stacks]
    if len(set(names)) < len(names):
        raise ValueError(f"two stacks of one name: {', '.join(names)}")
    return stacks


def to_peers(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in PEERS:
            raise ValueError(f"no peer {name!r}: there are {', '.join(PEERS)}")
    return names


def to_target(options: argparse.Namespace) -> Running | None:
    if not options.url:
        return None
    if not options.model:
        raise ValueError("--url needs --model")
    if options.key_env and options.key_env not in os.environ:
        raise ValueError(f"--key-env: there is no variable {options.key_env}")
    return Running(options.url, os.environ.get(options.key_env or "", ""), options.model)


def to_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--env {text!r} is not KEY=VALUE")
    return key, value
