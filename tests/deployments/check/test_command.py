from pathlib import Path

import pytest
import yaml

from deployments.check.command import check_file
from tests.helpers.spoilt_config import LLM, SHIPPED, read_shipped


def test_file_without_problems_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_file(SHIPPED) == 0
    assert capsys.readouterr() == ("", "")


def test_file_with_problems_is_status_1_and_a_line_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_shipped()
    config["colour"] = 1
    config["applications"][LLM]["args"]["colour"] = 1
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))

    assert check_file(file) == 1
    assert capsys.readouterr().err.splitlines() == [
        "colour: there is no such key",
        "applications[1].args.colour: there is no such key",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "not YAML"),
        (b"a:\n\t- b", "not YAML"),
        (b"a: \xff", "not YAML"),
        (b"a: !!python/object:os.system {}", "not YAML"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    ],
)
def test_file_that_is_no_yaml_is_one_line(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)

    assert check_file(file) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: {reason}")


def test_key_that_stands_twice_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    text = SHIPPED.read_text()
    file.write_text(text.replace("    args: {}\n", "    args: {}\n    args: {}\n", 1))

    assert check_file(file) == 1
    assert capsys.readouterr().err == "args: is set 2 times in one mapping, last in line 11\n"


def test_key_that_overrides_a_merged_one_is_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    cpus = "ray_actor_options: {num_cpus: 0.2}"
    text = SHIPPED.read_text().replace(cpus, "ray_actor_options: &own {num_cpus: 0.2}", 1)
    file.write_text(text.replace(cpus, "ray_actor_options: {<<: *own, num_cpus: 0.3}", 1))

    assert "<<: *own" in file.read_text()
    assert check_file(file) == 0


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_file_that_cannot_be_read_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_file(tmp_path / name) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
