"""Redis behind TLS, a password and a database number: what redis-py makes of the URL holds for our connections."""

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker.events.redis import connect
from broker.redis_pipe import Pipe
from shared.errors import Unavailable
from shared.events import Event, Kind
from tests.server_process import free_port
from tests.servers import Redis

JOB = "0192f0c1-2d3e-7abc-8def-000000000001"
PASSWORD = "correct horse"
DATABASE = 3


@dataclass(frozen=True)
class Authority:
    """A certificate that vouches for itself, for servers on this machine."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = cls(folder / f"{name}.crt", folder / f"{name}.key")
        made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return made


class SecureRedis(Redis):
    """With a second port, for TLS; the first one stays as it is, for the test's own use."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._tls_port = free_port()
        super().__init__(
            "--tls-port", str(self._tls_port), "--tls-auth-clients", "no",
            "--tls-cert-file", str(authority.certificate), "--tls-key-file", str(authority.key),
            "--tls-ca-cert-file", str(authority.certificate),
        )  # fmt: skip

    def secure_url(self, *, password: str = PASSWORD, database: int = DATABASE, ca: Path | None = None) -> str:
        trusted = ca or self._authority.certificate
        secret = password.replace(" ", "%20")
        return f"rediss://:{secret}@127.0.0.1:{self._tls_port}/{database}?ssl_ca_certs={trusted}"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SecureRedis]:
    async with SecureRedis(Authority.make(tmp_path, "redis")) as server:
        async with redis.asyncio.from_url(server.url) as first:
            await first.config_set("requirepass", PASSWORD)
        yield server


@pytest.fixture
async def admin(server: SecureRedis) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.Redis(port=server.port, db=DATABASE, password=PASSWORD) as client:
        yield client


Run = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on an event loop of its own: each kind of loop has its own TLS."""
    runner = asyncio.run if request.param == "asyncio" else uvloop.run
    return lambda coroutine: asyncio.to_thread(runner, coroutine)


async def test_commands_reach_the_database_of_the_url(
    server: SecureRedis, admin: "redis.asyncio.Redis", run: Run
) -> None:
    async def write() -> None:
        async with Pipe(server.secure_url()) as pipe:
            assert await pipe.call("SET", "key", b"value") == b"OK"

    await run(write())

    assert await admin.get("key") == b"value"


async def test_a_congestion_under_tls_delays_commands_and_loses_none(server: SecureRedis, run: Run) -> None:
    value = b"x" * 4_000_000

    async def write() -> None:
        async with Pipe(server.secure_url(), timeout=30) as pipe:
            futures = []
            for number in range(8):
                futures.append(pipe.submit(("SET", f"large-{number}", value), ("GET", f"large-{number}")))
                pipe.flush()

            assert [(await future)[1] == value for future in futures] == [True] * 8

    await run(write())


async def test_what_was_written_before_a_pipe_closed_arrives(
    server: SecureRedis, admin: "redis.asyncio.Redis", run: Run
) -> None:
    async def write() -> None:
        async with Pipe(server.secure_url()) as pipe:
            await pipe.call("PING")
            pipe.submit(("SET", "key", b"x" * 16_000_000))  # more than the sockets take at once

    await run(write())

    async with asyncio.timeout(20):
        while await admin.strlen("key") != 16_000_000:
            await asyncio.sleep(0.02)


async def test_events_are_followed_and_tailed_over_tls(server: SecureRedis, run: Run) -> None:
    events = [Event(JOB, 1, Kind.CHUNK, b"data: 1\n\n"), Event(JOB, 2, Kind.COMPLETED)]

    async def follow() -> None:
        async with connect(server.secure_url()) as api, connect(server.secure_url()) as worker, asyncio.timeout(30):
            follower, tail = api.follow(JOB), worker.tail(JOB)
            await worker.emit(api.reply_channel, events)

            assert [event async for event in follower] == events
            assert [event async for event in tail] == events

    await run(follow())


async def test_a_lost_tls_connection_is_made_again(server: SecureRedis, admin: "redis.asyncio.Redis", run: Run) -> None:
    await admin.set("counted", 0)

    async def work() -> None:
        async with Pipe(server.secure_url()) as pipe:
            with pytest.raises(Unavailable, match="lost before the answer"):
                await pipe.submit(("CLIENT", "ID"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"), ("PING",))
            assert await pipe.call("INCR", "counted") == 1

    await run(work())


async def test_a_certificate_of_somebody_else_is_refused_with_its_own_error(
    server: SecureRedis, tmp_path: Path, run: Run
) -> None:
    stranger = Authority.make(tmp_path, "stranger")

    async def connect_to_it() -> None:
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            async with Pipe(server.secure_url(ca=stranger.certificate)):
                pass

    await run(connect_to_it())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"password": "battery staple"}, "invalid username-password"), ({"database": 64}, "DB index")],
)
async def test_a_wrong_password_or_database_is_unavailable(
    server: SecureRedis, wrong: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Unavailable, match=complaint) as caught:
        async with Pipe(server.secure_url(**wrong)):
            pass

    assert "battery" not in str(caught.value)
