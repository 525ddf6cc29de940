"""Where a request goes, and the headers that it needs: authentication, version, betas.

https://platform.claude.com/docs/en/api/overview and .../beta-headers
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from workers.providers.anthropic.content import needs_files_api
from workers.providers.base import Call

API_BASE = "https://api.anthropic.com"
VERSION = "2023-06-01"
"""The version 2026-10-21 rejects temperature, top_p and top_k outright, on models that still take them too."""

_OAUTH_TOKEN = "sk-ant-oat"  # noqa: S105 - the public prefix of such tokens, not one of them
_OAUTH_BETA = "oauth-2025-04-20"
_FILES_BETA = "files-api-2025-04-14"
_MCP_BETA = "mcp-client-2025-04-04"
_CONTEXT_BETA = "context-management-2025-06-27"
_COMPACTION_BETA = "compact-2026-01-12"
_SPEED_BETA = "fast-mode-2026-02-01"

_TOOL_BETAS = {
    "computer_20241022": "computer-use-2024-10-22",
    "bash_20241022": "computer-use-2024-10-22",
    "text_editor_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
    "code_execution_20250522": "code-execution-2025-05-22",
    "code_execution_20250825": "code-execution-2025-08-25",
    "web_fetch_20250910": "web-fetch-2025-09-10",
    "memory_20250818": "context-management-2025-06-27",
    "advisor_20260301": "advisor-tool-2026-03-01",
    "mcp_toolset": "mcp-client-2025-11-20",
}
"""The beta that a hosted tool of this version belongs to; later versions need none."""

_TOOL_SEARCH_BETA = "advanced-tool-use-2025-11-20"
_TOOL_SEARCH_KEYS = ("defer_loading", "allowed_callers", "input_examples")


def url(api_base: str) -> str:
    """Where messages go; `api_base` may be the host, its `/v1`, or the whole address."""
    base = (api_base or API_BASE).rstrip("/")
    if base.endswith("/v1/messages"):
        return base
    return f"{base}/messages" if base.endswith("/v1") else f"{base}/v1/messages"


def headers(call: Call, wire: Mapping[str, Any]) -> dict[str, str]:
    """Authentication, version and the betas that `wire` needs; the deployment's own headers win."""
    key = call.deployment.api_key
    sent = {"content-type": "application/json", "anthropic-version": VERSION}
    betas = dict.fromkeys(_betas(wire))
    if key.startswith(_OAUTH_TOKEN):
        sent["authorization"] = f"Bearer {key}"
        betas[_OAUTH_BETA] = None
    elif key:
        sent["x-api-key"] = key

    configured = {name.lower(): value for name, value in call.deployment.headers.items()}
    for source in (call.client_headers.get("anthropic-beta", ""), configured.pop("anthropic-beta", "")):
        betas.update(dict.fromkeys(beta for each in source.split(",") if (beta := each.strip())))
    if betas:
        sent["anthropic-beta"] = ",".join(betas)
    return sent | configured


def _betas(wire: Mapping[str, Any]) -> Iterable[str]:
    for tool in _objects(wire.get("tools")):
        kind = str(tool.get("type"))
        if kind in _TOOL_BETAS:
            yield _TOOL_BETAS[kind]
        elif kind.startswith("tool_search_") or any(key in tool for key in _TOOL_SEARCH_KEYS):
            yield _TOOL_SEARCH_BETA
    if "mcp_servers" in wire and not any(tool.get("type") == "mcp_toolset" for tool in _objects(wire.get("tools"))):
        yield _MCP_BETA
    if "context_management" in wire:
        yield _CONTEXT_BETA
        if b"compact_20260112" in orjson.dumps(wire["context_management"]):
            yield _COMPACTION_BETA
    if wire.get("speed") == "fast":
        yield _SPEED_BETA
    if any(needs_files_api(block) for block in _blocks(wire)):
        yield _FILES_BETA


def _blocks(wire: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for message in _objects(wire.get("messages")):
        for block in _objects(message.get("content")):
            yield block
            if block.get("type") == "tool_result":
                yield from _objects(block.get("content"))


def _objects(values: object) -> list[Mapping[str, Any]]:
    """The objects in a list; `extra_body` may have put anything in its place."""
    return [each for each in values if isinstance(each, Mapping)] if isinstance(values, list) else []
