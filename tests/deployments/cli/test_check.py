from pathlib import Path

import pytest

from deployments.cli.check import main
from tests.helpers.service import ROOT


def write_checkout(folder: Path, config: str) -> Path:
    (folder / "serve_config.yaml").write_text(config)
    return folder


def test_configuration_of_the_checkout_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = write_checkout(tmp_path, "applications: 7")

    assert main([], checkout) == 1
    assert capsys.readouterr().err == "applications: a list of applications is needed\n"


def test_named_file_is_checked_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkout = write_checkout(tmp_path, "applications: 7")

    assert main([str(ROOT / "serve_config.yaml")], checkout) == 0
    assert capsys.readouterr() == ("", "")


def test_installed_wheel_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([], None)

    assert "the following arguments are required: FILE" in capsys.readouterr().err


def test_two_files_are_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["a.yaml", "b.yaml"], tmp_path)

    assert capsys.readouterr().err.startswith("usage: triptych check")
