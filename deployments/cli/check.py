"""`triptych check`: finds what is wrong with a configuration, without starting anything."""

import argparse
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = """examples:
  triptych check
  triptych check my_config.yaml && serve deploy my_config.yaml

Each problem is one line on stderr: the path of the key, and what is wrong with it. The exit status
is 0 without problems, else 1.
"""


def main(arguments: Sequence[str], checkout: Path | None) -> int:
    """Print the problems of one file and return the exit status.

    Args:
        arguments: The command line after `triptych check`.
        checkout: The checkout whose configuration is the default; None in an installed wheel.
    """
    parser = argparse.ArgumentParser(
        prog="triptych check",
        description="Finds unknown keys, invalid values and applications that cannot work in a\n"
        "configuration file. Nothing is started.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shipped = checkout / "serve_config.yaml" if checkout else None
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?" if shipped else None,
        default=shipped,
        help="a configuration of Ray Serve (default: serve_config.yaml of the checkout)",
    )
    file = Path(parser.parse_args(arguments).file)

    from deployments.check.command import check_file  # imports Ray; help does not need it

    return check_file(file)
