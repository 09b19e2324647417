"""Checks one configuration file and prints its problems, one line each."""

import sys
from pathlib import Path

import yaml

from deployments.check.configuration import find_problems
from deployments.check.yaml_file import read_yaml


def check_file(path: Path) -> int:
    """Print the problems of a file to stderr; return 1 if there are any, else 0."""
    try:
        config, duplicates = read_yaml(path.read_bytes())
        problems = list(dict.fromkeys([*duplicates, *find_problems(config)]))
    except OSError as error:
        problems = [f"{path}: {error.strerror}"]
    except yaml.YAMLError as error:
        problems = [f"{path}: not YAML: {' '.join(str(error).split())}"]
    except RecursionError:
        problems = [f"{path}: nested too deeply"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
