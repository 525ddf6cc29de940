"""Rules of the house that no linter knows."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from shared.error_bodies import STATUS
from shared.errors import BY_CODE
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
_PACKAGES = ("api", "broker", "workers", "shared")
_CODE = (*_PACKAGES, "tests", "benchmarks")
_MAX_LINES = 400


def python_files() -> list[Path]:
    return sorted(path for folder in _CODE for path in (ROOT / folder).rglob("*.py"))


def test_no_module_is_longer_than_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}

    assert {path: lines for path, lines in lengths.items() if lines > _MAX_LINES} == {}


def test_every_error_code_has_a_form_on_the_wire() -> None:
    assert set(STATUS) == set(BY_CODE)


@pytest.mark.parametrize("name", _CODE)
def test_no_dependency_owns_one_of_our_import_names(name: str) -> None:
    owners = set(packages_distributions().get(name, ()))

    assert owners <= {"headrace"}


def test_tests_are_no_packages_because_tests_api_would_shadow_api() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_path_of_a_developers_machine_is_in_the_tree() -> None:
    machine_path = re.compile(rb"(?<![\w.}])/" + rb"(work|farm|root)/[a-z.]")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]

    guilty = [
        str(path.relative_to(ROOT)) for path in files if path.is_file() and machine_path.search(path.read_bytes())
    ]

    assert guilty == []


def test_the_lock_names_pypi_only() -> None:
    lock = (ROOT / "uv.lock").read_text()

    assert set(re.findall(r'registry = "([^"]*)"', lock)) == {"https://pypi.org/simple"}
    assert {url.split("/")[2] for url in re.findall(r'url = "([^"]*)"', lock)} == {"files.pythonhosted.org"}
    assert "file://" not in lock


def test_the_lock_knows_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[<>=~! ]", each)[0].lower() for each in wanted}

    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}

    assert names <= locked, "run `uv lock`"


def test_the_environment_example_names_every_setting() -> None:
    named = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    ours = {field.validation_alias.choices[0] for field in Settings.model_fields.values()}  # type: ignore[union-attr]

    assert ours - named == set()


_VIOLATIONS = {
    "broker/rogue.py": "import fastapi, aiormq, redis, sqlalchemy, aiohttp\n",
    "shared/rogue.py": "import broker, nacl\n",
    "workers/providers/rogue.py": "import asyncio\n",
}
"""Files that break every contract at once."""


def test_the_import_contracts_hold() -> None:
    verdicts = lint_imports(ROOT)

    assert set(verdicts.values()) == {"KEPT"}


def test_every_import_contract_catches_a_violation(tmp_path: Path) -> None:
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, code in _VIOLATIONS.items():
        (tmp_path / path).write_text(code)

    verdicts = lint_imports(tmp_path)

    assert set(verdicts.values()) == {"BROKEN"}, verdicts


def lint_imports(folder: Path) -> dict[str, str]:
    """Each contract's verdict on the tree in `folder`."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    verdicts = re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.*\))?$", output.stdout, re.MULTILINE)
    assert verdicts, output.stdout + output.stderr
    return dict(verdicts)
