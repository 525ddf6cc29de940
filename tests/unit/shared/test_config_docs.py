"""The example runs, and docs/config.md names every key and variable that there is."""

import re
from pathlib import Path

import pytest

from shared.catalog_builder import build_catalog
from shared.config import SECTIONS, load
from shared.config_keys import IGNORED
from shared.config_model import Credential, GeneralSettings, LiteLLMParams, LiteLLMSettings, ModelEntry, RouterSettings
from shared.settings import Settings

ROOT = Path(__file__).parents[3]
DOCUMENTED = set(re.findall(r"`([\w.<>]+)`", (ROOT / "docs" / "config.md").read_text(encoding="utf-8")))


def test_the_example_runs_without_a_key_and_without_a_warning() -> None:
    config = load(ROOT / "config.example.yaml", {})

    catalog = build_catalog(config)

    assert (config.unknown, config.ignored, catalog.warnings) == ([], [], ())
    assert catalog.providers() == ["simulated"]


def test_the_commented_parts_of_the_example_are_right(tmp_path: Path) -> None:
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    yaml_line = re.compile(r"^( *)# ((?: *)(?:- )?[a-z_]+:(?: .*)?)$", re.MULTILINE)
    (tmp_path / "config.yaml").write_text(yaml_line.sub(r"\1\2", text), encoding="utf-8")
    variables = re.findall(r"os\.environ/([A-Z_0-9]+)", text)

    config = load(tmp_path / "config.yaml", dict.fromkeys(variables, "value"))

    assert (config.unknown, config.ignored) == ([], [])
    assert build_catalog(config).providers() == ["anthropic", "hosted_vllm", "openai", "simulated"]


@pytest.mark.parametrize(
    "model", [Credential, GeneralSettings, LiteLLMParams, LiteLLMSettings, ModelEntry, RouterSettings]
)
def test_every_key_that_is_read_is_documented(model: type) -> None:
    fields = set(model.model_fields) - {"litellm_params"}  # type: ignore[attr-defined]  # each is a pydantic model

    assert fields - DOCUMENTED == set()


def test_every_section_and_ignored_key_is_documented() -> None:
    ignored = {key for keys in IGNORED.values() for key in keys}

    assert (SECTIONS | ignored) - DOCUMENTED == set()


def test_every_environment_variable_is_documented() -> None:
    names = {
        str(name)
        for field in Settings.model_fields.values()
        for name in field.validation_alias.choices  # type: ignore[union-attr]  # every field has AliasChoices
    }

    assert names - DOCUMENTED == set()
