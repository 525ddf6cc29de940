"""From a key and everything that belongs to it to what it may do: which accounts, with which limits and budgets."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from broker import account_plans, policy
from broker.account_records import Entry, Kind, Resolved
from broker.policy import Policy
from broker.records import KeyRecord
from shared.accounts import NEVER, Account, Budget, charged
from shared.errors import KeyBlocked, KeyExpired
from shared.jobs import Job, Leg
from shared.management import Management
from shared.model_access import EVERYTHING
from shared.windows import Calendar

NOW = datetime(2026, 3, 12, 15, 47, tzinfo=UTC).timestamp()
TODAY = (datetime(2026, 3, 12, tzinfo=UTC).timestamp(), datetime(2026, 3, 13, tzinfo=UTC).timestamp())
MARCH = (datetime(2026, 3, 1, tzinfo=UTC).timestamp(), datetime(2026, 4, 1, tzinfo=UTC).timestamp())
KEY = KeyRecord("h", "sk-...abcd", alias="mine", user="u", team="t")
LABEL = "Key=mine (sk-...abcd)"
DOLLAR = 1_000_000_000
PLAIN = Management()


def of(*entries: Entry, key: KeyRecord = KEY, management: Management = PLAIN, **fields: Any) -> Policy:
    """The policy of a key with these fields, and of what belongs to it."""
    parts = {each.kind: each for each in entries if each.kind is not Kind.BUDGET}
    budgets = {each.id: each for each in entries if each.kind is Kind.BUDGET}
    found = Resolved(
        replace(key, fields=fields), parts.get(Kind.USER), parts.get(Kind.TEAM), parts.get(Kind.MEMBER), budgets
    )
    return policy.resolve(found, management)


def user(**fields: Any) -> Entry:
    return Entry(Kind.USER, "u", fields=fields)


def team(**fields: Any) -> Entry:
    return Entry(Kind.TEAM, "t", alias="Team T", fields=fields)


def member(**fields: Any) -> Entry:
    return Entry(Kind.MEMBER, "t/u", team="t", user="u", fields=fields)


def budget(id: str, **fields: Any) -> Entry:
    return Entry(Kind.BUDGET, id, fields=fields)


def test_a_key_without_limits_has_no_accounts() -> None:
    its = of(user(), team(), member(), models=["gpt-4o"])

    assert its.accounts("gpt-4o", None, NOW) == ()
    assert not its.limited


@pytest.mark.parametrize(
    ("entries", "fields", "accounts"),
    [
        ([], {"rpm_limit": 5, "tpm_limit": 9, "max_parallel_requests": 2}, [Account("key:h", 5, 9, 2, (), LABEL)]),
        ([], {"rpm_limit": 0}, [Account("key:h", 0, label=LABEL)]),
        ([], {"max_budget": 1.5}, [Account("key:h", budgets=(Budget(1_500_000_000, 0.0, NEVER),), label=LABEL)]),
        ([], {"max_budget": 0}, [Account("key:h", budgets=(Budget(0),), label=LABEL)]),
        (
            [],
            {"max_budget": 1, "budget_duration": "1d"},
            [Account("key:h", budgets=(Budget(DOLLAR, *TODAY),), label=LABEL)],
        ),
        (
            [],
            {"max_budget": 9, "budget_limits": [{"max_budget": 1, "budget_duration": "1d"},
                                                {"max_budget": 5, "budget_duration": "30d"}]},
            [Account("key:h", budgets=(Budget(9 * DOLLAR), Budget(DOLLAR, *TODAY), Budget(5 * DOLLAR, *MARCH)),
                     label=LABEL)],
        ),
        ([user(rpm_limit=3)], {}, [Account("user:u", 3, label="User=u")]),
        ([team(tpm_limit=3)], {}, [Account("team:t", tpm=3, label="Team=t")]),
        (
            [team(), member(max_budget_in_team=2, rpm_limit=7)],
            {},
            [Account("member:t/u", 7, budgets=(Budget(2 * DOLLAR),), label="User=u in Team=t")],
        ),
        (
            [team(team_member_budget=2, team_member_budget_duration="1mo", team_member_rpm_limit=4)],
            {},
            [Account("member:t/u", 4, budgets=(Budget(2 * DOLLAR, *MARCH),), label="User=u in Team=t")],
        ),
        (
            [team(team_member_budget=2), member(max_budget_in_team=1)],
            {},
            [Account("member:t/u", budgets=(Budget(DOLLAR),), label="User=u in Team=t")],
        ),
        (
            [user(rpm_limit=1), team(rpm_limit=2), member(rpm_limit=3)],
            {"rpm_limit": 4},
            [
                Account("key:h", 4, label=LABEL),
                Account("user:u", 1, label="User=u"),
                Account("team:t", 2, label="Team=t"),
                Account("member:t/u", 3, label="User=u in Team=t"),
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_set_becomes_an_account(entries: list[Entry], fields: dict[str, Any], accounts: list[Account]) -> None:
    assert of(*entries, **fields).accounts("gpt-4o", None, NOW) == tuple(accounts)


@pytest.mark.parametrize(
    ("fields", "accounts"),
    [
        ({"model_rpm_limit": {"gpt-4o": 5}}, {"gpt-4o": [("key:h/gpt-4o", 5, None, ())], "claude": []}),
        ({"model_tpm_limit": {"gpt-4o": 5}}, {"gpt-4o": [("key:h/gpt-4o", None, 5, ())]}),
        (
            {"model_max_budget": {"gpt-4o": {"budget_limit": "1", "time_period": "1d"}, "claude": {"budget_limit": 1}}},
            {"gpt-4o": [("key:h/gpt-4o", None, None, (Budget(DOLLAR, *TODAY),))],
             "claude": [("key:h/claude", None, None, (Budget(DOLLAR),))]},
        ),
        (
            {"model_max_budget": {"gpt-4o": {"budget_limit": 1, "time_period": "1d"}}, "rpm_limit": 1},
            {"gpt-4o": [("key:h", 1, None, ()), ("key:h/gpt-4o", None, None, (Budget(DOLLAR, *TODAY),))],
             "claude": [("key:h", 1, None, ())]},
        ),
        ({"model_max_budget": {"gpt-4o": {"max_budget": 1, "budget_duration": "1d"}}},
         {"gpt-4o": [("key:h/gpt-4o", None, None, (Budget(DOLLAR, *TODAY),))]}),
    ],
)  # fmt: skip
def test_limits_of_a_model_are_an_account_of_their_own(fields: dict[str, Any], accounts: dict[str, Any]) -> None:
    its = of(**fields)

    for model, expected in accounts.items():
        found = its.accounts(model, None, NOW)
        assert [(each.id, each.rpm, each.tpm, each.budgets) for each in found] == expected
    assert its.limited


def test_the_teams_limits_of_a_model_count_too() -> None:
    its = of(team(model_rpm_limit={"gpt-4o": 9}), model_rpm_limit={"gpt-4o": 5})

    assert [(each.id, each.rpm) for each in its.accounts("gpt-4o", None, NOW)] == [
        ("key:h/gpt-4o", 5), ("team:t/gpt-4o", 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "rpm", "limit", "window"),
    [
        ({}, 7, 2 * DOLLAR, TODAY),
        ({"rpm_limit": 1}, 1, 2 * DOLLAR, TODAY),
        ({"max_budget": 1}, 7, DOLLAR, TODAY),
        ({"rpm_limit": None, "budget_duration": "1mo"}, 7, 2 * DOLLAR, MARCH),
    ],
)
def test_a_budget_that_is_named_fills_in_what_is_not_set(
    own: dict[str, Any], rpm: int, limit: int, window: tuple[float, float]
) -> None:
    named = budget("b", rpm_limit=7, max_budget=2, budget_duration="1d")

    (account,) = of(named, budget_id="b", **own).accounts("m", None, NOW)

    assert (account.rpm, account.budgets) == (rpm, (Budget(limit, *window),))


@pytest.mark.parametrize(
    "nonsense",
    [
        {"max_budget": "much"}, {"max_budget": -1}, {"max_budget": float("nan")}, {"max_budget": True},
        {"rpm_limit": "five"}, {"rpm_limit": -5}, {"budget_limits": "x"}, {"budget_limits": [1, {}]},
        {"model_rpm_limit": [1]}, {"model_max_budget": {"m": {}}}, {"model_max_budget": {"m": "x"}},
        {"aliases": ["x"]}, {"models": "x"}, {"allowed_routes": "x"}, {"tags": "x"}, {"budget_id": "gone"},
        {"spend_base": "x", "spend_since": None},
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_counts_as_not_set(nonsense: dict[str, Any]) -> None:
    its = of(user(**nonsense), team(**nonsense), member(**nonsense), **nonsense)

    assert its.accounts("m", None, NOW) == ()
    assert its.access is EVERYTHING


def test_a_budget_with_a_duration_that_does_not_parse_holds_for_ever() -> None:
    (account,) = of(max_budget=1, budget_duration="sometimes").accounts("m", None, NOW)

    assert account.budgets == (Budget(DOLLAR),)


def test_an_account_has_no_more_budgets_than_can_be_asked_at_once() -> None:
    limits = [{"max_budget": number, "budget_duration": "1d"} for number in range(20)]

    (account,) = of(max_budget=1, budget_limits=limits).accounts("m", None, NOW)

    assert len(account.budgets) == account_plans.MOST_BUDGETS


@pytest.mark.parametrize(
    ("duration", "since", "budget"),
    [
        (None, NOW - 60, Budget(DOLLAR, NOW - 60, NEVER, 250_000_000)),
        ("1d", NOW - 60, Budget(DOLLAR, NOW - 60, TODAY[1], 250_000_000)),
        ("1d", TODAY[0], Budget(DOLLAR, *TODAY, 250_000_000)),
        ("1d", TODAY[0] - 1, Budget(DOLLAR, *TODAY)),
    ],
)
def test_spend_that_was_set_counts_in_the_window_in_which_it_was(
    duration: str | None, since: float, budget: Budget
) -> None:
    (account,) = of(max_budget=1, budget_duration=duration, spend_base=0.25, spend_since=since).accounts("m", None, NOW)

    assert account.budgets == (budget,)


def test_a_budget_starts_anew_when_its_window_is_over() -> None:
    its = of(max_budget=1, budget_duration="1d")
    (today,) = its.accounts("m", None, NOW)

    assert its.accounts("m", None, TODAY[1] - 0.001)[0] is today
    assert its.accounts("m", None, TODAY[1])[0].budgets[0].start == TODAY[1]
    assert its.accounts("m", None, NOW)[0].budgets == today.budgets, "even if the clock is set back"


def test_windows_follow_the_configured_calendar() -> None:
    management = Management(calendar=Calendar.of("Europe/Berlin", "06:00"))

    (account,) = of(max_budget=1, budget_duration="1d", management=management).accounts("m", None, NOW)

    assert account.budgets[0].start == datetime(2026, 3, 12, 5, tzinfo=UTC).timestamp()


def test_everybody_has_a_part_in_the_proxys_budget_the_master_key_too() -> None:
    management = Management(max_budget=100.0, budget_duration="30d")
    proxy = Account("proxy", budgets=(Budget(100 * DOLLAR, *MARCH),))

    assert of(management=management).accounts("m", None, NOW) == (proxy,)
    assert policy.master("digest", management).accounts("m", None, NOW) == (proxy,)
    assert policy.master("digest", PLAIN).accounts("m", None, NOW) == ()


def test_keys_without_a_parallel_limit_of_their_own_have_the_configured_one() -> None:
    management = Management(max_parallel_requests=3)

    assert [each.parallel for each in of(management=management).accounts("m", None, NOW)] == [3]
    assert [each.parallel for each in of(management=management, max_parallel_requests=5).accounts("m", None, NOW)] == [
        5
    ]


def test_the_ledger_charges_every_account_that_was_asked() -> None:
    full = {"rpm_limit": 1, "model_rpm_limit": {"m": 1}}
    its = of(user(**full), team(**full), member(rpm_limit=1), management=Management(max_budget=1.0), **full)
    customer = policy.customer("c", None, None, Management(max_end_user_budget=1.0))
    job = Job("j", "chat", "m", (Leg("p", "m", ("d",)),), b"", "", 0.0, 0.0, key="h", user="u", team="t", customer="c")

    asked = {account.id for account in its.accounts("m", customer, NOW)}

    assert len(asked) == 8
    assert asked == set(charged(job))


# Customers


@pytest.mark.parametrize(
    ("entry", "named", "management", "account"),
    [
        (None, None, PLAIN, None),
        (None, None, Management(max_end_user_budget=2.0), Account("customer:c", budgets=(Budget(2 * DOLLAR),))),
        (
            None,
            {"max_budget": 1, "budget_duration": "1d"},
            PLAIN,
            Account("customer:c", budgets=(Budget(DOLLAR, *TODAY),)),
        ),
        (
            {"max_budget": 1},
            None,
            Management(max_end_user_budget=2.0),
            Account("customer:c", budgets=(Budget(DOLLAR),)),
        ),
        ({"budget_id": "b"}, {"rpm_limit": 4}, PLAIN, Account("customer:c", 4)),
        ({"tpm_limit": 4}, None, PLAIN, Account("customer:c", tpm=4)),
    ],
)
def test_a_customer_has_its_own_limits_or_the_default_ones(
    entry: dict[str, Any] | None, named: dict[str, Any] | None, management: Management, account: Account | None
) -> None:
    found = policy.customer(
        "c",
        None if entry is None else Entry(Kind.CUSTOMER, "c", fields=entry),
        None if named is None else budget("b", **named),
        management,
    )

    accounts = () if found is None else of().accounts("m", found, NOW)
    assert accounts == (() if account is None else (replace(account, label="End User=c"),))


def test_a_customer_that_is_known_but_unlimited_may_still_be_blocked() -> None:
    found = policy.customer("c", Entry(Kind.CUSTOMER, "c", fields={"blocked": True}), None, PLAIN)

    assert found is not None
    assert (found.blocked, found.plans.at(NOW)) == (True, ())


# Whether it may be used at all


@pytest.mark.parametrize(
    ("key", "blocked_team", "kind", "message"),
    [
        (KEY, False, None, ""),
        (replace(KEY, expires_at=NOW + 1), False, None, ""),
        (replace(KEY, expires_at=NOW), False, KeyExpired,
         "Authentication Error - Expired Key. Key Expiry time 2026-03-12 15:47:00+00:00 "
         "and current time 2026-03-12 15:47:00+00:00"),
        (replace(KEY, blocked=True), False, KeyBlocked,
         "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin."),
        (KEY, True, KeyBlocked,
         "Authentication Error, Team=t is blocked. Update via `/team/unblock` if you're an admin."),
    ],
)  # fmt: skip
def test_why_nobody_may_use_a_key(
    key: KeyRecord, blocked_team: bool, kind: type[Exception] | None, message: str
) -> None:
    refusal = of(team(blocked=blocked_team), key=key).refusal(NOW)

    assert (type(refusal) if refusal else None, refusal.message if refusal else "") == (kind, message)


# What else


@pytest.mark.parametrize(
    ("entries", "key", "role"),
    [
        ([], replace(KEY, user=""), ""),
        ([], KEY, "internal_user"),
        ([user()], KEY, "internal_user"),
        ([user(user_role="proxy_admin_viewer")], replace(KEY, team=""), "proxy_admin_viewer"),
        ([user(user_role="proxy_admin")], replace(KEY, team=""), "proxy_admin"),
        # An admin of the team may have made it.
        ([user(user_role="proxy_admin")], KEY, "internal_user"),
        ([user(user_role="proxy_admin_viewer")], KEY, "internal_user_viewer"),
    ],
)
def test_a_key_has_the_role_of_its_user(entries: list[Entry], key: KeyRecord, role: str) -> None:
    assert of(*entries, key=key).role == role


@pytest.mark.parametrize(
    ("entries", "fields", "key", "lists"),
    [
        ([team(models=["a"]), user(models=["b"])], {"models": ["c"]}, KEY, [{"c"}, {"a"}]),
        ([user(models=["b"])], {"models": ["c"]}, replace(KEY, team=""), [{"c"}, {"b"}]),
        ([user(models=["no-default-models"])], {}, replace(KEY, team=""), [set()]),
        ([team(models=["a"])], {"models": ["all-team-models"]}, KEY, [{"a"}]),
        ([team(models=[]), user(models=["b"])], {}, KEY, []),
    ],
)
def test_the_teams_list_holds_for_its_keys_and_the_users_for_personal_ones(
    entries: list[Entry], fields: dict[str, Any], key: KeyRecord, lists: list[set[str]]
) -> None:
    assert [set(each.names) for each in of(*entries, key=key, **fields).access.lists] == lists


def test_aliases_of_the_key_go_before_those_of_the_team() -> None:
    its = of(team(model_aliases={"a": "of-team", "b": "of-team"}), aliases={"a": "of-key"})

    assert [its.access.target(name) for name in "abc"] == ["of-key", "of-team", "c"]


def test_a_policy_knows_whose_changes_concern_it() -> None:
    its = of(user(budget_id="b1"), team(), member(), budget("b1"), budget_id="b2")

    assert its.depends_on == {"user:u", "team:t", "member:t/u", "budget:b1", "budget:b2"}


def test_what_else_the_fields_say() -> None:
    its = of(tags=["a"], allowed_routes=["/v1/models"], on_limit="wait", rpm_limit=5, max_budget=1.5, tpm_limit="x")

    assert (its.tags, its.allowed_routes, its.waits) == (("a",), ("/v1/models",), True)
    assert its.limits == {"rpm_limit": 5, "max_budget": 1.5}
    assert not of(on_limit="refuse").waits
