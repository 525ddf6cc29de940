"""LiteLLM's keys, people and models become ours: what comes over works, what does not is named, and twice is once."""

from collections.abc import AsyncIterator
from datetime import UTC
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker import model_rows
from broker.account_records import EntryQuery, KeyQuery, Kind
from broker.litellm import source as litellm
from broker.store.database import Database, connect
from shared.errors import Unavailable
from shared.secrets import Sealer
from tests.conformance.litellm_imports import NOON, NOW, OURS, counts, everything, filled, imported, tally
from tests.fakes.litellm_database import OLD_TABLES, LiteLLMDatabase, boxed, gcm, hashed
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


async def test_a_key_keeps_working_with_everything_that_it_had(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)

    await imported(theirs, ours)

    record = await ours.keys.get(hashed("sk-ada"))
    assert record is not None
    assert (record.name, record.alias, record.user, record.team) == ("sk-...-ada", "ada-laptop", "ada", "research")
    assert record.expires_at == NOON.replace(tzinfo=UTC).timestamp()
    assert not record.blocked
    assert record.metadata == {"purpose": "laptop"}
    assert record.fields == {
        "models": ["gpt"], "max_budget": 5.0, "budget_duration": "30d", "tpm_limit": 1000, "budget_id": "b1",
        "model_tpm_limit": {"gpt": 7}, "tags": ["a"], "spend_base": 4.5, "spend_since": NOW, "total_spend_base": 44.0,
    }  # fmt: skip


async def test_users_teams_members_budgets_and_customers_come(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)

    report = await imported(theirs, ours)

    directory = ours.directory
    user, team = await directory.get(Kind.USER, "ada"), await directory.get(Kind.TEAM, "research")
    member, budget = await directory.get(Kind.MEMBER, "research/ada"), await directory.get(Kind.BUDGET, "b1")
    customer = await directory.get(Kind.CUSTOMER, "customer-1")
    assert user and team and member and budget and customer
    assert user.fields == {
        "user_email": "ada@example.com", "user_role": "internal_user", "max_budget": 9.5, "metadata": {"from": "hr"},
        "model_rpm_limit": {"gpt": 3}, "spend_base": 1.25, "spend_since": NOW,
    }  # fmt: skip
    assert team.alias == "Research"
    assert team.fields == {
        "max_budget": 100.0, "rpm_limit": 60, "models": ["gpt"], "model_aliases": {"fast": "gpt"}, "tags": ["t"],
        "team_member_budget_id": "b1", "spend_base": 10.0, "spend_since": NOW,
    }  # fmt: skip
    assert (member.team, member.user) == ("research", "ada")
    assert member.fields == {
        "role": "admin", "budget_id": "b1", "spend_base": 2.0, "spend_since": NOW, "total_spend_base": 3.0
    }  # fmt: skip
    assert budget.fields == {"max_budget": 50.0, "budget_duration": "30d", "soft_budget": 40.0}
    assert (customer.alias, customer.fields["blocked"], customer.fields["spend_base"]) == ("One", True, 0.5)
    assert "left out: known by an email address only" in next(iter(tally(report, "team members").notes))


async def test_running_it_twice_changes_nothing_more(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)
    first = await imported(theirs, ours, spend_logs=True)
    before = await everything(ours)

    second = await imported(theirs, ours, spend_logs=True)

    assert await everything(ours) == before
    for each in first.tallies:
        assert counts(second, each.kind)[:3] == (each.read, 0, each.added), each.kind


async def test_what_was_changed_here_since_is_left_alone(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)
    await imported(theirs, ours)
    await theirs.connection.execute('UPDATE "LiteLLM_VerificationToken" SET spend = 400, max_budget = 1')
    before = await everything(ours)

    await imported(theirs, ours)

    assert await everything(ours) == before


async def test_a_dry_run_tells_the_same_and_writes_nothing(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)
    before = await everything(ours)

    told = await imported(theirs, ours, dry_run=True, spend_logs=True)

    assert await everything(ours) == before
    done = await imported(theirs, ours, spend_logs=True)
    assert [counts(told, each.kind) for each in told.tallies] == [counts(done, each.kind) for each in done.tallies]


async def test_a_dry_run_needs_no_schema_of_ours(theirs: LiteLLMDatabase, tmp_path: Path) -> None:
    await filled(theirs)
    async with connect(f"sqlite:///{tmp_path}/empty.db") as empty:
        report = await imported(theirs, empty, dry_run=True)

        assert counts(report, "keys") == (1, 1, 0, 0, 0)
        assert not await empty.current()


async def test_litellms_database_is_not_written(theirs: LiteLLMDatabase) -> None:
    async with litellm.connect(theirs.url) as source:
        with pytest.raises(Unavailable, match="read-only"):
            await source._fetch('DELETE FROM "LiteLLM_UserTable"')


# Models


@pytest.mark.parametrize("sealed", [boxed, gcm])
async def test_models_come_sealed_under_our_own_key(theirs: LiteLLMDatabase, ours: Database, sealed: Any) -> None:
    params = {
        "model": sealed("openai/gpt-4o"),
        "api_key": sealed("sk-upstream"),
        "rpm": 60,
        "extra_headers": {"x": "y"},
    }
    await theirs.model("m1", "gpt", params, model_info={"id": "m1", "db_model": True, "mode": "chat"})

    report = await imported(theirs, ours)

    entry = await ours.directory.get(Kind.MODEL, "m1")
    assert entry is not None
    assert b"sk-upstream" not in orjson.dumps(entry)
    assert (entry.alias, entry.fields["model_info"]) == ("gpt", {"mode": "chat"})
    assert model_rows.params_of(entry, Sealer(OURS)) == {
        "model": "openai/gpt-4o", "api_key": "sk-upstream", "rpm": 60, "extra_headers": {"x": "y"}
    }  # fmt: skip
    assert report.complete


async def test_a_model_that_cannot_be_decrypted_is_named_and_harms_no_other(
    theirs: LiteLLMDatabase, ours: Database
) -> None:
    await theirs.model("bad", "gpt", {"model": boxed("openai/gpt-4o", salt="another")})
    await theirs.model("plain", "old", {"model": "openai/gpt-4o", "api_key": "sk-short"})

    report = await imported(theirs, ours)

    assert counts(report, "models") == (2, 1, 0, 0, 1)
    [(label, reason)] = tally(report, "models").failures
    assert label == "bad (gpt)"
    assert "salt key" in reason
    assert not report.complete


async def test_without_a_salt_key_models_do_not_come_and_all_else_does(theirs: LiteLLMDatabase, ours: Database) -> None:
    await filled(theirs)

    report = await imported(theirs, ours, salt=None)

    assert counts(report, "models") == (1, 0, 0, 0, 1)
    assert counts(report, "keys") == (1, 1, 0, 0, 0)


async def test_a_credential_becomes_the_key_of_the_models_that_name_it(theirs: LiteLLMDatabase, ours: Database) -> None:
    values = {"api_key": boxed("sk-shared"), "api_base": boxed("https://up.example/v1")}
    await theirs.put("CredentialsTable", credential_id="1", credential_name="shared", credential_values=values)
    await theirs.model("m1", "gpt", {"model": boxed("openai/gpt"), "litellm_credential_name": boxed("shared")})
    await theirs.model("m2", "gpt", {"model": boxed("openai/gpt"), "litellm_credential_name": boxed("nowhere")})

    report = await imported(theirs, ours)

    entry = await ours.directory.get(Kind.MODEL, "m1")
    assert entry is not None
    assert model_rows.params_of(entry, Sealer(OURS)) == {
        "model": "openai/gpt", "api_key": "sk-shared", "api_base": "https://up.example/v1"
    }  # fmt: skip
    assert [label for label, _ in tally(report, "models").failures] == ["m2 (gpt)"]


async def test_a_model_that_cannot_run_here_comes_with_the_reason(theirs: LiteLLMDatabase, ours: Database) -> None:
    await theirs.model("m1", "gpt", {"model": boxed("sagemaker/some-model"), "api_key": boxed("x")})

    report = await imported(theirs, ours)

    [note] = tally(report, "models").notes
    assert "unknown provider 'sagemaker'" in note
    assert await ours.directory.get(Kind.MODEL, "m1") is not None


async def test_a_blocked_model_stays_blocked(theirs: LiteLLMDatabase, ours: Database) -> None:
    await theirs.model("m1", "gpt", {"model": boxed("openai/gpt"), "api_key": boxed("x")}, blocked=True)

    await imported(theirs, ours)

    entry = await ours.directory.get(Kind.MODEL, "m1")
    assert entry is not None
    assert model_rows.blocked(entry)


# Keys that are special


async def test_an_alias_that_two_keys_have_is_kept_by_one(theirs: LiteLLMDatabase, ours: Database) -> None:
    for name in ("sk-one", "sk-two"):
        await theirs.key(name, key_alias="same")

    report = await imported(theirs, ours)

    records = [await ours.keys.get(hashed(name)) for name in ("sk-one", "sk-two")]
    assert sorted(each.alias for each in records if each) == ["", "same"]
    assert report.complete


async def test_sessions_of_the_dashboard_stay_behind(theirs: LiteLLMDatabase, ours: Database) -> None:
    await theirs.key("sk-session", team_id="litellm-dashboard")

    report = await imported(theirs, ours)

    assert counts(report, "keys") == (1, 0, 0, 1, 0)
    assert report.complete


async def test_more_keys_than_a_page_come(
    theirs: LiteLLMDatabase, ours: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "PAGE", 3)
    for number in range(10):
        await theirs.key(f"sk-{number}")

    report = await imported(theirs, ours)

    assert counts(report, "keys") == (10, 10, 0, 0, 0)
    assert len(await ours.keys.find(KeyQuery(limit=100))) == 10


async def test_an_older_version_with_fewer_tables_and_columns_comes(database_url: str, ours: Database) -> None:
    old = await LiteLLMDatabase.made(database_url, OLD_TABLES)
    await old.put("VerificationToken", token=hashed("sk-old"), max_budget=2.0, spend=1.0)
    await old.put("VerificationToken", token="sk-plain-text-key")
    await old.put("TeamTable", team_id="t", admins=["ada"], members=["ada", "bob"])

    report = await imported(old, ours, spend_logs=True)
    await old.close()

    record = await ours.keys.get(hashed("sk-old"))
    assert record is not None
    assert record.fields == {"max_budget": 2.0, "spend_base": 1.0, "spend_since": NOW}
    assert await ours.keys.get(hashed("sk-plain-text-key")) is not None
    members = await ours.directory.find(EntryQuery(Kind.MEMBER, team="t"))
    assert sorted((each.user, each.fields["role"]) for each in members) == [("ada", "admin"), ("bob", "user")]
    assert report.complete


async def test_a_team_whose_id_has_a_slash_is_named_with_the_reason(theirs: LiteLLMDatabase, ours: Database) -> None:
    await theirs.put("TeamTable", team_id="a/b", members_with_roles=[{"role": "user", "user_id": "ada"}])

    report = await imported(theirs, ours)

    assert tally(report, "teams").failures[0][0] == "a/b"
    assert counts(report, "team members") == (0, 0, 0, 0, 0)
