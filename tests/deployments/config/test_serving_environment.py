import re
from pathlib import Path

from deployments.config.serving_environment import load_serving_environment
from deployments.config.stream_deadlines import HARD_STOP_VARIABLE, find_hard_stop_s

FILE = Path(__file__).parents[3] / "deployments" / "config" / "serving_environment.yaml"


def test_variables_are_text_as_the_operating_system_wants_them() -> None:
    variables = load_serving_environment()

    assert len(variables) > 10
    assert {type(text) for pair in variables.items() for text in pair} == {str}


def test_hard_stop_is_the_one_that_the_check_of_configurations_assumes() -> None:
    assert load_serving_environment()[HARD_STOP_VARIABLE] == f"{find_hard_stop_s({}):g}"


def test_nothing_depends_on_one_machine() -> None:
    assert [
        name
        for name, value in load_serving_environment().items()
        if "/" in value or re.search("_PORT$|(?<!IMPORT)_PATH$|NBTHREAD", name)
    ] == []


def test_every_group_of_variables_says_why() -> None:
    groups = re.split(r"^(?=#)", FILE.read_text(), flags=re.MULTILINE)
    names = {name for group in groups[1:] for name in re.findall(r"^(\w+):", group, re.MULTILINE)}

    assert names == set(load_serving_environment())
