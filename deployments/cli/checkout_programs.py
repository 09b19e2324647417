"""`triptych serve` and `triptych bench`: programs of the checkout, which no wheel holds.

The command replaces this process, so signals reach the program itself. `scripts` is no installed
package: Python finds it by the program's path or by PYTHONPATH.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Execute = Callable[[str, list[str], dict[str, str]], Any]
"""`os.execve`: replaces this process by a program with arguments and environment."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the checkout; paths are relative to the checkout."""

    name: str
    program: tuple[str, ...]
    """What Python runs: a file, or `-m` and a module."""
    help: tuple[str, ...]
    """What Python runs to print help; the standard library is enough for it."""
    without_checkout: str
    """What to do in an installed wheel."""
    packages: tuple[str, ...] = ()
    """Packages that the service itself does not need."""


PROGRAMS = {
    "serve": Program(
        "serve",
        program=("scripts/service/run_service.py",),
        help=("scripts/service/serve_options.py",),
        without_checkout="needs a checkout of the project; elsewhere run: serve run CONFIG",
    ),
    "bench": Program(
        "bench",
        program=("-m", "scripts.benchmark.main"),
        help=("-m", "scripts.benchmark.options"),
        without_checkout="needs a checkout of the project",
        packages=("matplotlib", "uvloop"),
    ),
}


def run_program(
    program: Program,
    arguments: Sequence[str],
    checkout: Path | None,
    execute: Execute = os.execve,
) -> int:
    """Replace this process by a program of the checkout; return 1 if that is not possible."""
    if checkout is None or not (checkout / "scripts" / "service").is_dir():
        print(f"triptych {program.name}: {program.without_checkout}", file=sys.stderr)
        return 1
    if {"-h", "--help"} & set(arguments):
        words, arguments = program.help, ()
    else:
        words = program.program
        missing = [package for package in program.packages if find_spec(package) is None]
        if missing:
            print(
                f"triptych {program.name}: {', '.join(missing)} missing; scripts/{program.name} "
                "installs what it needs",
                file=sys.stderr,
            )
            return 1
    environment = dict(os.environ)
    if words[0] == "-m":
        environment["PYTHONPATH"] = str(checkout)
    else:
        words = (str(checkout / words[0]), *words[1:])
    sys.stdout.flush()
    execute(sys.executable, [sys.executable, *words, *arguments], environment)
    return 0
