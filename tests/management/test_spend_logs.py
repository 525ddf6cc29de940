"""`/spend/logs` and `/spend/logs/v2`: rows of the ledger as LiteLLM's users know them, for those who may see them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from shared.jobs import Outcome, Status, Usage
from tests.fakes.management import KEY, Managed, bearer, hashed, managed
from tests.management.spending import DAY, Spending

TODAY, YESTERDAY = "2026-01-01", "2025-12-31"
SPAN = {"start_date": "2025-12-01", "end_date": TODAY}


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


@pytest.fixture
def spending(it: Managed) -> Spending:
    return Spending(it)


async def logs(it: Managed, by: str = KEY, **query: Any) -> Any:
    answer = await it.get(f"/spend/logs?{urlencode(query)}", by=by)
    assert answer.status == 200, answer.body
    return answer.json


async def page(it: Managed, by: str = KEY, **query: Any) -> Any:
    answer = await it.get(f"/spend/logs/v2?{urlencode({**SPAN, **query})}", by=by)
    assert answer.status == 200, answer.body
    return answer.json


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["litellm_call_id"] for row in rows]


# --- Rows -----------------------------------------------------------------------------------------------------------

COLUMNS = {
    "request_id", "call_type", "api_key", "spend", "total_tokens", "prompt_tokens", "completion_tokens", "startTime",
    "endTime", "request_duration_ms", "completionStartTime", "model", "model_id", "model_group", "custom_llm_provider",
    "api_base", "user", "metadata", "cache_hit", "cache_key", "request_tags", "team_id", "organization_id", "end_user",
    "requester_ip_address", "messages", "response", "session_id", "status", "mcp_namespaced_tool_name", "agent_id",
    "proxy_server_request", "litellm_call_id", "created_at", "updated_at",
}  # fmt: skip
METADATA = {
    "user_api_key", "user_api_key_alias", "user_api_key_team_id", "user_api_key_team_alias", "user_api_key_org_id",
    "user_api_key_user_id", "user_api_key_user_email", "spend_logs_metadata", "requester_ip_address",
    "litellm_call_id", "status", "usage_object", "additional_usage_values", "attempted_retries",
    "original_model_group", "cost_breakdown",
}  # fmt: skip


async def test_a_row_has_litellms_columns_and_the_keys_of_its_metadata(it: Managed, spending: Spending) -> None:
    await it.user("ann", user_email="ann@example.com")
    await it.team("t", members=["ann"])
    key = await it.key("ann", "t", alias="bot")
    usage = Usage(input=10, cache_read=20, cache_write=3, cache_write_1h=4, output=50, reasoning=30)
    made = await spending.add(key, 1_234_567_891, usage=usage, customer="acme", tags=("a", "b"), ttft=0.5)

    (row,) = await logs(it)

    assert set(row) >= COLUMNS
    assert set(row["metadata"]) >= METADATA
    assert (row["request_id"], row["litellm_call_id"], row["api_key"]) == ("chatcmpl-0", made.job_id, hashed(key))
    assert row["spend"] == 1.234567891
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (37, 50, 87)
    assert (row["startTime"], row["endTime"]) == ("2026-01-01T12:00:00.000Z", "2026-01-01T12:00:01.500Z")
    assert (row["completionStartTime"], row["request_duration_ms"]) == ("2026-01-01T12:00:00.500Z", 1500)
    assert (row["user"], row["end_user"], row["team_id"], row["request_tags"]) == ("ann", "acme", "t", ["a", "b"])
    assert (row["model"], row["model_group"], row["model_id"]) == ("gpt", "chat", "d")
    assert (row["call_type"], row["custom_llm_provider"], row["status"]) == ("acompletion", "openai", "success")
    metadata = row["metadata"]
    assert (metadata["user_api_key_alias"], metadata["user_api_key_user_email"]) == ("bot", "ann@example.com")
    assert metadata["usage_object"]["prompt_tokens_details"]["cached_tokens"] == 20
    assert metadata["usage_object"]["cache_creation_input_tokens"] == 7
    assert metadata["usage_object"]["completion_tokens_details"] == {"reasoning_tokens": 30}
    assert metadata["cost_breakdown"] == {"total_cost": 1.234567891}


async def test_a_failure_says_why_and_has_an_id_of_its_own(it: Managed, spending: Spending) -> None:
    await spending.add(
        status=Status.FAILURE, attempt=2, response_id="chatcmpl-x", error_code="upstream_server_error",
        error_message="it broke",
    )  # fmt: skip

    (row,) = await logs(it)

    assert (row["request_id"], row["status"], row["metadata"]["attempted_retries"]) == ("chatcmpl-x-2", "failure", 1)
    assert row["metadata"]["error_information"] == {
        "error_code": "500", "error_class": "InternalServerError", "error_message": "it broke",
        "llm_provider": "openai", "traceback": "", "headrace_code": "upstream_server_error",
    }  # fmt: skip


async def test_prompts_that_are_kept_are_shown_with_their_request_alone(it: Managed, spending: Spending) -> None:
    request = '{"model":"chat","messages":[{"role":"user","content":"hi"}]}'
    made = await spending.add(request=request, response='{"id":"1"}')

    (listed,) = await logs(it)
    (shown,) = await logs(it, request_id=made.job_id)

    assert (listed["messages"], listed["response"], listed["proxy_server_request"]) == ({}, {}, {})
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert shown["response"] == {"id": "1"}
    assert shown["proxy_server_request"]["model"] == "chat"


# --- The old form ---------------------------------------------------------------------------------------------------


async def test_between_two_dates_spend_is_summed_up_by_day_to_the_nanodollar(it: Managed, spending: Spending) -> None:
    for _ in range(3):
        await spending.add(nano=100_000_000, user="ann", days_ago=2)
    await spending.add(nano=1, upstream_model="other", days_ago=2)

    days = await logs(it, **SPAN)

    assert days == [
        {
            "startTime": "2025-12-30",
            "spend": 0.300000001,
            "users": {"": 1e-09, "ann": 0.3},
            "models": {"gpt": 0.3, "other": 1e-09},
        },
        {"startTime": YESTERDAY, "spend": 0.0, "users": {}, "models": {}},
        {"startTime": TODAY, "spend": 0.0, "users": {}, "models": {}},
    ]


async def test_rows_of_the_dates_come_instead_if_no_summary_is_wanted(it: Managed, spending: Spending) -> None:
    await spending.add(days_ago=3)
    kept = [await spending.add(days_ago=1.5), await spending.add(days_ago=1)]
    await spending.add()

    rows = await logs(it, start_date="2025-12-31", end_date="2025-12-31", summarize="false")

    assert ids(rows) == [kept[1].job_id, kept[0].job_id]  # one of them at midnight


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"start_date": "yesterday"}, 400),
        ({"end_date": "2026-02-30"}, 400),
        ({"end_date": "9999-12-31"}, 200),
        ({"start_date": "0001-01-01", "end_date": "9999-12-31"}, 200),
        ({"limit": 0}, 422),
        ({"limit": 10_001}, 422),
        ({"api_key": "x" * 600}, 422),
    ],
)
async def test_dates_and_bounds_are_checked(it: Managed, query: dict[str, Any], status: int) -> None:
    assert (await it.get(f"/spend/logs?{urlencode(query)}")).status == status


# --- Pages ----------------------------------------------------------------------------------------------------------


async def test_pages_follow_each_other_and_count_all(it: Managed, spending: Spending) -> None:
    made = [await spending.add(days_ago=number / 24) for number in range(5)]

    pages = [await page(it, page=number, page_size=2) for number in (1, 2, 3, 4)]

    assert [each for found in pages for each in ids(found["data"])] == [row.job_id for row in made]
    assert {name: value for name, value in pages[0].items() if name != "data"} == {
        "total": 5, "page": 1, "page_size": 2, "total_pages": 3, "total_is_capped": False,
    }  # fmt: skip
    assert (pages[3]["data"], pages[3]["total"]) == ([], 5)


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("startTime", [0, 1, 2]),
        ("spend", [2, 0, 1]),
        ("total_tokens", [1, 2, 0]),
        ("endTime", [0, 2, 1]),
        ("request_duration_ms", [0, 2, 1]),
        ("ttft_ms", [1, 2, 0]),
        ("model", [2, 1, 0]),
    ],
)
async def test_rows_can_be_sorted_by(it: Managed, spending: Spending, column: str, order: list[int]) -> None:
    made = [
        await spending.add(
            nano=nano, days_ago=days, duration=duration, ttft=ttft, usage=Usage(input=tokens), upstream_model=model
        )
        for nano, days, duration, ttft, tokens, model in [
            (2, 3, 1.0, 0.9, 30, "c"), (3, 2, 3 * DAY, None, 10, "b"), (1, 1, 20.0, 0.1, 20, "a"),
        ]
    ]  # fmt: skip

    upwards = await page(it, sort_by=column, sort_order="asc")
    downwards = await page(it, sort_by=column, sort_order="desc")

    assert ids(upwards["data"]) == [made[number].job_id for number in order]
    assert ids(downwards["data"]) == [made[number].job_id for number in reversed(order)]


FILTERS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "key": ({"api_key": "sk-of-ann-t-unnamed"}, [0]),
    "hash of a key": ({"api_key": hashed("sk-of-ann-t-unnamed")}, [0]),
    "alias": ({"key_alias": "bot"}, [1]),
    "alias that nobody has": ({"key_alias": "nope"}, []),
    "user": ({"user_id": "ann"}, [0]),
    "team": ({"team_id": "t"}, [0]),
    "customer": ({"end_user": "acme"}, [1]),
    "group": ({"model_group": "other"}, [1]),
    "model": ({"model": "gpt"}, [0, 1, 2]),
    "success": ({"status_filter": "success"}, [0, 1]),
    "failure": ({"status_filter": "failure"}, [2]),
    "least": ({"min_spend": 0.000000002}, [1, 2]),
    "most": ({"max_spend": "0.000000002"}, [0, 1]),
    "id": ({"request_id": "chatcmpl-1"}, [1]),
    "from a second on": ({"start_date": "2026-01-01 12:00:00"}, [0]),
    "until a second": ({"end_date": "2025-12-31 12:00:00"}, [1, 2]),
    "until the second before": ({"end_date": "2025-12-31 11:59:59"}, [2]),
    "two at once": ({"min_spend": 0, "status_filter": "success", "end_user": "acme"}, [1]),
    "nothing": ({"api_key": "", "user_id": "", "team_id": "", "end_user": ""}, [0, 1, 2]),
}


@pytest.mark.parametrize(("query", "expected"), FILTERS.values(), ids=FILTERS)
async def test_filters_pick_rows(it: Managed, spending: Spending, query: dict[str, Any], expected: list[int]) -> None:
    rows = [
        await spending.add(await it.key("ann", "t"), nano=1),
        await spending.add(await it.key(alias="bot"), nano=2, days_ago=1, customer="acme", group="other"),
        await spending.add(nano=3, days_ago=2, status=Status.CANCELLED),
    ]

    found = await page(it, **query)

    assert ids(found["data"]) == [rows[number].job_id for number in expected]
    assert found["total"] == len(expected)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"sort_by": "cost"}, 400, "Invalid sort_by: cost. Must be one of: "),
        ({"sort_order": "up"}, 400, "Invalid sort_order: up. Must be one of: asc, desc"),
        ({"start_date": ""}, 400, "Start date and end date are required"),
        ({"end_date": "soon"}, 400, "Invalid date format: 'soon'. Expected: 'YYYY-MM-DD' or 'YYYY-MM-DD HH:MM:SS'"),
        ({"status_filter": "maybe"}, 400, "Invalid status_filter: maybe."),
        ({"page": 0}, 422, ""),
        ({"page_size": 1001}, 422, ""),
        ({"min_spend": "nan"}, 422, ""),
        ({"min_spend": -1}, 422, ""),
        ({"key_alias": "a\r\nset-cookie: b"}, 400, "key_alias must not contain control characters."),
    ],
)
async def test_bad_questions_are_refused_as_litellm_refuses_them(
    it: Managed, query: dict[str, Any], status: int, message: str
) -> None:
    answer = await it.get(f"/spend/logs/v2?{urlencode({**SPAN, **query})}")

    assert answer.status == status
    if status == 422:
        assert isinstance(answer.json["detail"], list)
    else:
        assert answer.error["message"].startswith(message)


async def test_one_request_is_found_without_dates(it: Managed, spending: Spending) -> None:
    made = await spending.add(days_ago=400)

    answer = await it.get(f"/spend/logs/v2?request_id={made.job_id}")

    assert ids(answer.json["data"]) == [made.job_id]


async def test_a_page_that_nobody_reaches_costs_no_look_at_the_ledger(it: Managed, spending: Spending) -> None:
    await spending.add()

    found = await page(it, page=10**12, page_size=1000)

    assert (found["data"], found["total"]) == ([], 1)


# --- Who may see them -----------------------------------------------------------------------------------------------


async def people(it: Managed, spending: Spending) -> dict[str, Outcome]:
    """Ann and Bob in a team that Cleo leads, and a key of nobody."""
    for name, role in [("ann", "internal_user"), ("bob", "internal_user"), ("cleo", "internal_user")]:
        await it.user(name, role)
    await it.user("eve", "proxy_admin_viewer")
    await it.team("t", admins=["cleo"], members=["ann", "bob"])
    return {
        "ann": await spending.add("sk-of-ann-no-team-unnamed"),
        "ann in t": await spending.add(await it.key("ann", "t")),
        "bob in t": await spending.add(await it.key("bob", "t")),
        "cleo": await spending.add("sk-of-cleo-no-team-unnamed"),
        "nobody": await spending.add(await it.key()),
        "service": await spending.add(await it.key(team="t")),
    }


SEEN: dict[str, tuple[str, dict[str, str], set[str] | int]] = {
    "the master key": (KEY, {}, {"ann", "ann in t", "bob in t", "cleo", "nobody", "service"}),
    "a viewer": ("sk-of-eve-no-team-unnamed", {}, {"ann", "ann in t", "bob in t", "cleo", "nobody", "service"}),
    "a user": ("sk-of-ann-no-team-unnamed", {}, {"ann", "ann in t"}),
    "a user by name": ("sk-of-ann-no-team-unnamed", {"user_id": "ann"}, {"ann", "ann in t"}),
    "a user of another": ("sk-of-ann-no-team-unnamed", {"user_id": "bob"}, 403),
    "a user of another's key": ("sk-of-ann-no-team-unnamed", {"api_key": "sk-of-bob-t-unnamed"}, set()),
    "a member of the team": ("sk-of-ann-no-team-unnamed", {"team_id": "t"}, {"ann in t"}),
    "a member of another's part": ("sk-of-ann-no-team-unnamed", {"team_id": "t", "user_id": "bob"}, 403),
    "the team's admin": ("sk-of-cleo-no-team-unnamed", {"team_id": "t"}, {"ann in t", "bob in t", "service"}),
    "the team's admin of a member": ("sk-of-cleo-no-team-unnamed", {"team_id": "t", "user_id": "bob"}, {"bob in t"}),
    "a user of a team that is not its own": ("sk-of-ann-no-team-unnamed", {"team_id": "u"}, 403),
    "a key of nobody": ("sk-of-nobody-no-team-unnamed", {}, {"nobody"}),
    "a key of nobody, of a user": ("sk-of-nobody-no-team-unnamed", {"user_id": "ann"}, 403),
    "a key of nobody, of another": ("sk-of-nobody-no-team-unnamed", {"api_key": "sk-of-ann-t-unnamed"}, 403),
    "a team's own key": ("sk-of-nobody-t-unnamed", {"team_id": "t"}, {"service"}),
}


@pytest.mark.parametrize("path", ["/spend/logs", "/spend/logs/v2"])
@pytest.mark.parametrize(("by", "query", "expected"), SEEN.values(), ids=SEEN)
async def test_rows_are_shown_to(
    it: Managed, spending: Spending, path: str, by: str, query: dict[str, str], expected: set[str] | int
) -> None:
    rows = await people(it, spending)
    span = {**SPAN, "summarize": "false"}

    answer = await it.get(f"{path}?{urlencode({**span, **query})}", by=by)

    if isinstance(expected, int):
        assert answer.status == expected
    else:
        found = answer.json if path == "/spend/logs" else answer.json["data"]
        assert set(ids(found)) == {rows[name].job_id for name in expected}


async def test_members_who_are_permitted_see_their_teams_rows(it: Managed, spending: Spending) -> None:
    rows = await people(it, spending)
    await it.team("open", members=["ann"], team_member_permissions=["/spend/logs"])
    shared = await spending.add(await it.key("bob", "open"))

    found = await page(it, "sk-of-ann-no-team-unnamed", team_id="open")

    assert ids(found["data"]) == [shared.job_id]
    assert rows


async def test_nobody_sees_anything_without_a_key(it: Managed) -> None:
    for path in ("/spend/logs", "/spend/logs/v2"):
        assert (await it.api.ask("GET", path, {})).status == 401
        assert (await it.api.ask("GET", path, bearer("sk-unknown-key-of-nobody"))).status == 401
