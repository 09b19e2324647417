"""`triptych keys`: makes, lists, changes and deletes API keys, whether or not the service runs."""

import sys
from collections.abc import Sequence

from deployments.cli.command import run
from deployments.cli.key_options import PROGRAM, build_parser


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand and return the exit status."""
    options = build_parser().parse_args(arguments)

    async def work() -> None:
        # Here, because help must not wait for pydantic and SQLAlchemy: they take most of a second.
        from deployments.cli.administration import open_administration
        from deployments.cli.key_commands import COMMANDS

        async with open_administration(options) as (keys, _):
            await COMMANDS[options.command](keys, options)

    return run(PROGRAM, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
