"""The home folder: keys, models, logs and other generated files."""

import os
from pathlib import Path


def find_home() -> Path:
    """Where generated things live: `TRIPTYCH_HOME`, else `.triptych` in the checkout."""
    if home := os.environ.get("TRIPTYCH_HOME"):
        return Path(home).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    is_checkout = (checkout / "pyproject.toml").is_file()
    return (checkout if is_checkout else Path.home()) / ".triptych"
