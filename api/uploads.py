"""A file from a multipart form into the store, in bounded memory; what goes wrong leaves nothing visible."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256

from api.multipart import Field, FileStart, Piece
from broker.records import FileRecord, KeyedFile
from broker.store_interfaces import Files
from shared import batch_rules
from shared.errors import AppError, IdempotencyKeyReused, InvalidRequest, QueueFull, RequestTooLarge
from shared.ids import uuid7
from shared.settings import MEGABYTE

CHUNK = 1024 * 1024  # bytes; the most that the store takes at a time

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_NO_JSON_LINES = "Invalid file format for Batch API. Must be .jsonl"
_RETRY_AFTER = 5.0  # seconds; roughly what a large upload takes


class Slots:
    """So many at a time; whoever comes next is refused instead of kept waiting with an open connection."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._free = number

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Raises `QueueFull` when all are taken."""
        if not self._free:
            raise QueueFull(
                f"Too many uploads at once: at most {self._number}. Send the file again.", retry_after=_RETRY_AFTER
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of a file."""

    any: int
    batch: int

    def of(self, purpose: str | None) -> int:
        return min(self.any, self.batch) if purpose == "batch" else self.any


@dataclass(frozen=True, slots=True)
class Received:
    file: FileRecord
    replayed: bool
    """Whether it is the file of an earlier upload under the same idempotency key."""


def new_file(owner: str, filename: str, purpose: str, now: float) -> FileRecord:
    return FileRecord(f"file-{uuid7().replace('-', '')}", owner, filename, purpose, now)


async def store(files: Files, record: FileRecord, content: AsyncIterable[bytes]) -> FileRecord:
    """Write and seal `content` as the file `record`. If that fails, the file never was."""
    writing = Writing(files)
    try:
        await writing.begin(record)
        async for piece in content:
            await writing.add(piece)
        return await writing.seal(record)
    except BaseException:
        await writing.abandon()
        raise


async def receive(
    files: Files, owner: str, pieces: AsyncIterable[Piece], limits: Limits, now: float, idempotency_key: str = ""
) -> Received:
    """The file of an OpenAI upload form, stored: `file`, `purpose` and `expires_after[...]` in any order. Under an
    idempotency key the same form makes one file in 24 hours.

    Raises `InvalidRequest`, `RequestTooLarge` and `IdempotencyKeyReused`; nothing of the file is left then, or of an
    upload that is cut off.
    """
    form = _Form(files, owner, limits, now, idempotency_key)
    try:
        async for piece in pieces:
            await form.take(piece)
        return await form.finish()
    except BaseException:
        await form.writing.abandon()
        raise


class Writing:
    """One file on its way into the store, a chunk at a time."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._file_id: str | None = None
        self._buffer = bytearray()
        self._chunks = 0
        self.size = 0
        self.beginning = b""
        """The first chunk, once it is written."""

    @property
    def begun(self) -> bool:
        return self._file_id is not None

    async def begin(self, record: FileRecord) -> None:
        self._file_id = record.id
        await self._files.create(record)

    async def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._buffer += piece
        while len(self._buffer) >= CHUNK:
            await self._write(CHUNK)

    async def flush(self) -> None:
        if self._buffer:
            await self._write(len(self._buffer))

    async def seal(self, record: FileRecord) -> FileRecord:
        """The file as it is from now on, with the purpose and expiry of `record`."""
        await self.flush()
        await self._files.seal(record.id, self.size, purpose=record.purpose, expires_at=record.expires_at)
        return replace(record, bytes=self.size, ready=True)

    async def seal_once(self, record: FileRecord, idempotency_key: str, request_hash: str) -> KeyedFile:
        """As `seal`; or the file that has the key already, and this one is removed."""
        await self.flush()
        record = replace(record, bytes=self.size)
        holder = await self._files.seal_once(record, idempotency_key, request_hash)
        if holder is None:
            return KeyedFile(replace(record, ready=True), request_hash)
        await self.abandon()
        return holder

    async def abandon(self) -> None:
        """Remove what has been written. What cannot be removed now is nobody's to see, and purged later."""
        if self._file_id is not None:
            with suppress(AppError):
                await self._files.abandon(self._file_id)

    async def _write(self, size: int) -> None:
        assert self._file_id is not None
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        if not self._chunks:
            self.beginning = chunk
        await self._files.write(self._file_id, self._chunks, chunk)
        self._chunks += 1


@dataclass
class _Form:
    files: Files
    owner: str
    limits: Limits
    now: float
    idempotency_key: str
    record: FileRecord | None = None
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writing = Writing(self.files)
        self._content = sha256()

    async def take(self, piece: Piece) -> None:
        match piece:
            case Field(name, value):
                self.fields[name] = value
            case FileStart(name, filename):
                await self._begin(name, filename)
            case bytes():
                self._refuse_large(self.writing.size + len(piece))
                if self.idempotency_key:
                    self._content.update(piece)
                await self.writing.add(piece)

    async def finish(self) -> Received:
        if self.record is None:
            raise InvalidRequest("Missing required parameter: 'file'.", param="file")
        purpose = self._purpose()
        if purpose is None:
            raise InvalidRequest("Missing required parameter: 'purpose'.", param="purpose")
        self._refuse_large(self.writing.size)
        await self.writing.flush()
        if purpose == "batch":
            _require_json_lines(self.record.filename, self.writing.beginning)
        seconds = batch_rules.expiry(self._expires_after(), "expires_after")
        if seconds is None and purpose == "batch":
            seconds = batch_rules.DEFAULT_EXPIRY
        expires_at = None if seconds is None else self.record.created_at + seconds
        record = replace(self.record, purpose=purpose, expires_at=expires_at)
        if not self.idempotency_key:
            return Received(await self.writing.seal(record), replayed=False)
        return await self._finish_once(record, self._hash(record, seconds))

    async def _finish_once(self, record: FileRecord, request_hash: str) -> Received:
        found = await self.writing.seal_once(record, self.idempotency_key, request_hash)
        if found.request_hash != request_hash:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used for another upload within the last 24 hours. "
                "Send the same file, purpose and expiry, or another key.",
                param="idempotency-key",
            )
        return Received(found.file, replayed=found.file.id != record.id)

    def _hash(self, record: FileRecord, expires_after: float | None) -> str:
        """Of what the form says, whatever its order and boundary."""
        said = (self._content.hexdigest(), record.purpose, f"{expires_after or 0:.0f}", record.filename)
        return sha256("\0".join(said).encode()).hexdigest()

    async def _begin(self, name: str, filename: str) -> None:
        if name != "file" or self.record is not None:
            raise InvalidRequest(f"Unexpected file {name[:50]!r}: expected one, named 'file'.", param=name[:50])
        purpose = self._purpose()
        if purpose == "batch":
            _require_name(filename)
        self.record = new_file(self.owner, filename or "file", purpose or "", self.now)
        await self.writing.begin(self.record)

    def _purpose(self) -> str | None:
        """None when it has not come yet."""
        purpose = self.fields.get("purpose")
        if purpose is not None and purpose not in PURPOSES:
            raise InvalidRequest(
                f"{purpose[:50]!r} is not one of {list(PURPOSES)} - 'purpose'", param="purpose"
            )  # OpenAI's words
        return purpose

    def _refuse_large(self, size: int) -> None:
        limit = self.limits.of(self.fields.get("purpose"))
        if size > limit:
            raise RequestTooLarge(
                f"The file is too large: at most {limit // MEGABYTE} MB for this purpose.", param="file"
            )

    def _expires_after(self) -> Mapping[str, str] | None:
        parts = {name: self.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds")}
        given = {name: value for name, value in parts.items() if value is not None}
        return given or None


def _require_name(filename: str) -> None:
    if not filename.lower().endswith(".jsonl"):
        raise InvalidRequest(_NO_JSON_LINES, param="file")


def _require_json_lines(filename: str, beginning: bytes) -> None:
    """Look once: the name, and whether any line of the first chunk begins as a JSON object does. A bad line among good
    ones is the batch's to report."""
    _require_name(filename)
    if not beginning:
        raise InvalidRequest("The file is empty: expected a JSON object on each line.", param="file")
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"{") and b"\n{" not in text and b"\r{" not in text:
        raise InvalidRequest(f"{_NO_JSON_LINES}, in UTF-8, with a JSON object on each line", param="file")
