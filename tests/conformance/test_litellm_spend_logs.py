"""LiteLLM's spend logs become rows of the ledger; and what the import tells, and whom it listens to."""

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from broker.litellm import source as litellm
from broker.records import SpendQuery
from broker.store.database import Database, connect
from shared.errors import ConfigError, Unavailable
from tests.conformance.litellm_imports import NOON, counts, filled, imported
from tests.fakes.litellm_database import LiteLLMDatabase, hashed
from tests.fakes.schema import make_schema


@pytest.fixture
async def theirs(database_url: str) -> AsyncIterator[LiteLLMDatabase]:
    database = await LiteLLMDatabase.made(database_url)
    yield database
    await database.close()


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[Database]:
    async with connect(f"sqlite:///{tmp_path}/headrace.db") as store:
        await make_schema(store)
        yield store


async def test_spend_logs_become_rows_of_the_ledger(theirs: LiteLLMDatabase, ours: Database) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 30}, "cache_creation_input_tokens": 20,
               "completion_tokens_details": {"reasoning_tokens": 5}}  # fmt: skip
    await theirs.log(
        "chatcmpl-1", NOON, spend=0.25, api_key=hashed("sk-ada"), model="gpt-4o", model_group="gpt", model_id="m1",
        custom_llm_provider="openai", prompt_tokens=100, completion_tokens=10, user="ada", team_id="research",
        end_user="customer-1", request_tags=["a", "b"], call_type="acompletion", status="success",
        completionStartTime=NOON, messages={"secret": "prompt"}, metadata={"usage_object": details},
    )  # fmt: skip

    report = await imported(theirs, ours, spend_logs=True)

    assert counts(report, "spend logs") == (1, 1, 0, 0, 0)
    [row] = await ours.spend(SpendQuery())
    assert (row.cost, row.key, row.team, row.user, row.customer) == (
        250_000_000, hashed("sk-ada"), "research", "ada", "customer-1",
    )  # fmt: skip
    assert (row.usage.input, row.usage.cache_read, row.usage.cache_write, row.usage.output) == (50, 30, 20, 10)
    assert (row.model, row.group, row.upstream_model, row.deployment) == ("gpt", "gpt", "gpt-4o", "m1")
    assert (row.endpoint, row.tags, row.response_id) == ("chat.completions", ("a", "b"), "chatcmpl-1")
    assert row.started_at == NOON.replace(tzinfo=UTC).timestamp()


async def test_spend_logs_may_go_on_from_a_moment(
    theirs: LiteLLMDatabase, ours: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "PAGE", 2)
    for number in range(5):
        await theirs.log(f"r{number}", NOON + timedelta(hours=number))
    moments: list[str] = []

    since = (NOON + timedelta(hours=1)).replace(tzinfo=UTC)
    late = await imported(theirs, ours, spend_logs=True, since=since, progress=moments.append)
    all_of_them = await imported(theirs, ours, spend_logs=True)

    assert counts(late, "spend logs") == (4, 4, 0, 0, 0)
    assert moments[-1] == "spend logs: 4, up to 2025-12-31T16:00:00"
    assert counts(all_of_them, "spend logs") == (5, 1, 4, 0, 0)


async def test_the_total_is_told_by_the_ledger_when_it_has_the_logs(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)

    await imported(theirs, ours, spend_logs=True)

    record = await ours.keys.get(hashed("sk-ada"))
    assert record is not None
    assert "total_spend_base" not in record.fields


# The report and the door


async def test_what_is_not_imported_is_told_without_its_values(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)

    report = await imported(theirs, ours)

    told = dict(report.elsewhere)
    assert set(told) == {"LiteLLM_Config router_settings", "LiteLLM_OrganizationTable: 1", "LiteLLM_SpendLogs: 1"}
    assert "num_retries, secret" in told["LiteLLM_Config router_settings"]
    assert "hunter2" not in str(told)


async def test_another_schema_is_read_when_the_address_names_one(theirs: LiteLLMDatabase) -> None:
    await theirs.connection.execute("CREATE SCHEMA elsewhere")
    await theirs.connection.execute('ALTER TABLE "LiteLLM_VerificationToken" SET SCHEMA elsewhere')
    address = f"{theirs.url}?schema=elsewhere&connection_limit=5&pool_timeout=10"

    async with litellm.connect(address) as source:
        assert set(source.columns) == {"LiteLLM_VerificationToken"}


async def test_a_database_that_is_not_litellms_is_refused(database_url: str) -> None:
    with pytest.raises(ConfigError, match="LiteLLM_VerificationToken"):
        async with litellm.connect(database_url):
            pass


@pytest.mark.parametrize("url", ["mysql://x/y", "", "sqlite:///x.db"])
async def test_an_address_of_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        async with litellm.connect(url):
            pass


async def test_a_database_that_does_not_answer_is_told_of() -> None:
    with pytest.raises(Unavailable, match="no answer from LiteLLM's database"):
        async with litellm.connect("postgresql://somebody:secret@127.0.0.1:1/litellm"):
            pass


async def test_a_wrong_password_is_not_repeated(database_url: str) -> None:
    wrong = database_url.replace("://", "://nobody:hunter2@", 1) if "@" not in database_url else database_url
    with pytest.raises((ConfigError, Unavailable)) as caught:
        async with litellm.connect(wrong.rpartition("/")[0] + "/no_such_database"):
            pass

    assert "hunter2" not in str(caught.value)
