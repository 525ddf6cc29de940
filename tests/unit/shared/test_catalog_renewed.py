"""A catalog that is replaced under those who hold it, and models of the database beside those of the config."""

import random

import pytest

from shared.catalog import Catalog, Deployment
from shared.catalog_builder import build_catalog
from shared.config import Entry, build, stored_entry
from shared.config_files import Document
from shared.errors import ConfigError, UnknownModel
from shared.model_aliases import Alias


def deployment(id: str, group: str = "chat", provider: str = "openai") -> Deployment:
    return Deployment(id, group, provider, "m", bucket=id)


def config(*models: dict[str, object], **sections: object) -> object:
    return build([Document("config.yaml", {"model_list": list(models), **sections})], {"OPENAI_API_KEY": "sk-env"})


def written(name: str, model: str, id: str = "", **params: object) -> dict[str, object]:
    return {
        "model_name": name,
        "litellm_params": {"model": model, "api_key": "sk-1", **params},
        "model_info": {"id": id} if id else {},
    }


def stored(name: str, model: str, id: str, **params: object) -> Entry:
    return stored_entry("database", f"model {name!r} ({id})", written(name, model, id, **params), {})


def test_whoever_holds_a_catalog_has_what_it_adopted() -> None:
    catalog = Catalog([deployment("1"), deployment("2", "gone")])
    planned = catalog.plan("chat", rng=random.Random(1))

    catalog.adopt(Catalog([deployment("3"), deployment("4", "new", "groq")], aliases={"short": Alias("new")}))

    assert [leg.deployments for leg in planned] == [("1",)]
    assert [leg.deployments for leg in catalog.plan("chat", rng=random.Random(1))] == [("3",)]
    assert catalog.resolve("short") == "new"
    assert catalog.providers() == ["groq", "openai"]
    with pytest.raises(UnknownModel):
        catalog.plan("gone", rng=random.Random(1))


def test_a_catalog_adopts_again_and_again() -> None:
    catalog = Catalog([deployment("0")])

    for number in range(1, 4):
        catalog.adopt(Catalog([deployment(str(number))]))
        catalog.plan("chat", rng=random.Random(1))

    assert [each.id for each in catalog.deployments()] == ["3"]


def test_deployments_that_were_removed_are_left_out() -> None:
    catalog = Catalog([deployment("1"), deployment("2")])

    assert [each.id for each in catalog.known(["2", "gone", "1"])] == ["2", "1"]


def test_models_of_the_database_share_their_name_with_those_of_the_config() -> None:
    catalog = build_catalog(config(written("chat", "openai/gpt-4o", "one")), [stored("chat", "openai/o3", "two")])  # type: ignore[arg-type]

    assert [each.id for each in catalog.group("chat")] == ["one", "two"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (stored("bad", "nobody/model", "x"), "database: model 'bad' (x).litellm_params.model: unknown provider"),
        (stored("bad", "openai/gpt-4o", "one"), "'one' is also the id of model_list[0]"),
        (stored("bad", "hosted_vllm/m", "x"), "api_base"),
    ],
)  # fmt: skip
def test_a_model_of_the_database_that_cannot_run_is_left_out_with_a_warning(bad: Entry, told: str) -> None:
    good = stored("good", "openai/o3", "good")

    catalog = build_catalog(config(written("chat", "openai/gpt-4o", "one")), [bad, good])  # type: ignore[arg-type]

    assert catalog.models() == ["chat", "good"]
    [warning] = catalog.warnings
    assert told in warning
    assert "sk-1" not in warning


def test_a_model_of_the_config_that_cannot_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        build_catalog(config(written("chat", "nobody/model")), [stored("good", "openai/o3", "good")])  # type: ignore[arg-type]


def test_a_fallback_to_a_model_of_the_database_is_no_mistake() -> None:
    settings = {"router_settings": {"fallbacks": [{"chat": ["spare"]}]}}

    catalog = build_catalog(
        config(written("chat", "openai/gpt-4o"), **settings),  # type: ignore[arg-type]
        [stored("spare", "openai/o3", "spare")],
    )

    assert catalog.warnings == ()
    assert [leg.group for leg in catalog.plan("chat", rng=random.Random(1))] == ["chat", "spare"]


def test_a_stored_model_may_name_variables() -> None:
    entry = stored_entry(
        "database", "model", written("m", "openai/x", "1", api_key="os.environ/A_KEY"), {"A_KEY": "sk-a"}
    )

    assert entry.params.api_key is not None
    assert entry.params.api_key.get_secret_value() == "sk-a"
    with pytest.raises(ConfigError, match=r"database: model\.litellm_params\.api_key: environment variable A_KEY"):
        stored_entry("database", "model", written("m", "openai/x", "1", api_key="os.environ/A_KEY"), {})
