"""aio-pika: connect and connect_robust, confirms, iterators, transactions, its RPC and master/worker patterns."""

import asyncio
import contextlib
import datetime

import aio_pika
import aiormq
import pytest
from aio_pika.patterns import RPC, Master

DEADLINE_SECONDS = 15


@pytest.fixture
async def connection(broker, name):
    """A plain aio-pika connection."""
    connection = await aio_pika.connect(broker.url())
    async with connection:
        yield connection


@pytest.fixture
async def channel(connection):
    """A channel in confirm mode, which is aio-pika's default."""
    return await connection.channel()


async def soon(awaitable):
    """Fails instead of waiting for ever."""
    return await asyncio.wait_for(awaitable, DEADLINE_SECONDS)


async def test_publish_and_get(channel, name):
    """A.6: every property through aio-pika's Message."""
    queue = await channel.declare_queue(name())
    sent = aio_pika.Message(
        b"body",
        headers={"text": "é", "number": 2**40, "float": 1.5, "nested": {"list": [1, None, True]}},
        content_type="text/plain",
        content_encoding="utf-8",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=4,
        correlation_id="c",
        reply_to="r",
        expiration=600,
        message_id="m",
        timestamp=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        type="t",
        user_id="guest",
        app_id="a",
    )
    await channel.default_exchange.publish(sent, queue.name)
    received = await queue.get(timeout=5)
    assert received.body == b"body"
    for field in ("headers", "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id"):
        assert getattr(received, field) == getattr(sent, field), field
    for field in ("reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id"):
        assert getattr(received, field) == getattr(sent, field), field
    await received.ack()
    assert await queue.get(fail=False) is None


async def test_wrong_password(broker):
    """A.2 auth failure: ProbableAuthenticationError with the broker's text."""
    with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError) as refusal:
        await aio_pika.connect(broker.url(password="wrong"))
    assert "Login was refused using authentication mechanism PLAIN" in str(refusal.value)


async def test_unroutable(connection, name):
    """A.6, A.7: a mandatory publish without a route raises PublishError if asked to, else it calls back."""
    raising = await connection.channel(on_return_raises=True)
    exchange = await raising.get_exchange("amq.direct")
    with pytest.raises(aio_pika.exceptions.PublishError):
        await soon(exchange.publish(aio_pika.Message(b"lost"), "no such key"))
    await soon(exchange.publish(aio_pika.Message(b"lost"), "no such key", mandatory=False))
    returned = []
    telling = await connection.channel()
    telling.return_callbacks.add(lambda _, message: returned.append(message))
    exchange = await telling.get_exchange("amq.direct")
    await soon(exchange.publish(aio_pika.Message(b"back"), "no such key"))
    assert [(message.body, message.routing_key) for message in returned] == [(b"back", "no such key")]


async def test_concurrent_confirms(channel, name):
    """A.7: a thousand publishes at once, all confirmed, all in the queue in order."""
    queue = await channel.declare_queue(name())
    messages = [aio_pika.Message(str(number).encode()) for number in range(1000)]
    await soon(asyncio.gather(*(channel.default_exchange.publish(each, queue.name) for each in messages)))
    assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 1000
    received = []
    async with queue.iterator(timeout=DEADLINE_SECONDS) as incoming:
        async for message in incoming:
            await message.ack()
            received.append(int(message.body))
            if len(received) == 1000:
                break
    assert received == list(range(1000))


async def test_iterator_returns_what_it_did_not_process(connection, channel, name):
    """A.6: leaving the iterator cancels the consumer and requeues what was prefetched."""
    queue = await channel.declare_queue(name())
    for body in (b"a", b"b", b"c"):
        await channel.default_exchange.publish(aio_pika.Message(body), queue.name)
    async with queue.iterator(timeout=DEADLINE_SECONDS) as incoming:
        async for message in incoming:
            async with message.process():
                assert message.body == b"a"
            break
    await channel.close()
    other = await connection.channel()
    again = await other.get_queue(queue.name)
    assert [(await again.get(no_ack=True)).body for _ in range(2)] == [b"b", b"c"]


async def test_process_requeues_on_error(channel, name):
    """A.6 reject: an exception in process(requeue=True) brings the message back."""
    queue = await channel.declare_queue(name())
    await channel.default_exchange.publish(aio_pika.Message(b"a"), queue.name)
    with pytest.raises(ZeroDivisionError):
        async with (await queue.get()).process(requeue=True):
            raise ZeroDivisionError
    message = await queue.get(no_ack=True)
    assert (message.body, message.redelivered) == (b"a", True)


async def test_refused_channel(connection, channel, name):
    """A.3: 404 is ChannelNotFoundEntity, 406 ChannelPreconditionFailed; the connection opens another channel."""
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity) as missing:
        await channel.get_queue(name("missing"))
    assert "NOT_FOUND - no queue" in str(missing.value)
    other, queue = await connection.channel(), name("queue")
    await other.declare_queue(queue)
    with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed) as different:
        await other.declare_queue(queue, durable=True)
    assert "inequivalent arg 'durable'" in str(different.value)
    assert (await connection.channel()).is_initialized


async def test_exclusive_queue_is_locked(broker, connection, channel, name):
    """A.5 exclusive: ChannelLockedResource on another connection."""
    queue = await channel.declare_queue(name(), exclusive=True)
    async with await aio_pika.connect(broker.url()) as other:
        with pytest.raises(aiormq.exceptions.ChannelLockedResource):
            await (await other.channel()).declare_queue(queue.name, passive=True)


async def test_transaction(connection, name):
    """A.7: on a channel without confirms; an exception rolls back."""
    channel = await connection.channel(publisher_confirms=False)
    queue = await channel.declare_queue(name())
    async with channel.transaction():
        await channel.default_exchange.publish(aio_pika.Message(b"kept"), queue.name)
    with pytest.raises(ZeroDivisionError):
        async with channel.transaction():
            await channel.default_exchange.publish(aio_pika.Message(b"lost"), queue.name)
            raise ZeroDivisionError
    assert (await queue.get(no_ack=True)).body == b"kept"
    assert await queue.get(fail=False) is None


async def test_exchanges_of_all_types(connection, name):
    """A.4, A.8: declared, bound to a queue and to each other through aio-pika's objects."""
    channel = await connection.channel(on_return_raises=True)
    queue = await channel.declare_queue(name("queue"))
    last = await channel.declare_exchange(name("fanout"), aio_pika.ExchangeType.FANOUT)
    await queue.bind(last)
    bindings = {
        aio_pika.ExchangeType.DIRECT: ("a.b", None),
        aio_pika.ExchangeType.TOPIC: ("a.#", None),
        aio_pika.ExchangeType.HEADERS: ("", {"x-match": "all", "color": "red"}),
    }
    for kind, (key, arguments) in bindings.items():
        exchange = await channel.declare_exchange(name(kind.value), kind)
        await last.bind(exchange, key, arguments=arguments)
        await exchange.publish(aio_pika.Message(kind.value.encode(), headers={"color": "red"}), "a.b")
        assert (await queue.get(no_ack=True)).body == kind.value.encode()
        await last.unbind(exchange, key, arguments=arguments)
        with pytest.raises(aio_pika.exceptions.PublishError):
            await exchange.publish(aio_pika.Message(b"lost", headers={"color": "red"}), "a.b")


class Relay:
    """A way to the broker that a test can cut and mend."""

    def __init__(self, broker):
        self.broker = broker
        self.mended = True
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.cut()
        self.server.close()

    @property
    def url(self):
        """The broker's URL by way of this relay."""
        return f"amqp://guest:guest@127.0.0.1:{self.server.sockets[0].getsockname()[1]}/"

    def cut(self):
        """Resets what is connected, and whoever tries again."""
        self.mended = False
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        """Forwards in both directions until either side ends."""
        if not self.mended:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self.broker.host, self.broker.port)
        self.writers += [writer, far_writer]
        await asyncio.gather(self.forward(reader, far_writer), self.forward(far_reader, writer))

    @staticmethod
    async def forward(reader, writer):
        """Copies one direction."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


async def test_robust_connection_restores_everything(broker, connection, name):
    """connect_robust: cut off, it comes back with its channel, exchange, queue, binding and consumer."""
    received, restored = asyncio.Queue(), asyncio.Event()
    exchange_name, queue_name = name("exchange"), name("queue")
    other = await connection.channel()
    async with Relay(broker) as relay:
        robust = await aio_pika.connect_robust(relay.url, reconnect_interval=0.05)
        robust.reconnect_callbacks.add(lambda *_: restored.set())
        channel = await robust.channel()
        exchange = await channel.declare_exchange(exchange_name, aio_pika.ExchangeType.TOPIC)
        queue = await channel.declare_queue(queue_name)
        await queue.bind(exchange, "a.*")
        await queue.consume(received.put, no_ack=True)
        await exchange.publish(aio_pika.Message(b"before"), "a.b")
        assert (await soon(received.get())).body == b"before"
        relay.cut()
        await other.queue_delete(queue_name)
        await other.exchange_delete(exchange_name)
        relay.mended = True
        await soon(restored.wait())
        publisher = await other.get_exchange(exchange_name)
        await publisher.publish(aio_pika.Message(b"after"), "a.b")
        assert (await soon(received.get())).body == b"after"
        await robust.close()


async def test_rpc_pattern(connection, channel, name):
    """aio_pika.patterns.RPC: results, many at once, exceptions, and unknown methods."""

    async def multiply(*, x, y):
        return x * y

    async def fail(*, text):
        raise ValueError(text)

    multiply_name, fail_name = name("multiply"), name("fail")
    server = await RPC.create(await connection.channel())
    await server.register(multiply_name, multiply, auto_delete=True)
    await server.register(fail_name, fail, auto_delete=True)
    client = await RPC.create(channel)
    calls = (client.call(multiply_name, {"x": x, "y": 3}) for x in range(100))
    assert await soon(asyncio.gather(*calls)) == [3 * x for x in range(100)]
    with pytest.raises(ValueError, match="on purpose"):
        await soon(client.call(fail_name, {"text": "on purpose"}))
    with pytest.raises(aio_pika.exceptions.MessageProcessError):
        await soon(client.call(name("unknown"), {}))
    await client.close()
    await server.close()


async def test_master_pattern(connection, channel, name):
    """aio_pika.patterns.Master: tasks to a worker, rejected ones gone, nacked ones again."""
    task_name, done, finished = name("task"), [], asyncio.Event()

    async def work(*, number):
        done.append(number)
        if number == 3 and done.count(3) == 1:
            raise aio_pika.patterns.NackMessage(requeue=True)
        if len(done) == 6:
            finished.set()

    worker_channel = await connection.channel()
    await worker_channel.set_qos(prefetch_count=1)
    worker = await Master(worker_channel).create_worker(task_name, work, auto_delete=True)
    master = Master(channel)
    for number in range(5):
        await master.create_task(task_name, {"number": number})
    await soon(finished.wait())
    assert done == [0, 1, 2, 3, 3, 4]
    await worker.close()


async def test_direct_reply_to(connection, channel, name):
    """A.8 direct reply-to with a bare consumer."""
    replies = asyncio.Queue()
    reply_to = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await reply_to.consume(replies.put, no_ack=True)
    server = await connection.channel()
    requests = await server.declare_queue(name())

    async def serve(message):
        async with message.process():
            await server.default_exchange.publish(
                aio_pika.Message(message.body.upper(), correlation_id=message.correlation_id),
                message.reply_to,
                mandatory=False,
            )

    await requests.consume(serve)
    for number in range(10):
        await channel.default_exchange.publish(
            aio_pika.Message(b"request", reply_to="amq.rabbitmq.reply-to", correlation_id=str(number)), requests.name
        )
    received = [await soon(replies.get()) for _ in range(10)]
    assert [message.correlation_id for message in received] == [str(number) for number in range(10)]
    assert {message.body for message in received} == {b"REQUEST"}


async def test_update_secret(connection):
    """A.2 update-secret."""
    await soon(connection.update_secret("guest", reason="expired"))
    assert not (await connection.channel()).is_closed
