"""LiteLLM's models and credentials: unsealed with its salt key, sealed with ours."""

from collections.abc import Mapping
from typing import Any

from broker import model_rows
from broker.account_records import Entry, Kind
from broker.litellm.rows import Moment, Unfit
from broker.litellm.source import Row
from shared.secrets import Sealer, Unsealable, seems_sealed

_CREDENTIAL = "litellm_credential_name"


def readable(sealed: Any, sealer: Sealer) -> dict[str, Any]:
    """An object whose texts LiteLLM sealed one by one; those within lists and objects it leaves as they are, and in
    older versions all. Raises `Unfit`."""
    if not isinstance(sealed, dict):
        raise Unfit("it is no JSON object")
    return {name: _readable(name, value, sealer) for name, value in sealed.items()}


def _readable(name: str, value: Any, sealer: Sealer) -> Any:
    if not isinstance(value, str) or not seems_sealed(value):
        return value
    try:
        return sealer.unseal(value)
    except Unsealable as exc:
        raise Unfit(f"{name} cannot be decrypted: it needs the salt key (or master key) that LiteLLM ran with") from exc


def entry(
    row: Row, credentials: Mapping[str, Mapping[str, Any]], theirs: Sealer, ours: Sealer, moment: Moment
) -> Entry:
    """A deployment. A credential that it names becomes its own key and address. Raises `Unfit`."""
    params = {name: value for name, value in readable(row["litellm_params"], theirs).items() if value is not None}
    named = params.pop(_CREDENTIAL, None)
    if named is not None:
        if named not in credentials:
            raise Unfit(f"there is no credential {named!r}, or it cannot be decrypted")
        params = {**credentials[named], **params}
    info = row.get("model_info")
    info = {name: value for name, value in (info if isinstance(info, dict) else {}).items() if value is not None}
    if row.get("blocked") is True:
        info["blocked"] = True
    info = {name: value for name, value in info.items() if name not in ("id", "db_model")}
    return Entry(
        Kind.MODEL,
        str(row["model_id"]),
        alias=str(row["model_name"]),
        fields=model_rows.fields(params, info, ours),
        created_at=moment.now,  # LiteLLM's order is that of their names; ours is that of their coming
        created_by=row.get("created_by") or "",
        updated_at=moment.now,
        updated_by=row.get("updated_by") or "",
    )
