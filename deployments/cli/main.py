"""`triptych`: the command line for people who administer the service.

Each subcommand is imported only when it is called, so that help appears at once.
"""

import argparse
import sys
from collections.abc import Sequence

from deployments.cli.command import ENVIRONMENT
from deployments.home import find_checkout

_COMMANDS = {
    "keys": "make, list, change and delete API keys",
    "usage": "report requests, tokens and images by day, key and model",
    "check": "find what is wrong with a configuration file",
    "serve": "run the service until Ctrl-C (in a checkout)",
    "bench": "measure the service beside bare vLLM (in a checkout)",
}
_EXAMPLES = """examples:
  triptych keys create --name app --rpm 60
  triptych keys list
  triptych usage --month 2026-11 --by key,model
  triptych check my_config.yaml
  triptych serve --config my_config.yaml --port 8001

`triptych COMMAND --help` says more about each command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    Args:
        arguments: The command line after the program's name; that of this process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = str(_build_parser().parse_args(words[:1]).command)
    return _run(command, words[1:])


def _run(command: str, arguments: Sequence[str]) -> int:
    if command == "keys":
        from deployments.cli import keys

        return keys.main(arguments)
    if command == "usage":
        from deployments.cli import usage

        return usage.main(arguments)
    if command == "check":
        from deployments.cli import check

        return check.main(arguments, find_checkout())
    from deployments.cli.checkout_programs import PROGRAMS, run_program

    return run_program(PROGRAMS[command], arguments, find_checkout())


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, _COMMANDS)) + 2
    commands = "\n".join(f"  {name:<{width}}{text}" for name, text in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="triptych",
        usage="triptych [-h] COMMAND …",
        description=f"Administers a Triptych service.\n\ncommands:\n{commands}",
        epilog=f"{_EXAMPLES}\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", metavar="COMMAND", choices=_COMMANDS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
