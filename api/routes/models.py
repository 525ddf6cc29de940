"""What can be called: /v1/models in OpenAI's shape, /model/info in LiteLLM's."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from shared.catalog import Catalog, Deployment
from shared.errors import InvalidRequest, NotFound

router = APIRouter(tags=["models"])

_CREATED = 1677610602  # what LiteLLM says of every model
_OWNER = "openai"
_SECRET_PARAMS = ("key", "secret", "token", "password", "credentials")


@router.get("/v1/models", summary="List the models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in context_of(request).catalog.models()]}


@router.get("/v1/models/{model:path}", summary="One model")
@router.get("/models/{model:path}", include_in_schema=False)
async def get_model(
    request: Request, model: str, caller: Annotated[Principal, Depends(authenticated)]
) -> dict[str, Any]:
    if context_of(request).catalog.resolve(model) is None:
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
    deployments = _selected(catalog, litellm_model_id)
    return {"data": [_info(each) for each in deployments]}


def _selected(catalog: Catalog, deployment_id: str | None) -> list[Deployment]:
    if deployment_id is None:
        return list(catalog.deployments())
    try:
        return [catalog.deployment(deployment_id)]
    except KeyError as exc:
        raise InvalidRequest(f"No deployment has the id '{deployment_id}'.", param="litellm_model_id") from exc


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _info(deployment: Deployment) -> dict[str, Any]:
    limits = {
        "rpm": deployment.rpm,
        "tpm": deployment.tpm,
        "max_parallel_requests": deployment.max_parallel_requests,
        "api_base": deployment.api_base or None,
        "timeout": deployment.timeout,
    }
    params = {name: value for name, value in deployment.params.items() if not _secret(name)}
    known = {name: value for name, value in limits.items() if value is not None}
    prices = deployment.prices
    return {
        "model_name": deployment.group,
        "litellm_params": {"model": f"{deployment.provider}/{deployment.model}", **known, **params},
        "model_info": {
            "id": deployment.id,
            "db_model": False,
            "mode": "chat",
            "litellm_provider": deployment.provider,
            "key": deployment.model,
            "input_cost_per_token": prices.input,
            "output_cost_per_token": prices.output,
            **deployment.info,
        },
    }


def _secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_PARAMS) and "max_tokens" not in name
