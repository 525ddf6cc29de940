"""Keys made and changed: checked, written with their audit record, and announced to every process."""

import secrets
from typing import Any

from api.auth import hashed
from api.context import Context
from api.management.access import Act, author, subject_of
from api.management.changes import announce
from api.management.entries import Desk, require_budget
from api.management.key_bodies import GenerateKey, UpdateKey
from api.management.key_finder import find_alias, find_key, key_name
from api.management.key_records import KeyRules, new_record, patched
from api.management.key_rules import check_new, check_update
from api.management.key_views import look
from api.management.shapes import IN_METADATA
from broker.records import KeyRecord
from shared.accounts import key_account
from shared.errors import Conflict, NotFound

_RANDOM_BYTES = 24


async def make_key(desk: Desk, body: GenerateKey) -> dict[str, Any]:
    """The answer of `/key/generate`. Nothing is written unless everything about it is right."""
    keys = desk.context.backends.store.keys
    # The operator's defaults come after the check: they are nothing that the caller asks for.
    body = await check_new(keys, desk.directory, desk.caller, body)
    body = rules_of(desk.context).completed(body)
    await require_budget(desk.directory, body.given())
    key = body.key or random_key()
    record = new_record(body, hashed(key), key_name(key), now=desk.now, by=author(desk.caller))
    refuse_taken(await keys.add(record, desk.actor), record.alias)
    await announce(desk.context, f"key:{record.hash}")
    return {**await answer(desk, record), "key": key}


async def update_key(desk: Desk, body: UpdateKey) -> KeyRecord:
    """The record with the patch; nothing is written, nor audited, if it changes nothing."""
    keys = desk.context.backends.store.keys
    record = await (find_alias(keys, body.key_alias or "") if body.key is None else find_key(keys, body.key))
    await check_update(desk.directory, desk.caller, Act.UPDATE_KEY, record, body)
    rules_of(desk.context).check(body)
    await require_budget(desk.directory, body.given())
    by = author(desk.caller)
    if patched(record, body, now=desk.now, by=by) is record:
        return record

    def patch(current: KeyRecord) -> KeyRecord:
        refuse_moved(record, current)
        return patched(current, body, now=desk.now, by=by)

    changed, taken = await keys.change(record.hash, patch, desk.actor)
    refuse_taken(taken, body.key_alias or "")
    await announce(desk.context, f"key:{record.hash}", accounts=(key_account(record.hash),))
    return there(changed)


async def answer(desk: Desk, record: KeyRecord) -> dict[str, Any]:
    """What a new key's maker is told: the row, and beside its metadata what LiteLLM keeps within it."""
    (seen,) = await look(desk, [record])
    beside = {name: record.fields.get(name) for name in IN_METADATA}
    return {**beside, "soft_budget": None, **seen.row, "token_id": record.hash}


def rules_of(context: Context) -> KeyRules:
    """What the config says about new keys."""
    management = context.settings.management
    return KeyRules(management.default_key_generate_params, management.upperbound_key_generate_params)


def there(record: KeyRecord | None) -> KeyRecord:
    """Raises `NotFound` for what went away meanwhile."""
    if record is None:
        raise NotFound("Key not found.", param="key")
    return record


def refuse_moved(seen: KeyRecord, current: KeyRecord) -> None:
    """Raises `Conflict` when the key got another owner after it was asked whether the caller may change it."""
    if subject_of(current) != subject_of(seen):
        raise Conflict("The key was given to somebody else meanwhile; try again.", param="key")


def refuse_taken(taken: str, alias: str) -> None:
    """Raises `Conflict` for what the store says that another key has."""
    if taken == "alias":
        raise Conflict(
            f"Key with alias '{alias}' already exists. Unique key aliases across all keys are required.",
            param="key_alias",
        )
    if taken:
        raise Conflict("This key exists already. Choose another, or let one be made.", param="key")


def random_key() -> str:
    return f"sk-{secrets.token_urlsafe(_RANDOM_BYTES)}"
