from pathlib import Path

import pytest

from scripts.check_imports import find_problems, find_stale_rooms, read_tree


def problems(root: Path, files: dict[str, str]) -> list[str]:
    """Write modules of a checkout, and return its problems."""
    for name, code in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return list(find_problems(root))


def test_imports_of_lower_rooms_are_no_problem(tmp_path: Path) -> None:
    files = {
        "api/__init__.py": "",
        "api/errors.py": "import json\n",
        "api/ports/text.py": "from api.errors import ApiError\nimport numpy as np\n",
        "api/text/chat.py": "import api.ports.text\nfrom api.text import endpoint\n",
        "api/text/endpoint.py": "from api.ports import text\n",
        "deployments/__init__.py": "",
        "deployments/engines/sources.py": "import torch\n",
        "deployments/engines/llm/engine.py": "from deployments.engines.sources import x\n",
        "deployments/ledger/replica.py": "from deployments.ledger.store import keys\n",
        "deployments/ledger/store/keys.py": "from deployments.ledger.records import x\n",
        "deployments/ledger/records.py": "",
        "deployments/cli/keys.py": "import deployments.ledger.replica, api.text.chat\n",
    }

    assert problems(tmp_path, files) == []


@pytest.mark.parametrize(
    "code", ["import deployments.app\n", "def f():\n    from deployments import app\n"]
)
def test_api_must_not_import_deployments(tmp_path: Path, code: str) -> None:
    (line,) = problems(tmp_path, {"api/errors.py": code})

    assert line.startswith(f"api/errors.py:{code.count(chr(10))}: api must not import deployments")


def test_api_must_not_import_other_libraries(tmp_path: Path) -> None:
    assert problems(tmp_path, {"api/errors.py": "\nimport torch.nn\n"}) == [
        "api/errors.py:2: api must not import torch.nn"
    ]


@pytest.mark.parametrize(
    ("module", "code", "rule"),
    [
        ("api/ports/x.py", "import api.schema.y", "in api, schema is above ports"),
        ("api/schema/x.py", "import api.settings", "in api, settings is above schema"),
        ("api/http/x.py", "from api.access.y import z", "in api, access is beside http"),
        ("api/text/x.py", "import api.images.y", "in api, images is beside text"),
        ("api/models.py", "from api.app import build", "in api, app is above models"),
        (
            "deployments/config/x.py",
            "import deployments.engines.sources",
            "in deployments, engines is above config",
        ),
        (
            "deployments/ingress/x.py",
            "from deployments.models.y import z",
            "in deployments, models is beside ingress",
        ),
        (
            "deployments/engines/images/x.py",
            "import deployments.engines.llm.y",
            "in deployments.engines, llm is above images",
        ),
        (
            "deployments/engines/sources.py",
            "import deployments.engines.llm.y",
            "in deployments.engines, llm is above the folder itself",
        ),
        (
            "deployments/ledger/records.py",
            "import deployments.ledger.server",
            "in deployments.ledger, the folder itself is above records",
        ),
        (
            "deployments/ledger/store/keys.py",
            "import deployments.ledger.store.migrations.env",
            "in deployments.ledger.store, migrations is above the folder itself",
        ),
    ],
)
@pytest.mark.parametrize("place", ["{}\n", "def f():\n    {}\n", "if TYPE_CHECKING:\n    {}\n"])
def test_room_must_not_import_one_above_or_beside_it(
    tmp_path: Path, module: str, code: str, rule: str, place: str
) -> None:
    (line,) = problems(tmp_path, {module: place.format(code)})

    assert line.startswith(f"{module}:{place.count(chr(10))}: ")
    assert line.endswith(rule)


@pytest.mark.parametrize(
    "room", ["engines/llm", "engines/images", "models", "transport", "ledger/limits"]
)
def test_engines_import_only_ports_and_errors_of_api(tmp_path: Path, room: str) -> None:
    code = "from api.ports import text\nimport api.errors\nfrom api.schema.chat import Chat\n"

    (line,) = problems(tmp_path, {f"deployments/{room}/x.py": code})

    assert line.startswith(f"deployments/{room}/x.py:3: ")
    assert line.endswith("of api it may import api.errors and api.ports only")


def test_logs_import_nothing_of_api(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {"deployments/observability/logs.py": "import api.errors\n"})

    assert line.endswith("of api it may import nothing only")


def test_import_cycle_is_one_line_with_its_way(tmp_path: Path) -> None:
    files = {
        "api/text/a.py": "import json\nfrom api.text import b\n",
        "api/text/b.py": "def f():\n    import api.text.c\n",
        "api/text/c.py": "from api.text.a import x\n",
        "api/text/d.py": "import api.text.a\n",
    }

    assert problems(tmp_path, files) == [
        "api/text/a.py:2: import cycle: api.text.a -> api.text.b -> api.text.c -> api.text.a"
    ]


@pytest.mark.parametrize("name", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_types_alone_make_no_cycle(tmp_path: Path, name: str) -> None:
    files = {
        "api/text/a.py": "from api.text import b\n",
        "api/text/b.py": f"if {name}:\n    from api.text import a\n",
    }

    assert problems(tmp_path, files) == []


def test_import_outside_of_the_types_branch_counts(tmp_path: Path) -> None:
    code = "if TYPE_CHECKING:\n    pass\nelse:\n    from api.text import a\n"
    files = {"api/text/a.py": "from api.text import b\n", "api/text/b.py": code}

    assert problems(tmp_path, files) == [
        "api/text/a.py:1: import cycle: api.text.a -> api.text.b -> api.text.a"
    ]


@pytest.mark.parametrize(
    ("module", "room"),
    [
        ("api/batches/x.py", "api.batches"),
        ("deployments/metrics.py", "deployments.metrics"),
        ("deployments/engines/audio/x.py", "deployments.engines.audio"),
    ],
)
def test_new_room_needs_a_place_in_the_order(tmp_path: Path, module: str, room: str) -> None:
    assert problems(tmp_path, {module: ""}) == [
        f"{room}: has no place in ORDER of scripts/check_imports.py"
    ]


@pytest.mark.parametrize("name", ["utils/__init__.py", "utils.py"])
def test_third_package_is_refused(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, {name: "", "api/__init__.py": ""}) == [
        "utils: a third top-level package; the two are api and deployments"
    ]


def test_room_that_is_gone_is_named(tmp_path: Path) -> None:
    problems(tmp_path, {"api/errors.py": ""})

    stale = list(find_stale_rooms(read_tree(tmp_path)))

    assert "api.ports: scripts/check_imports.py names it, but it does not exist" in stale
    assert [line for line in stale if line.startswith("api.errors:")] == []
