"""The home folder: keys, models, logs and other generated files."""

import os
from pathlib import Path

DRAIN_FOLDER = Path("run", "drain")
"""In the home folder. `scripts/serve` writes the Unix time at which requests must have ended into
the file `until` in it; then each ingress replica keeps the number of its requests in a file of its
own."""

_PACKAGE = Path(__file__).resolve().parent


def find_home(package: Path = _PACKAGE) -> Path:
    """Find the home folder: `TRIPTYCH_HOME`, else `.triptych` in the checkout or the user's home.

    Args:
        package: The folder of the package `deployments`.
    """
    if home := os.environ.get("TRIPTYCH_HOME"):
        return Path(home).expanduser()
    return (find_checkout(package) or Path.home()) / ".triptych"


def find_checkout(package: Path = _PACKAGE) -> Path | None:
    """Find the checkout that the package is installed from; None where a wheel was installed.

    Args:
        package: The folder of the package `deployments`.
    """
    checkout = package.parent
    return checkout if (checkout / "pyproject.toml").is_file() else None
