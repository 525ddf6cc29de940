"""The catalog by itself: names to groups, groups to legs, weighted order."""

import random
from collections import Counter
from timeit import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import LONGEST_NAME, Catalog, Deployment, Routing, Wildcard, fingerprint
from shared.errors import ConfigError, UnknownModel
from shared.jobs import Leg
from shared.model_aliases import Alias


def deployment(id: str, group: str = "chat", provider: str = "openai", **fields: object) -> Deployment:
    return Deployment(id=id, group=group, provider=provider, model="m", **fields)  # type: ignore[arg-type]  # test data


def wildcard(pattern: str, model: str = "*", id: str = "w", provider: str = "openai") -> Wildcard:
    base = Deployment(id=id, group=pattern, provider=provider, model=model, credential="c")
    return Wildcard(pattern, model, {provider: base})


def rng() -> random.Random:
    return random.Random(7)


def stops(legs: tuple[Leg, ...]) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(leg.provider, leg.deployments, leg.fallback) for leg in legs]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("chat", "chat"),
        ("alias", "chat"),
        ("chained", "chat"),
        ("secretly", "chat"),
        ("to-a-wildcard", "groq/llama"),
        ("groq/llama", "groq/llama"),
        ("openai/gpt-4o", None),
        ("groq/", None),
        ("groq/*", None),
        ("Chat", None),
        ("groq/" + "x" * LONGEST_NAME, None),
    ],
)
def test_a_name_resolves_to_its_group(name: str, group: str | None) -> None:
    aliases = {
        "alias": Alias("chat"),
        "chained": Alias("alias"),
        "secretly": Alias("chat", hidden=True),
        "to-a-wildcard": Alias("groq/llama"),
    }
    catalog = Catalog([deployment("1")], [wildcard("groq/*", provider="groq")], aliases)

    assert catalog.resolve(name) == group


def test_models_lists_groups_visible_aliases_and_wildcards_as_written() -> None:
    aliases = {"seen": Alias("chat"), "unseen": Alias("chat", hidden=True)}
    catalog = Catalog([deployment("1"), deployment("2")], [wildcard("groq/*"), wildcard("groq/*", id="w2")], aliases)

    assert catalog.models() == ["chat", "seen", "groq/*"]


@pytest.mark.parametrize("aliases", [{"a": "b", "b": "a"}, {"a": "a"}, {"x": "a", "a": "b", "b": "c", "c": "a"}])
def test_aliases_in_a_cycle_are_refused(aliases: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"model_group_alias\.\w: aliases in a cycle \(.*a.*\): let one of them"):
        Catalog([deployment("1")], aliases={name: Alias(target) for name, target in aliases.items()})


def test_an_unknown_model_is_refused_in_litellms_words() -> None:
    with pytest.raises(UnknownModel) as raised:
        Catalog([deployment("1")]).plan("gpt-9", rng=rng())

    assert raised.value.message == (
        "{'error': '/chat/completions: Invalid model name passed in model=gpt-9. "
        "Call `/v1/models` to view available models for your key.'}"
    )
    assert raised.value.param == "model"


def test_one_provider_is_one_leg_with_the_best_order_first() -> None:
    catalog = Catalog([deployment("late", order=2), deployment("a"), deployment("b")])

    assert catalog.plan("chat", rng=rng()) == (Leg("openai", "chat", ("a", "b", "late")),)


def test_a_lower_order_comes_first_on_every_provider() -> None:
    catalog = Catalog(
        [deployment("o2", order=2), deployment("a1", provider="anthropic"), deployment("g3", provider="groq", order=3)]
    )

    assert [leg.deployments for leg in catalog.plan("chat", rng=rng())] == [("a1",), ("o2",), ("g3",)]


def test_the_first_provider_is_drawn_by_the_weight_of_its_deployments() -> None:
    catalog = Catalog(
        [deployment("o1"), deployment("o2", weight=2.0), deployment("a", provider="anthropic", weight=1.0)]
    )
    dice = rng()

    first = Counter(catalog.plan("chat", rng=dice)[0].provider for _ in range(4000))

    assert first["openai"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {leg.provider for leg in catalog.plan("chat", rng=dice)} == {"openai", "anthropic"}


def with_fallbacks(**routing: object) -> Catalog:
    groups = [deployment(str(each), group=str(each)) for each in range(9)]
    aliases = {"zero": Alias("0"), "one": Alias("1")}
    return Catalog(groups, aliases=aliases, routing=Routing(**routing))  # type: ignore[arg-type]  # test data


@pytest.mark.parametrize(
    ("routing", "model", "groups"),
    [
        ({}, "0", ["0"]),
        ({"fallbacks": {"0": ("1", "2")}}, "0", ["0", "1", "2"]),
        ({"fallbacks": {"0": ("1", "2")}}, "zero", ["0", "1", "2"]),
        ({"fallbacks": {"zero": ("3",), "0": ("1",)}}, "zero", ["0", "3"]),
        ({"fallbacks": {"0": ("one",)}}, "0", ["0", "1"]),
        ({"fallbacks": {"*": ("4",), "1": ("2",)}}, "0", ["0", "4"]),
        ({"fallbacks": {"1": ("2",)}, "default_fallbacks": ("8",)}, "0", ["0", "8"]),
        ({"fallbacks": {"0": ("1",)}, "default_fallbacks": ("8",)}, "0", ["0", "1"]),
        ({"default_fallbacks": ("8", "0")}, "0", ["0", "8"]),
        ({"fallbacks": {"0": ("0", "1", "1", "gone", "one")}}, "0", ["0", "1"]),
        ({"fallbacks": {"0": tuple("12345678")}}, "0", list("012345")),
        ({"fallbacks": {"0": tuple("12345678")}, "max_fallbacks": 0}, "0", ["0"]),
    ],
)
def test_fallback_groups_follow_the_named_one(routing: dict[str, object], model: str, groups: list[str]) -> None:
    route = with_fallbacks(**routing).plan(model, rng=rng())

    assert [leg.group for leg in route] == groups
    assert [leg.fallback for leg in route] == [False] + [True] * (len(groups) - 1)


@pytest.mark.parametrize(("own", "groups"), [(["3", "one"], ["0", "3", "1"]), ([], ["0"]), (["gone"], ["0"])])
def test_a_requests_own_fallbacks_replace_the_configured_ones(own: list[str], groups: list[str]) -> None:
    catalog = with_fallbacks(fallbacks={"0": ("1",)}, default_fallbacks=("8",))
    catalog.plan("0", rng=rng())

    assert [leg.group for leg in catalog.plan("0", fallbacks=own, rng=rng())] == groups
    assert [leg.group for leg in catalog.plan("0", rng=rng())] == ["0", "1"]


def test_a_worker_can_ask_for_the_legs_of_a_context_window_fallback() -> None:
    catalog = with_fallbacks(context_window_fallbacks={"0": ("1", "gone")}, content_policy_fallbacks={"0": ("2",)})

    assert catalog.context_window_fallbacks("0") == ("1", "gone")
    assert catalog.content_policy_fallbacks("0") == ("2",)
    assert catalog.context_window_fallbacks("5") == ()
    assert stops(catalog.legs_for(catalog.context_window_fallbacks("0"))) == [("openai", ("1",), True)]


def test_the_most_specific_wildcard_wins_and_an_exact_name_over_both() -> None:
    wide, narrow = wildcard("openai/*", id="wide"), wildcard("openai/gpt-*", "gpt-*", id="narrow")
    catalog = Catalog([deployment("exact", group="openai/gpt-4o")], [wide, narrow])

    found = [catalog.plan(f"openai/{name}", rng=rng())[0].deployments for name in ("gpt-4o", "gpt-5", "o3")]

    assert found == [("exact",), ("narrow:5",), ("wide:o3",)]


@pytest.mark.parametrize(
    ("pattern", "model", "name", "upstream", "id"),
    [
        ("openai/*", "*", "openai/gpt-4o", "gpt-4o", "w:gpt-4o"),
        ("openai/*", "*", "openai/ft:gpt-4o:org::id", "ft:gpt-4o:org::id", "w:ft:gpt-4o:org::id"),
        ("claude-*", "claude-*", "claude-opus", "claude-opus", "w:opus"),
        ("my-*", "gpt-4o", "my-bot", "gpt-4o", "w:bot"),
        ("a/*/b-*", "*-*", "a/x/b-y", "x-y", "w:x*y"),
        ("*", "*", "meta/llama", "meta/llama", "w:meta/llama"),
    ],
)
def test_a_wildcard_makes_the_same_deployment_from_the_name_and_from_the_id(
    pattern: str, model: str, name: str, upstream: str, id: str
) -> None:
    catalog, elsewhere = (Catalog([], [wildcard(pattern, model)]) for _ in range(2))

    (by_name,) = catalog.group(name)

    assert (by_name.id, by_name.group, by_name.model) == (id, name, upstream)
    assert by_name.bucket == fingerprint("c", upstream)
    assert elsewhere.deployment(id) == by_name


def test_all_entries_of_one_wildcard_are_one_group() -> None:
    catalog = Catalog([], [wildcard("g/*", id="1"), wildcard("x/*", id="x"), wildcard("g/*", id="2")])

    assert [each.id for each in catalog.group("g/m")] == ["1:m", "2:m"]


def test_a_bare_name_finds_the_wildcard_of_its_provider() -> None:
    catalog = Catalog([], [wildcard("openai/*"), wildcard("anthropic/*", id="a", provider="anthropic")])

    assert catalog.resolve("gpt-4o") == "openai/gpt-4o"
    assert catalog.resolve("claude-opus-4") == "anthropic/claude-opus-4"
    assert catalog.resolve("nobody-knows") is None


@pytest.mark.parametrize("id", ["gone", "gone:gpt-4o", "", "w"])
def test_an_id_of_another_config_is_a_key_error(id: str) -> None:
    with pytest.raises(KeyError):
        Catalog([deployment("1")], [wildcard("openai/*")]).deployment(id)


def test_shuffle_keeps_orders_apart_and_puts_weight_zero_last() -> None:
    catalog = Catalog([])
    members = [deployment("z", weight=0.0), deployment("late", order=2, weight=99.0), deployment("a"), deployment("b")]
    dice = rng()

    shuffled = [[each.id for each in catalog.shuffle(members, dice)] for _ in range(50)]

    assert {tuple(each[2:]) for each in shuffled} == {("z", "late")}
    assert {each[0] for each in shuffled} == {"a", "b"}


def test_shuffle_puts_a_deployment_first_as_often_as_its_weight_says() -> None:
    members = [deployment("light", weight=1.0), deployment("heavy", weight=4.0)]
    catalog, dice = Catalog(members), rng()

    first = Counter(catalog.shuffle(members, dice)[0].id for _ in range(4000))

    assert first["heavy"] / 4000 == pytest.approx(0.8, abs=0.03)


@given(st.lists(st.tuples(st.sampled_from("opq"), st.integers(1, 3), st.floats(0, 9)), min_size=1, max_size=8))
def test_every_deployment_is_on_the_route_once_and_orders_never_fall(members: list[tuple[str, int, float]]) -> None:
    catalog = Catalog(
        deployment(str(index), provider=provider, order=order, weight=weight)
        for index, (provider, order, weight) in enumerate(members)
    )

    ids = [id for leg in catalog.plan("chat", rng=rng()) for id in leg.deployments]

    assert sorted(ids, key=int) == [str(index) for index in range(len(members))]
    orders = [catalog.deployment(id).order for id in ids]
    assert orders == sorted(orders)


def test_names_that_clients_make_up_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.catalog.CACHE_ENTRIES", 8)
    catalog = Catalog([], [wildcard("openai/*")])

    for number in range(50):
        catalog.plan(f"openai/{number}", rng=rng())

    assert len(catalog._plans) <= 8


def test_planning_a_simple_group_costs_microseconds() -> None:
    catalog, dice = Catalog([deployment("1")]), rng()

    best = min(timeit(lambda: catalog.plan("chat", rng=dice), number=1000) for _ in range(20)) / 1000

    assert best < 5e-6  # seconds; the measured cost is a twentieth of it, so a busy machine passes, too
