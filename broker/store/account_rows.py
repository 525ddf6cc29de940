"""Keys and entries of the directory as rows, and back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa

from broker.account_records import Entry, Kind
from broker.records import KeyRecord
from broker.store.bulk import clean
from broker.store.directory_tables import directory, keys
from broker.store.tables import TEXT_LENGTH, UNSTORABLE
from shared.errors import InvalidRequest

# field -> column, where their names differ: `user` is reserved in SQL
_COLUMNS = {"user": "user_id", "team": "team_id"}

_JSON = ("metadata", "fields")
_KEY_IDS = ("hash", "user", "team")
_ENTRY_IDS = ("id", "team", "user")
_MOST_OFFSET = 2**62  # more does not fit into the parameter

R = TypeVar("R", KeyRecord, Entry)


def columns(table: sa.FromClause, kind: type[KeyRecord | Entry]) -> list[sa.ColumnElement[Any]]:
    """Of a row as `key_record` or `entry` takes it: in the order of the record's fields."""
    return [table.c[_COLUMNS.get(name, name)] for name in kind.__slots__]


KEY_COLUMNS = columns(keys, KeyRecord)
ENTRY_COLUMNS = columns(directory, Entry)


def key_record(row: Iterable[Any]) -> KeyRecord:
    return KeyRecord(*row)


def entry(row: Iterable[Any]) -> Entry:
    kind, *values = row
    return Entry(Kind(kind), *values)


def key_row(record: KeyRecord) -> dict[str, Any]:
    """Of a storable record."""
    return _row(record) | {"folded": _folded(record.alias, record.hash)}


def entry_row(record: Entry) -> dict[str, Any]:
    """Of a storable entry."""
    return _row(record) | {"folded": _folded(record.alias, record.id)}


def _row(record: KeyRecord | Entry) -> dict[str, Any]:
    return {_COLUMNS.get(name, name): getattr(record, name) for name in record.__slots__}


def _folded(alias: str, id: str) -> str:
    return f"{alias}\n{id}".casefold()


def storable_key(record: KeyRecord) -> KeyRecord:
    """The record as it will be read again: without what no database stores, long texts cut. Raises `InvalidRequest`
    for what must not be cut, and for what has no place in JSON."""
    _check_ids("key", record, _KEY_IDS, required="hash")
    return _storable(record)


def storable_entry(record: Entry) -> Entry:
    """As `storable_key`."""
    _check_ids(record.kind, record, _ENTRY_IDS, required="id")
    return _storable(record)


def clean_text(text: str) -> str:
    """As `CleanText` stores it."""
    return UNSTORABLE.sub("\ufffd", text[:TEXT_LENGTH])


def containing(table: sa.Table, text: str) -> sa.ColumnElement[bool]:
    """Whether the alias or the id contains the text, upper and lower case alike."""
    if len(text) > TEXT_LENGTH:
        return sa.false()
    return table.c.folded.contains(UNSTORABLE.sub("\ufffd", text).casefold(), autoescape=True)


def page(offset: int, limit: int) -> tuple[int, int]:
    """Both brought to what a query may ask for; `limit` to 1 to 1,000."""
    return min(max(offset, 0), _MOST_OFFSET), min(max(limit, 1), 1000)


def _check_ids(what: str, record: KeyRecord | Entry, names: Iterable[str], *, required: str) -> None:
    # Cut short, an id could be another one's.
    for name in names:
        value = getattr(record, name)
        if len(value) > TEXT_LENGTH:
            raise InvalidRequest(f"{what}: its {name} is over {TEXT_LENGTH} characters: choose a shorter one")
        if not value and name == required:
            raise InvalidRequest(f"{what}: its {name} is empty")


def _storable(record: R) -> R:
    changes: dict[str, Any] = {}
    for name in record.__slots__:
        value = getattr(record, name)
        if name in _JSON:
            changes[name] = _plain(name, value)
        elif type(value) is str:  # a `Kind` stays what it is
            changes[name] = clean_text(value)
    return replace(record, **changes)


def _plain(name: str, value: Mapping[str, Any]) -> Any:
    try:
        return orjson.loads(json.dumps(clean(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as exc:  # orjson alone would make null of NaN: no limit at all
        raise InvalidRequest(f"{name!r} cannot be stored: it is no JSON, nested too deeply, or not finite") from exc
