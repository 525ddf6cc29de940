"""LiteLLM's tables on a PostgreSQL, as its version 1.109.1 has them, and an older one with fewer columns."""

import base64
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import asyncpg
import orjson
from nacl.secret import SecretBox

from shared.secrets import Sealer

SALT = "sk-litellm-salt"

TABLES = """
CREATE TABLE "LiteLLM_BudgetTable" (
  budget_id text PRIMARY KEY, max_budget float8, soft_budget float8, max_parallel_requests int4, tpm_limit int8,
  rpm_limit int8, tpd_limit int8, model_max_budget jsonb, budget_duration text, budget_reset_at timestamp(3),
  allowed_models text[] DEFAULT '{}', temp_budget_increase float8, temp_budget_expiry timestamp(3),
  created_at timestamp(3) DEFAULT now(), created_by text, updated_at timestamp(3) DEFAULT now(), updated_by text);
CREATE TABLE "LiteLLM_UserTable" (
  user_id text PRIMARY KEY, user_alias text, team_id text, sso_user_id text UNIQUE, organization_id text, password text,
  teams text[] DEFAULT '{}', user_role text, max_budget float8, spend float8 DEFAULT 0, user_email text,
  models text[] DEFAULT '{}', metadata jsonb DEFAULT '{}', max_parallel_requests int4, tpm_limit int8, rpm_limit int8,
  budget_duration text, budget_reset_at timestamp(3), allowed_cache_controls text[] DEFAULT '{}',
  policies text[] DEFAULT '{}', model_spend jsonb DEFAULT '{}', model_max_budget jsonb DEFAULT '{}',
  created_at timestamp(3) DEFAULT now(), updated_at timestamp(3) DEFAULT now());
CREATE TABLE "LiteLLM_ModelTable" (id serial PRIMARY KEY, aliases jsonb);
CREATE TABLE "LiteLLM_TeamTable" (
  team_id text PRIMARY KEY, team_alias text, organization_id text, object_permission_id text,
  admins text[] DEFAULT '{}', members text[] DEFAULT '{}', members_with_roles jsonb DEFAULT '{}',
  metadata jsonb DEFAULT '{}', max_budget float8, soft_budget float8, spend float8 DEFAULT 0,
  models text[] DEFAULT '{}', max_parallel_requests int4, tpm_limit int8, rpm_limit int8, tpd_limit int8,
  budget_duration text, budget_reset_at timestamp(3), blocked bool DEFAULT false, created_at timestamp(3) DEFAULT now(),
  updated_at timestamp(3) DEFAULT now(), model_spend jsonb DEFAULT '{}', model_max_budget jsonb DEFAULT '{}',
  router_settings jsonb, team_member_permissions text[] DEFAULT '{}', access_group_ids text[] DEFAULT '{}',
  policies text[] DEFAULT '{}', default_team_member_models text[] DEFAULT '{}', budget_limits jsonb,
  model_id int4 UNIQUE, allow_team_guardrail_config bool DEFAULT false);
CREATE TABLE "LiteLLM_TeamMembership" (
  user_id text, team_id text, spend float8 DEFAULT 0, total_spend float8 DEFAULT 0, budget_id text,
  PRIMARY KEY (user_id, team_id));
CREATE TABLE "LiteLLM_EndUserTable" (
  user_id text PRIMARY KEY, alias text, spend float8 DEFAULT 0, allowed_model_region text, default_model text,
  models text[] DEFAULT '{}', budget_id text, object_permission_id text, blocked bool DEFAULT false);
CREATE TABLE "LiteLLM_VerificationToken" (
  token text PRIMARY KEY, key_name text, key_alias text, soft_budget_cooldown bool DEFAULT false,
  spend float8 DEFAULT 0, total_spend float8 DEFAULT 0, expires timestamp(3), models text[] DEFAULT '{}',
  aliases jsonb DEFAULT '{}', config jsonb DEFAULT '{}', router_settings jsonb, user_id text, team_id text,
  agent_id text, project_id text, permissions jsonb DEFAULT '{}', max_parallel_requests int4,
  metadata jsonb DEFAULT '{}', blocked bool, tpm_limit int8, rpm_limit int8, tpd_limit int8, max_budget float8,
  budget_duration text, budget_reset_at timestamp(3), allowed_cache_controls text[] DEFAULT '{}',
  allowed_routes text[] DEFAULT '{}', key_type text, policies text[] DEFAULT '{}', access_group_ids text[] DEFAULT '{}',
  model_spend jsonb DEFAULT '{}', model_max_budget jsonb DEFAULT '{}', budget_fallbacks jsonb DEFAULT '{}',
  budget_id text, organization_id text, object_permission_id text, created_at timestamp(3) DEFAULT now(),
  created_by text, updated_at timestamp(3) DEFAULT now(), updated_by text, settings_updated_at timestamp(3),
  last_active timestamp(3), rotation_count int4, auto_rotate bool, rotation_interval text,
  last_rotation_at timestamp(3), key_rotation_at timestamp(3), budget_limits jsonb);
CREATE TABLE "LiteLLM_ProxyModelTable" (
  model_id text PRIMARY KEY, model_name text, litellm_params jsonb, model_info jsonb, blocked bool DEFAULT false,
  created_at timestamp(3) DEFAULT now(), created_by text, updated_at timestamp(3) DEFAULT now(), updated_by text);
CREATE TABLE "LiteLLM_CredentialsTable" (
  credential_id text PRIMARY KEY, credential_name text UNIQUE, credential_values jsonb, credential_info jsonb);
CREATE TABLE "LiteLLM_Config" (param_name text PRIMARY KEY, param_value jsonb);
CREATE TABLE "LiteLLM_OrganizationTable" (organization_id text PRIMARY KEY, organization_alias text);
CREATE TABLE "LiteLLM_DailyUserSpend" (id text PRIMARY KEY, spend float8);
CREATE TABLE "LiteLLM_SpendLogs" (
  request_id text PRIMARY KEY, call_type text, api_key text DEFAULT '', spend float8 DEFAULT 0,
  total_tokens int4 DEFAULT 0, prompt_tokens int4 DEFAULT 0, completion_tokens int4 DEFAULT 0,
  "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL, request_duration_ms int4,
  "completionStartTime" timestamp(3), model text DEFAULT '', model_id text DEFAULT '', model_group text DEFAULT '',
  custom_llm_provider text DEFAULT '', api_base text DEFAULT '', "user" text DEFAULT '', metadata jsonb DEFAULT '{}',
  cache_hit text DEFAULT '', cache_key text DEFAULT '', request_tags jsonb DEFAULT '[]', team_id text,
  organization_id text, end_user text, requester_ip_address text, messages jsonb DEFAULT '{}',
  response jsonb DEFAULT '{}', session_id text, status text, mcp_namespaced_tool_name text, agent_id text,
  proxy_server_request jsonb DEFAULT '{}');
"""

OLD_TABLES = """
CREATE TABLE "LiteLLM_VerificationToken" (
  token text PRIMARY KEY, key_alias text, spend float8 DEFAULT 0, expires timestamp(3), models text[] DEFAULT '{}',
  user_id text, team_id text, metadata jsonb DEFAULT '{}', max_budget float8);
CREATE TABLE "LiteLLM_UserTable" (user_id text PRIMARY KEY, spend float8 DEFAULT 0, max_budget float8);
CREATE TABLE "LiteLLM_TeamTable" (
  team_id text PRIMARY KEY, admins text[] DEFAULT '{}', members text[] DEFAULT '{}', metadata jsonb DEFAULT '{}');
"""


def boxed(text: str, salt: str = SALT) -> str:
    """As LiteLLM seals by default."""
    box = SecretBox(sha256(salt.encode()).digest())
    return base64.urlsafe_b64encode(bytes(box.encrypt(text.encode()))).decode()


def gcm(text: str, salt: str = SALT) -> str:
    """As LiteLLM seals with `encryption_algorithm: aes-256-gcm`."""
    return Sealer(salt).seal(text)


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


class LiteLLMDatabase:
    """Filled row by row."""

    def __init__(self, url: str, connection: Any) -> None:
        self.url = url
        self.connection = connection

    @classmethod
    async def made(cls, url: str, tables: str = TABLES) -> "LiteLLMDatabase":
        connection = await asyncpg.connect(url, timeout=30)
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(
                kind, schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
            )
        await connection.execute(tables)
        return cls(url, connection)

    async def close(self) -> None:
        await self.connection.close(timeout=30)

    async def put(self, table: str, **row: Any) -> None:
        columns = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        await self.connection.execute(f'INSERT INTO "LiteLLM_{table}" ({columns}) VALUES ({places})', *row.values())

    async def key(self, key: str, **row: Any) -> None:
        await self.put("VerificationToken", token=hashed(key), key_name=f"sk-...{key[-4:]}", **row)

    async def model(self, id: str, name: str, params: Mapping[str, Any], **row: Any) -> None:
        await self.put("ProxyModelTable", model_id=id, model_name=name, litellm_params=dict(params), **row)

    async def log(self, id: str, at: datetime, **row: Any) -> None:
        await self.put("SpendLogs", request_id=id, **{"startTime": at, "endTime": at}, **row)
