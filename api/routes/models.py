"""What can be called: /v1/models in OpenAI's shape, /model/info in LiteLLM's."""

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from shared.catalog import Catalog, Deployment
from shared.errors import InvalidRequest, NotFound
from shared.model_access import EVERYTHING

router = APIRouter(tags=["models"])

_CREATED = 1677610602  # what LiteLLM says of every model
_OWNER = "openai"
_COUNTS = re.compile("tokens|cost")  # names of tokens that nobody logs in with
_SECRET_PARAMS = ("key", "secret", "token", "password", "credentials", "header", "authorization")


@router.get("/v1/models", summary="List the models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in callable_by(caller, context_of(request).catalog)]}


@router.get("/v1/models/{model:path}", summary="One model")
@router.get("/models/{model:path}", include_in_schema=False)
async def get_model(
    request: Request, model: str, caller: Annotated[Principal, Depends(authenticated)]
) -> dict[str, Any]:
    catalog = context_of(request).catalog
    target = caller.access.target(model)
    if catalog.resolve(target) is None or not caller.access.allows(target, catalog):
        raise NotFound(f"The model '{model}' does not exist or you do not have access to it.", param="model")
    return _model(model)


@router.get("/model/info", summary="Deployments, without their secrets")
@router.get("/v1/model/info", include_in_schema=False)
async def model_info(
    request: Request,
    caller: Annotated[Principal, Depends(authenticated)],
    litellm_model_id: Annotated[str | None, Query(max_length=512)] = None,
) -> dict[str, Any]:
    catalog = context_of(request).catalog
    deployments = [each for each in catalog.deployments() if caller.access.allows(each.group, catalog)]
    if litellm_model_id is not None:
        deployments = [each for each in catalog.known([litellm_model_id]) if caller.access.allows(each.group, catalog)]
        if not deployments:
            raise InvalidRequest(f"No deployment has the id '{litellm_model_id}'.", param="litellm_model_id")
    return {"data": [_info(each) for each in deployments]}


def callable_by(caller: Principal, catalog: Catalog) -> list[str]:
    """The names that the caller may ask for."""
    return catalog.models() if caller.access is EVERYTHING else caller.access.visible(catalog)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _info(deployment: Deployment) -> dict[str, Any]:
    limits = {
        "rpm": deployment.rpm,
        "tpm": deployment.tpm,
        "max_parallel_requests": deployment.max_parallel_requests,
        "api_base": _without_secrets(deployment.api_base) or None,
        "timeout": deployment.timeout,
    }
    known = {name: value for name, value in limits.items() if value is not None}
    prices = deployment.prices
    return {
        "model_name": deployment.group,
        "litellm_params": {"model": f"{deployment.provider}/{deployment.model}", **known, **public(deployment.params)},
        "model_info": {
            "id": deployment.id,
            "mode": "chat",
            "litellm_provider": deployment.provider,
            "key": deployment.model,
            "input_cost_per_token": prices.input,
            "output_cost_per_token": prices.output,
            "db_model": False,
            **public(deployment.info),
        },
    }


def public(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` without what may be secret, however deep."""
    return {name: _public(value) for name, value in params.items() if not _secret(name)}


def _public(value: Any) -> Any:
    match value:
        case dict():
            return public(value)
        case list():
            return [_public(each) for each in value]
        case str() if "://" in value:
            return _without_secrets(value)
    return value


def _without_secrets(address: str) -> str:
    """Passwords stand before the host, keys in the query."""
    try:
        url = urlsplit(address)
    except ValueError:
        return ""
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_PARAMS) and not _COUNTS.search(name)
