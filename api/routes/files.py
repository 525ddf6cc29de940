"""OpenAI's files: uploaded once, read by batches, and what batches write."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from api import multipart, openai_objects, uploads, wishes
from api.admission import refuse_large_body
from api.auth import Principal
from api.context import authenticated, context_of
from broker.records import FileRecord
from broker.store_interfaces import Files
from shared.errors import InvalidRequest, NotFound

router = APIRouter(tags=["files"])

_FORM_BYTES = 1024 * 1024
"""What a form may be larger than its file."""

Caller = Annotated[Principal, Depends(authenticated)]


class Page(BaseModel):
    purpose: Annotated[str | None, Field(max_length=64)] = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    after: Annotated[str | None, Field(max_length=64)] = None


_UPLOAD_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(uploads.PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
}


@router.post(
    "/v1/files",
    summary="Upload a file",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD_FORM}}}},
)
@router.post("/files", include_in_schema=False)
async def upload(request: Request, response: Response, caller: Caller) -> dict[str, Any]:
    """Under an `Idempotency-Key` the same upload makes one file in 24 hours."""
    context = context_of(request)
    limits = uploads.Limits(context.settings.max_file_bytes, context.settings.max_batch_file_bytes)
    key = wishes.idempotency_key(request.headers)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        refuse_large_body(int(declared), limits.any + _FORM_BYTES)
    async with context.uploads.taken():
        pieces = multipart.read(request.headers.get("content-type", ""), _body(request))
        received = await uploads.receive(_files(request), caller.key, pieces, limits, context.clock.now(), key)
    if received.replayed:
        response.headers["x-headrace-idempotent-replayed"] = "true"
    return openai_objects.file(received.file)


@router.get("/v1/files", summary="List files, newest first")
@router.get("/files", include_in_schema=False)
async def list_files(request: Request, caller: Caller, page: Annotated[Page, Query()]) -> dict[str, Any]:
    files, newest_first = _files(request), page.order == "desc"
    records = await files.find(
        caller.scope, purpose=page.purpose, after=page.after, limit=page.limit, newest_first=newest_first
    )
    more = len(records) == page.limit and bool(
        await files.find(caller.scope, purpose=page.purpose, after=records[-1].id, limit=1, newest_first=newest_first)
    )
    return openai_objects.page(records, openai_objects.file, more=more)


@router.get("/v1/files/{file_id}", summary="A file's description")
@router.get("/files/{file_id}", include_in_schema=False)
async def retrieve(request: Request, caller: Caller, file_id: str) -> dict[str, Any]:
    return openai_objects.file(await find(_files(request), file_id, caller))


@router.get("/v1/files/{file_id}/content", summary="A file's content", response_class=StreamingResponse)
@router.get("/files/{file_id}/content", include_in_schema=False)
async def content(request: Request, caller: Caller, file_id: str) -> Response:
    record = await find(_files(request), file_id, caller)
    return download(_files(request), record)


@router.delete("/v1/files/{file_id}", summary="Delete a file")
@router.delete("/files/{file_id}", include_in_schema=False)
async def delete(request: Request, caller: Caller, file_id: str) -> dict[str, Any]:
    if not await _files(request).delete(file_id, caller.scope):
        raise _missing(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


async def find(files: Files, file_id: str, caller: Principal, param: str = "id") -> FileRecord:
    """The caller's file. Raises `NotFound` in OpenAI's words."""
    record = await files.get(file_id, caller.scope)
    if record is None:
        raise _missing(file_id, param)
    return record


def download(files: Files, record: FileRecord) -> Response:
    """The file's content as an attachment. Its length is told first, so that a client notices when it is cut off."""
    headers = {
        "content-length": str(record.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
    }
    return StreamingResponse(files.read(record.id), headers=headers, media_type="application/octet-stream")


def _missing(file_id: str, param: str = "id") -> NotFound:
    return NotFound(f"No such File object: {file_id[:100]}", param=param)


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as exc:
        raise InvalidRequest("The upload was cut off: the connection closed before its end. Send it again.") from exc


def _files(request: Request) -> Files:
    return context_of(request).backends.store.files
