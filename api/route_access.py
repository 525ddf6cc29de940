"""Which routes a key may call: LiteLLM's `allowed_routes`."""

from collections.abc import Sequence

from broker.policy import Policy
from shared.errors import RouteNotAllowed

_INFERENCE = (
    "/chat/completions", "/engines/*", "/openai/deployments/*", "/models", "/models/*", "/files", "/files/*",
    "/batches", "/batches/*", "/v1/jobs", "/v1/jobs/*", "/v1/queues", "/v1/webhooks/*",
)  # fmt: skip
_MANAGEMENT = (
    "/key/*", "/v2/key/*", "/user/*", "/v2/user/*", "/team/*", "/v2/team/*", "/budget/*", "/customer/*",
    "/end_user/*", "/model/*", "/model_group/*", "/audit", "/audit/*",
)  # fmt: skip
_SPEND = ("/spend/*", "/global/*", "/user/daily/*", "/team/daily/*", "/tag/daily/*", "/customer/daily/*")
_INFO = (
    "/key/info", "/key/health", "/key/list", "/v2/key/info", "/team/info", "/team/list", "/v2/team/list", "/user/info",
    "/v2/user/info", "/model/info", "/v2/model/info", "/model_group/info", "/models", "/models/*", "/health",
)  # fmt: skip

_GROUPS = {
    "llm_api_routes": _INFERENCE,
    "openai_routes": _INFERENCE,
    "management_routes": _MANAGEMENT,
    "spend_tracking_routes": _SPEND,
    "info_routes": _INFO,
}
"""LiteLLM's names for several routes."""


def require(policy: Policy, path: str) -> None:
    """Raises `RouteNotAllowed`. With or without `/v1` in front, a path is the same route; in a pattern it counts."""
    allowed = policy.allowed_routes
    if allowed and not permits(allowed, path):
        raise RouteNotAllowed(
            "Virtual key is not allowed to call this route. "
            f"Only allowed to call routes: {list(allowed)}. Tried to call route: {path}"
        )


def permits(allowed: Sequence[str], path: str) -> bool:
    return any(
        _fits(route, path) or ("*" not in each and _fits(_plain(route), _plain(path)))
        for each in allowed
        for route in _GROUPS.get(each, (each,))
    )


def _fits(route: str, path: str) -> bool:
    """`*` at the end stands for anything, `{id}` for one part of the path."""
    if route.endswith("*"):
        return path.startswith(route[:-1])
    if "{" not in route:
        return path == route
    parts, given = route.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part == one or (part.startswith("{") and bool(one)) for part, one in zip(parts, given, strict=True)
    )


def _plain(path: str) -> str:
    return path.removeprefix("/v1") if path.startswith("/v1/") else path
