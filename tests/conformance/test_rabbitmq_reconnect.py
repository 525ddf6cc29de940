"""What the RabbitMQ queue does when connections break. A small proxy stands between and cuts them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import pytest
from yarl import URL

from broker import topology
from broker.queues import rabbitmq, rabbitmq_link, rabbitmq_publisher
from broker.queues.rabbitmq import RabbitQueue
from broker.queues.rabbitmq_consumer import RabbitConsumer
from broker.queues.rabbitmq_topology import Topology
from shared.errors import QueueFull, Unavailable
from shared.jobs import Job, Lane, Leg, Outcome, Status

PATIENCE = 60.0  # seconds


class Proxy:
    """Forwards to RabbitMQ until told otherwise."""

    def __init__(self, target: URL) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.deaf = False
        """Bytes from the client are swallowed."""

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut every connection and accept no more until `listen`."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers |= {writer, upstream_writer}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, upstream_writer, lambda: self.deaf))
            group.create_task(self._copy(upstream_reader, writer, lambda: False))
        self._writers -= {writer, upstream_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: Callable[[], bool]) -> None:
        try:
            while data := await reader.read(65536):
                if not deaf():
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(URL(rabbitmq_url))
    await proxy.listen()
    yield proxy
    await proxy.refuse()


@pytest.fixture
async def queue(rabbitmq_url: str, namespace: str, proxy: Proxy) -> AsyncIterator[RabbitQueue]:
    url = str(URL(rabbitmq_url).with_port(proxy.port))
    async with rabbitmq.connect(url, namespace=namespace) as queue:
        await queue.declare(["p"])
        yield queue
    async with aiormq.connect(rabbitmq_url) as connection:
        await Topology(namespace, 1).delete(connection, ["p"])


def job(name: str, lane: Lane = Lane.BATCH) -> Job:
    now = time.time()
    route = (Leg("p", "fast", ("d1",)),)
    return Job(name, "chat.completions", "fast", route, b"{}", "api-1", now, now + 600, lane=lane)


async def soon(awaitable: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE):
        await awaitable


async def noticed(*clients: RabbitQueue | RabbitConsumer) -> None:
    """Wait until they know that their connections are gone; they may have others by then."""
    links = [each.link if isinstance(each, RabbitConsumer) else each._link for each in clients]
    async with asyncio.timeout(PATIENCE):
        for link, before in [(link, link._connection) for link in links]:
            while before is not None and link._connection is before:
                await asyncio.sleep(0)


@asynccontextmanager
async def direct(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    async with aiormq.connect(url) as connection:
        yield await connection.channel()


async def test_publish_waits_for_a_lost_connection_to_return(queue: RabbitQueue, proxy: Proxy) -> None:
    await proxy.refuse()
    await noticed(queue)
    waiting = [queue.publish(job(str(n))) for n in range(3)]
    assert not any(future.done() for future in waiting)

    await proxy.listen()

    await soon(asyncio.gather(*waiting))
    async with queue.consume(["p"], 4) as consumer, asyncio.timeout(PATIENCE):
        assert [(await consumer.get()).job.id for _ in range(3)] == ["0", "1", "2"]


async def test_publish_is_unavailable_when_the_connection_stays_away(
    queue: RabbitQueue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_publisher, "RECONNECT_PATIENCE", 0.2)
    await proxy.refuse()
    await noticed(queue)

    with pytest.raises(Unavailable):
        await soon(queue.publish(job("p")))

    await proxy.listen()
    await soon(queue.ping())


async def test_unconfirmed_publish_is_unavailable_when_the_connection_is_lost(queue: RabbitQueue, proxy: Proxy) -> None:
    proxy.deaf = True
    futures = [queue.publish(job(str(n))) for n in range(10)]
    await asyncio.sleep(0.05)

    proxy.cut()

    for future in futures:
        with pytest.raises(Unavailable):
            await soon(future)


async def test_server_that_stops_confirming_is_given_up(
    queue: RabbitQueue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_publisher, "CONFIRM_TIMEOUT", 0.1)
    monkeypatch.setattr(rabbitmq_link, "WATCH_INTERVAL", 0.05)
    proxy.cut()
    await noticed(queue)
    await soon(queue.ping())
    proxy.deaf = True

    with pytest.raises(Unavailable):
        await soon(queue.publish(job("p")))


async def test_publish_over_the_limit_of_unconfirmed_is_refused(
    queue: RabbitQueue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_publisher, "MAX_UNCONFIRMED", 3)
    proxy.deaf = True
    for number in range(3):
        queue.publish(job(str(number)))

    with pytest.raises(QueueFull):
        await soon(queue.publish(job("one too many")))


async def test_consumer_goes_on_after_a_lost_connection(queue: RabbitQueue, proxy: Proxy) -> None:
    await soon(queue.publish(job("first")))
    async with queue.consume(["p"], 1) as consumer:
        async with asyncio.timeout(PATIENCE):
            before = await consumer.get()
            proxy.cut()
            await noticed(queue, consumer)

            await before.ack()  # of a lost connection: does nothing
            again = await consumer.get()

        assert (again.job.id, again.redelivered) == ("first", True)
        await again.ack()


async def test_a_lost_connection_does_not_resume_a_paused_lane(queue: RabbitQueue, proxy: Proxy) -> None:
    async with queue.consume(["p"], 4) as consumer, asyncio.timeout(PATIENCE):
        await consumer.pause_lanes(["p.batch"])
        proxy.cut()
        await noticed(queue, consumer)
        await consumer.link.ready(PATIENCE)
        await queue.ping()
        await queue.publish(job("batch"))
        await queue.publish(job("interactive", Lane.INTERACTIVE))

        assert (await consumer.get()).job.id == "interactive"
        again = asyncio.ensure_future(consumer.get())
        done, _ = await asyncio.wait([again], timeout=0.3)
        assert not done
        await consumer.pause_lanes([])
        assert (await again).job.id == "batch"


async def test_recorder_goes_on_after_a_lost_connection(queue: RabbitQueue, proxy: Proxy) -> None:
    outcome = Outcome("a", 1, 0.0, "chat.completions", "fast", "fast", "d1", "p", "m", Status.SUCCESS)
    await soon(queue.record([outcome]))
    async with queue.outcomes(1) as batches, asyncio.timeout(PATIENCE):
        before = await anext(batches)
        proxy.cut()
        await noticed(queue)
        await before.ack()

        again = await anext(batches)

        assert again.outcomes == [outcome]


async def test_the_store_side_of_dead_letters_goes_on_after_a_lost_connection(queue: RabbitQueue, proxy: Proxy) -> None:
    await soon(queue.bury("p", job("dead").headers(), b"{}", "why"))
    async with queue.dead_letters(1) as letters, asyncio.timeout(PATIENCE):
        before = await anext(letters)
        proxy.cut()
        await noticed(queue)
        await before.ack()

        again = await anext(letters)

        assert (again.letter, again.letter.job_id) == (before.letter, "dead")


async def test_topology_is_declared_again_on_a_server_that_lost_it(
    queue: RabbitQueue, proxy: Proxy, rabbitmq_url: str, namespace: str
) -> None:
    async with direct(rabbitmq_url) as channel:
        await channel.queue_delete(topology.lane_queue("p", Lane.INTERACTIVE, namespace))

    proxy.cut()
    await noticed(queue)

    await soon(queue.publish(job("p", Lane.INTERACTIVE)))


async def test_channel_that_the_server_closes_is_opened_again(queue: RabbitQueue) -> None:
    await soon(queue.publish(job("first")))
    async with queue.consume(["p"], 3) as consumer, asyncio.timeout(PATIENCE):
        await consumer.get()
        assert consumer.link.channel is not None

        await consumer.link.channel.basic_ack(999)  # an unknown delivery tag, as after a consumer timeout

        assert (await consumer.get()).redelivered


async def test_unreadable_message_goes_to_the_dead_letters(
    queue: RabbitQueue, rabbitmq_url: str, namespace: str
) -> None:
    async with direct(rabbitmq_url) as channel, queue.consume(["p"], 1) as consumer:
        await channel.basic_publish(b"{}", routing_key=topology.lane_queue("p", Lane.INTERACTIVE, namespace))
        await soon(queue.publish(job("readable", Lane.INTERACTIVE)))

        async with asyncio.timeout(PATIENCE):
            delivery = await consumer.get()
            assert delivery.job.id == "readable"
            while not (message := await channel.basic_get(topology.dead_queue("p", namespace), no_ack=True)).body:
                await asyncio.sleep(0.02)

    headers: Any = message.header.properties.headers
    assert headers["x-headrace-reason"].startswith("unreadable")


async def test_queue_made_with_another_bound_is_kept(queue: RabbitQueue, rabbitmq_url: str, namespace: str) -> None:
    await soon(queue.publish(job("kept")))

    async with rabbitmq.connect(rabbitmq_url, bound=7, namespace=namespace) as other, asyncio.timeout(PATIENCE):
        await other.declare(["p"])

        async with other.consume(["p"], 1) as consumer:
            assert (await consumer.get()).job.id == "kept"


async def test_server_that_is_not_there_is_unavailable_without_its_password(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "START_PATIENCE", 0.2)
    await proxy.refuse()

    with pytest.raises(Unavailable) as refusal:
        async with rabbitmq.connect(f"amqp://user:hunter2@127.0.0.1:{proxy.port}/"):
            pass

    assert "hunter2" not in str(refusal.value) + repr(refusal.value.__cause__)
    await proxy.listen()


async def test_a_lost_connection_is_told_once_it_is_back_and_jobs_published_then_arrive(
    queue: RabbitQueue, proxy: Proxy
) -> None:
    told: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
    queue.on_loss(lambda: told.put_nowait(queue.publish(job("again"))))

    proxy.cut()
    async with asyncio.timeout(PATIENCE):
        await (await told.get())

    assert told.empty()
    async with queue.consume(["p"], 1) as consumer, asyncio.timeout(PATIENCE):
        assert (await consumer.get()).job.id == "again"
