"""From what a key route was sent to the record that is kept. Pure: the callers read, check and write."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from api.management.bodies import changed, refuse_large, validated
from api.management.key_bodies import FOREVER, GenerateKey, KeyFields
from api.management.shapes import IN_METADATA
from broker.records import KeyRecord
from shared.errors import InvalidRequest
from shared.windows import Duration

_APART = frozenset({
    "key", "new_key", "grace_period", "new_master_key", "key_alias", "user_id", "team_id", "duration", "blocked",
    "metadata", "max_queue_wait", "spend", "send_invite_email",
})  # fmt: skip
"""Fields that are not kept under their own name in `KeyRecord.fields`."""

_ROUTES_OF_TYPE = {"llm_api": ["llm_api_routes"], "management": ["management_routes"], "read_only": ["info_routes"]}

_DEFAULTED = (
    "max_budget", "user_id", "team_id", "max_parallel_requests", "tpm_limit", "rpm_limit", "budget_duration",
    "duration", "models", "metadata",
)  # fmt: skip
_BOUNDED = ("max_budget", "max_parallel_requests", "tpm_limit", "rpm_limit", "budget_duration", "duration")
_DURATIONS = frozenset({"budget_duration", "duration"})


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What `litellm_settings` says about new keys."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """`default_key_generate_params`: for what a request does not set."""
    upperbounds: Mapping[str, Any] = field(default_factory=dict)
    """`upperbound_key_generate_params`: for what it sets, and for what it leaves open."""

    def completed(self, body: GenerateKey) -> GenerateKey:
        """Raises `InvalidRequest` for what is over its bound."""
        sent = body.given()
        for name in _DEFAULTED:
            cleared = name == "budget_duration" and name in sent  # null: no window, whatever the default
            if not cleared and sent.get(name) in (None, [], {}) and name in self.defaults:
                sent[name] = self.defaults[name]
        for name in _BOUNDED:
            bound = self.upperbounds.get(name)
            if bound is not None and sent.get(name) is None:
                sent[name] = bound
        completed = validated(sent, GenerateKey)
        self.check(completed)
        return completed

    def check(self, body: KeyFields) -> None:
        """Raises `InvalidRequest` for what is sent and over its bound; null, which takes a limit away, is."""
        for name in _BOUNDED:
            bound = self.upperbounds.get(name)
            if bound is None or name not in body.model_fields_set:
                continue
            value = getattr(body, name)
            if _size(name, value) > _size(name, bound):
                raise InvalidRequest(
                    f"{name} is over max limit set in config - user_value={value}; max_value={bound}", param=name
                )


def new_record(body: GenerateKey, key_hash: str, name: str, *, now: float, by: str) -> KeyRecord:
    record = KeyRecord(hash=key_hash, name=name, created_at=now, created_by=by)
    made = patched(record, body, now=now, by=by)
    return replace(made, updated_at=now, updated_by=by)


def patched(record: KeyRecord, body: KeyFields, *, now: float, by: str) -> KeyRecord:
    """The record with the patch applied; the very same one if it changes nothing."""
    sent = body.given()
    metadata, fields = _metadata(record, sent)
    fields = changed(fields, {name: value for name, value in sent.items() if name not in _APART})
    if sent.get("key_type") in _ROUTES_OF_TYPE and "allowed_routes" not in sent:
        fields["allowed_routes"] = _ROUTES_OF_TYPE[sent["key_type"]]
    if sent.get("spend") is not None and (sent["spend"] or record.fields.get("spend_base") is not None):
        fields |= {"spend_base": sent["spend"], "spend_since": now}
    refuse_large("metadata", metadata, fields)
    made = replace(
        record,
        alias=sent.get("key_alias", record.alias) or "",
        user=sent.get("user_id", record.user) or "",
        team=sent.get("team_id", record.team) or "",
        expires_at=_expiry(sent["duration"], now) if "duration" in sent else record.expires_at,
        blocked=bool(sent.get("blocked", record.blocked)),
        max_queue_wait=sent.get("max_queue_wait", record.max_queue_wait),
        metadata=metadata,
        fields=fields,
    )
    return record if made == record else replace(made, updated_at=now, updated_by=by)


def _metadata(record: KeyRecord, sent: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata is replaced as a whole, together with the fields that LiteLLM keeps within it."""
    fields = dict(record.fields)
    if "metadata" not in sent:
        return dict(record.metadata), fields
    account = fields.get("service_account_id")
    if account is not None and sent.get("service_account_id", account) != account:
        raise InvalidRequest(
            "service_account_id is immutable once set and cannot be changed via update.", param="metadata"
        )
    kept = {name: value for name, value in fields.items() if name not in IN_METADATA or name == "service_account_id"}
    return dict(sent["metadata"] or {}), kept


def _expiry(duration: str | None, now: float) -> float | None:
    return None if duration is None or duration == FOREVER else Duration.parse(duration).after(now)


def _size(name: str, value: Any) -> float:
    if value is None or value == FOREVER:
        return float("inf")
    return Duration.parse(value).seconds if name in _DURATIONS else float(value)
