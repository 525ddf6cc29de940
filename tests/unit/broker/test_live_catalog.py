"""The catalog follows the database: by announcements, by looking, and whenever somebody asks."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from broker import live_catalog, model_rows
from broker.account_records import Actor, Entry, EntryQuery, Kind
from broker.events.memory import MemoryEventLog
from broker.live_catalog import MODELS, LiveCatalog
from shared.catalog import Catalog
from shared.catalog_builder import build_catalog
from shared.config import build
from shared.config_files import Document
from shared.errors import ConfigError, Unavailable
from shared.secrets import Sealer
from tests.fakes.clock import FakeClock
from tests.fakes.directory import FakeDirectory, FakeKeys
from tests.fakes.seams import until

SOMEBODY = Actor("somebody")
CONFIG = build(
    [Document("config.yaml", {"model_list": [{"model_name": "chat", "litellm_params": {"model": "openai/gpt-4o"}}]})],
    {"OPENAI_API_KEY": "sk-env"},
)
SEALER = Sealer("salt")


class CountingDirectory(FakeDirectory):
    def __init__(self) -> None:
        clock = FakeClock()
        super().__init__(clock, FakeKeys(clock))
        self.keys.directory = self
        self.away = False
        self.looks = 0
        self.finds = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def version(self, kind: Kind) -> str:
        self.looks += 1
        version = await super().version(kind)
        await self.may_answer.wait()
        if self.away:
            raise Unavailable("the fake database is away")
        return version

    async def find(self, query: EntryQuery) -> list[Entry]:
        self.finds += 1
        return await super().find(query)


@dataclass
class World:
    catalog: Catalog
    directory: CountingDirectory
    log: MemoryEventLog
    live: LiveCatalog
    declared: list[str] = field(default_factory=list)

    async def add(self, id: str, name: str = "stored", model: str = "openai/o3", **params: object) -> None:
        fields = model_rows.fields({"model": model, "api_key": "sk-1", **params}, {}, SEALER)
        assert await self.directory.add([Entry(Kind.MODEL, id, alias=name, fields=fields)], SOMEBODY) == []


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    catalog, directory, declared = build_catalog(CONFIG), CountingDirectory(), list[str]()

    async def declare(providers: Sequence[str]) -> None:
        assert "groq" not in catalog.providers(), "lanes come before the catalog that names them"
        declared.extend(providers)

    async with MemoryEventLog() as log:
        live = LiveCatalog(catalog, CONFIG, directory, log, SEALER, declare)
        yield World(catalog, directory, log, live, declared)


@asynccontextmanager
async def running(it: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(it.live.run())
        yield
        task.cancel()


async def test_a_model_of_the_database_is_in_the_catalog_with_its_lane() -> None:
    async with world() as it:
        await it.add("1", model="groq/llama")

        await it.live.renew()

        [deployment] = it.catalog.group("stored")
        assert (deployment.id, deployment.provider, deployment.api_key) == ("1", "groq", "sk-1")
        assert deployment.info["db_model"] is True
        assert it.declared == ["groq", "openai"]


async def test_a_model_that_was_removed_is_gone() -> None:
    async with world() as it:
        await it.add("1")
        await it.live.renew()
        await it.directory.remove(Kind.MODEL, ["1"], SOMEBODY)

        await it.live.renew()

        assert it.catalog.models() == ["chat"]


async def test_an_unchanged_database_is_not_read_again() -> None:
    async with world() as it:
        await it.add("1")
        await it.live.renew()

        await it.live.renew()

        assert (it.directory.looks, it.directory.finds) == (2, 1)


async def test_many_who_ask_at_a_time_share_a_look_that_began_after_they_asked() -> None:
    async with world() as it:
        it.directory.may_answer.clear()
        first = asyncio.create_task(it.live.renew())
        await until(lambda: it.directory.looks == 1)
        await it.add("1")  # after the first look read the version
        others = [asyncio.create_task(it.live.renew()) for _ in range(50)]

        it.directory.may_answer.set()
        await asyncio.gather(first, *others)

        assert "stored" in it.catalog.models()
        assert it.directory.looks == 2


async def test_an_announced_change_is_there_at_once() -> None:
    async with world() as it, running(it):
        await until(lambda: it.directory.looks == 1)
        await it.add("1")

        await it.log.announce_change(MODELS)

        async with asyncio.timeout(live_catalog.LOOK_EVERY / 2):
            await until(lambda: "stored" in it.catalog.models())


async def test_other_changes_are_none_of_its_business() -> None:
    async with world() as it, running(it):
        await until(lambda: it.directory.looks == 1)

        await it.log.announce_change("key:abc")
        await asyncio.sleep(0)

        assert it.directory.looks == 1


async def test_a_change_that_nobody_announced_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_catalog, "LOOK_EVERY", 0.01)
    async with world() as it, running(it):
        await until(lambda: it.directory.looks == 1)

        await it.add("1")

        await until(lambda: "stored" in it.catalog.models())


async def test_while_the_database_is_away_the_known_models_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_catalog, "_RETRY", 0.01)
    async with world() as it:
        await it.add("1")
        await it.live.renew()
        it.directory.away = True
        async with running(it):
            await until(lambda: it.directory.looks >= 4)
            assert "stored" in it.catalog.models()

            it.directory.away = False
            await it.add("2", name="another")
            await until(lambda: "another" in it.catalog.models())


async def test_a_model_that_cannot_run_is_told_of_once_and_harms_no_other() -> None:
    async with world() as it:
        await it.add("bad", model="nobody/model")
        await it.add("good")

        with capture_logs() as logs:
            await it.live.renew()
            await it.add("more", name="more")
            await it.live.renew()

        warnings = [each["event"] for each in logs if each["log_level"] == "warning"]
        assert it.catalog.models() == ["chat", "stored", "more"]
        assert len(warnings) == 1
        assert "model 'stored' (bad)" in warnings[0]


async def test_another_salt_key_is_named_with_the_model_and_nothing_else() -> None:
    async with world() as it:
        it.live.sealer = Sealer("another salt")
        await it.add("1")

        with capture_logs() as logs:
            await it.live.renew()

        warnings = [each["event"] for each in logs if each["log_level"] == "warning"]
        assert it.catalog.models() == ["chat"]
        assert len(warnings) == 1
        assert "model 'stored' (1)" in warnings[0]
        assert "HEADRACE_SALT_KEY" in warnings[0]


async def test_a_blocked_model_is_kept_and_not_served() -> None:
    async with world() as it:
        fields = model_rows.fields({"model": "openai/o3", "api_key": "sk-1"}, {"blocked": True}, SEALER)
        await it.directory.add([Entry(Kind.MODEL, "1", alias="stored", fields=fields)], SOMEBODY)

        await it.live.renew()

        assert it.catalog.models() == ["chat"]


@pytest.mark.parametrize(
    ("id", "params", "told"),
    [
        ("new", {"model": "nobody/model"}, "this request: model.litellm_params.model: unknown provider 'nobody'"),
        ("new", {}, "this request: model.litellm_params.model"),
        ("new", {"model": "anthropic/claude"}, "ANTHROPIC_API_KEY"),
        ("new", {"model": "openai/x", "rpm": -1}, "litellm_params.rpm"),
    ],
)
async def test_a_model_that_could_not_run_is_refused_before_it_is_kept(
    id: str, params: dict[str, object], told: str
) -> None:
    async with world() as it:
        await it.add("1", model="nobody/either")

        with pytest.raises(ConfigError) as caught:
            await it.live.check(id, "stored", params, {})

        assert told in str(caught.value)


async def test_a_model_is_checked_in_its_own_place_when_it_is_changed() -> None:
    async with world() as it:
        await it.add("1")

        await it.live.check("1", "renamed", {"model": "openai/o3"}, {})


async def test_a_change_that_cannot_be_announced_is_done_all_the_same() -> None:
    async with world() as it:
        await it.add("1")
        it.directory.away = True

        await it.live.changed()

        it.directory.away = False
        async with running(it):
            await until(lambda: "stored" in it.catalog.models())
