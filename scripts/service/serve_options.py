"""The options of scripts/serve; running this file prints them.

The standard library is enough to import it, so help needs no set-up.
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MAX_DRAIN_S = 86_400
NOTES = """examples:
  scripts/serve
  scripts/serve --config examples/gpu/serve_config.yaml --port 8001
  TRIPTYCH_API_KEYS=sk-one,sk-two scripts/serve

environment:
  TRIPTYCH_HOME      folder of keys, models, database and logs (.triptych in the checkout)
  TRIPTYCH_API_KEYS  API keys, separated by commas (default: one in the file api_key in that folder,
                     made at the first start)
  TRIPTYCH_EXTRA     cpu or gpu: what scripts/serve sets up (default: cpu)

scripts/serve sets up what is missing first; `triptych serve` does not. Ctrl-C and SIGTERM end the
service and every process that it started: new requests are refused, and those under way have time
to finish. A second Ctrl-C or SIGTERM ends them at once.
"""


def to_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Runs the service on this machine until Ctrl-C or SIGTERM.",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=ROOT / "serve_config.yaml",
        help="a configuration (default: serve_config.yaml of the checkout)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="listen at this port, not at the file's"
    )
    parser.add_argument(
        "--drain",
        type=_to_seconds,
        metavar="S",
        default=30.0,
        help="seconds for requests under way to finish after Ctrl-C or SIGTERM (default: 30)",
    )
    return parser


def _to_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _MAX_DRAIN_S:
        raise argparse.ArgumentTypeError(f"must be from 0 to {_MAX_DRAIN_S}")
    return seconds


if __name__ == "__main__":
    to_parser().print_help()
