import subprocess
import sys

import pytest

from deployments.check.__main__ import main
from tests.helpers.spoilt_config import ROOT, SHIPPED


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: python -m deployments.check FILE")


def test_status_is_that_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SHIPPED)]) == 0
    assert main([str(SHIPPED.with_name("nowhere.yaml"))]) == 1


def test_check_starts_no_ray_and_imports_no_torch() -> None:
    """In a process of its own, because another test may have started Ray."""
    code = (
        "import sys; from deployments.check.__main__ import main; status = main(sys.argv[1:]);"
        "import ray; print(status, ray.is_initialized(), 'torch' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(SHIPPED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["0", "False", "False"]
