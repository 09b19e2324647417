"""The command line of scripts/bench, read into a plan."""

import argparse
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deployments.home import find_home
from scripts.benchmark.options import PEERS, STACKS, positive, to_parser
from scripts.benchmark.stacks.rigs import RIGS, Rig
from scripts.benchmark.stacks.running import Running
from scripts.benchmark.stacks.stacks import Stack, to_variant


@dataclass(frozen=True, slots=True)
class Plan:
    """What the benchmark runs."""

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
    stream_tokens_per_s: int
    command: str


def read_plan(arguments: list[str]) -> Plan:
    """Read the command line; a mistake ends the program with one line."""
    parser = to_parser()
    options = parser.parse_args(arguments)
    try:
        return to_plan(options, " ".join(["scripts/bench", *arguments]))
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.exit(2, f"scripts/bench: {error}\n")


def to_plan(options: argparse.Namespace, command: str) -> Plan:
    home = find_home().resolve()
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
        stream_tokens_per_s=options.tokens_per_s,
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
        raise ValueError(f"two stacks have the same name: {', '.join(names)}")
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
