"""`allowed_routes` of a key: names of groups, paths and patterns."""

import pytest

from api import route_access
from broker.policy import Policy
from shared.error_bodies import body_of, status_of
from shared.errors import RouteNotAllowed


@pytest.mark.parametrize(
    ("allowed", "path", "permitted"),
    [
        (["llm_api_routes"], "/v1/chat/completions", True),
        (["llm_api_routes"], "/openai/deployments/gpt/chat/completions", True),
        (["openai_routes"], "/v1/batches/batch_1/output", True),
        (["llm_api_routes"], "/v1/models", True),
        (["llm_api_routes"], "/key/generate", False),
        (["llm_api_routes"], "/spend/logs", False),
        (["management_routes"], "/key/generate", True),
        (["management_routes"], "/key/sk-1/regenerate", True),
        (["management_routes"], "/v1/chat/completions", False),
        (["info_routes"], "/key/info", True),
        (["info_routes"], "/v1/models", True),
        (["info_routes"], "/key/delete", False),
        (["spend_tracking_routes"], "/global/spend/report", True),
        (["/chat/completions"], "/v1/chat/completions", True),
        (["/v1/chat/completions"], "/chat/completions", True),
        (["/v1/chat/completions"], "/v1/chat/completions/more", False),
        (["/v1/*"], "/v1/files/file-1", True),
        (["/v1/*"], "/key/info", False),
        (["/v1/files/{file_id}"], "/v1/files/file-1", True),
        (["/v1/files/{file_id}"], "/v1/files/", False),
        (["/v1/files/{file_id}"], "/v1/files/file-1/content", False),
        (["nonsense"], "/v1/models", False),
        (["/key/info", "llm_api_routes"], "/key/info", True),
    ],
)
def test_a_route_is_permitted_or_not(allowed: list[str], path: str, permitted: bool) -> None:
    assert route_access.permits(allowed, path) is permitted


def test_a_key_without_the_field_may_call_every_route() -> None:
    route_access.require(Policy(), "/whatever")


def test_a_refusal_says_what_is_allowed() -> None:
    policy = Policy()
    policy.allowed_routes = ("info_routes",)

    with pytest.raises(RouteNotAllowed) as caught:
        route_access.require(policy, "/key/delete")

    assert "Virtual key is not allowed to call this route. " in caught.value.message
    assert "['info_routes']. Tried to call route: /key/delete" in caught.value.message
    assert (status_of(caught.value), b'"auth_error"' in body_of(caught.value)) == (403, True)
