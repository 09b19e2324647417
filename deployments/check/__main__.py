"""`python -m deployments.check FILE`: prints everything that is wrong with a configuration."""

import sys
from collections.abc import Sequence
from pathlib import Path

from deployments.check.command import check_file


def main(arguments: Sequence[str]) -> int:
    """Check one file and return the exit status: 1 with problems, 2 for wrong usage."""
    if len(arguments) != 1:
        print("usage: python -m deployments.check FILE", file=sys.stderr)
        return 2
    return check_file(Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
