"""An import from LiteLLM in a test: what it had, and what came."""

from datetime import datetime
from typing import Any

import orjson

from broker.account_records import EntryQuery, KeyQuery, Kind
from broker.litellm import source as litellm
from broker.litellm.importer import Importer, Task
from broker.litellm.report import Report, Tally
from broker.litellm.rows import Moment
from broker.records import SpendQuery
from broker.store.database import Database
from shared.config import build
from shared.config_files import Document
from shared.secrets import Sealer
from tests.fakes.litellm_database import SALT, LiteLLMDatabase, boxed, hashed

NOW = 1_767_268_800.0
NOON = datetime(2025, 12, 31, 12)
OURS = "sk-our-own-salt"
CONFIG = build([Document("config.yaml", {})], {})


async def imported(theirs: LiteLLMDatabase, ours: Database, *, salt: str | None = SALT, **task: Any) -> Report:
    logs = task.pop("spend_logs", False)
    sealer = None if salt is None else Sealer(salt)
    made = Task(Moment(NOW, logs), sealer, Sealer(OURS), CONFIG, **task)
    async with litellm.connect(theirs.url) as source:
        return await Importer(source, ours, made).run()


def tally(report: Report, kind: str) -> Tally:
    return next(each for each in report.tallies if each.kind == kind)


def counts(report: Report, kind: str) -> tuple[int, int, int, int, int]:
    it = tally(report, kind)
    return it.read, it.added, it.there, it.left_out, it.failed


async def everything(ours: Database) -> bytes:
    entries = [each for kind in Kind for each in await ours.directory.find(EntryQuery(kind, limit=1000))]
    keys = await ours.keys.find(KeyQuery(limit=1000))
    rows = await ours.spend(SpendQuery(limit=1000))
    return orjson.dumps([entries, keys, rows], option=orjson.OPT_SORT_KEYS)


async def filled(theirs: LiteLLMDatabase) -> None:
    """One of everything."""
    await theirs.put("BudgetTable", budget_id="b1", max_budget=50.0, budget_duration="30d", soft_budget=40.0)
    await theirs.put(
        "UserTable", user_id="ada", user_email="ada@example.com", user_role="internal_user", max_budget=9.5, spend=1.25,
        password="scrypt:secret", metadata={"from": "hr", "model_rpm_limit": {"gpt": 3}},
    )  # fmt: skip
    await theirs.put("ModelTable", id=7, aliases={"fast": "gpt"})
    await theirs.put(
        "TeamTable", team_id="research", team_alias="Research", model_id=7, max_budget=100.0, spend=10.0, rpm_limit=60,
        members_with_roles=[{"role": "admin", "user_id": "ada"}, {"role": "user", "user_email": "x@y.z"}],
        models=["gpt"], metadata={"team_member_budget_id": "b1", "tags": ["t"]},
    )  # fmt: skip
    await theirs.put("TeamMembership", user_id="ada", team_id="research", spend=2.0, total_spend=3.0, budget_id="b1")
    await theirs.put("EndUserTable", user_id="customer-1", alias="One", spend=0.5, budget_id="b1", blocked=True)
    await theirs.key(
        "sk-ada", key_alias="ada-laptop", user_id="ada", team_id="research", models=["gpt"], max_budget=5.0, spend=4.5,
        total_spend=44.0, budget_duration="30d", tpm_limit=1000, expires=NOON, budget_id="b1",
        metadata={"purpose": "laptop", "model_tpm_limit": {"gpt": 7}, "tags": ["a"]}, blocked=False,
    )  # fmt: skip
    await theirs.model(
        "m1",
        "gpt",
        {"model": boxed("openai/gpt-4o"), "api_key": boxed("sk-upstream"), "rpm": 60},
        model_info={"id": "m1"},
    )
    await theirs.put("Config", param_name="router_settings", param_value={"num_retries": 2, "secret": "hunter2"})
    await theirs.put("OrganizationTable", organization_id="org", organization_alias="Org")
    await theirs.put("DailyUserSpend", id="1", spend=1.0)
    await theirs.log("chatcmpl-1", NOON, spend=0.25, api_key=hashed("sk-ada"), model="gpt-4o", model_group="gpt")
