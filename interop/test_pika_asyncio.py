"""pika's AsyncioConnection, driven from coroutines."""

import asyncio

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

DEADLINE_SECONDS = 15


class Callback:
    """Turns one of pika's callbacks into something to await: `await answer(channel.queue_declare, "q")`."""

    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    def __call__(self, *arguments):
        """Keeps what pika tells: all but its last argument says where it comes from."""
        if not self.future.done():
            self.future.set_result(arguments[-1])


async def answer(method, *arguments, keyword="callback", **options):
    """Calls a method of pika that reports by callback and waits for its last argument."""
    callback = Callback()
    method(*arguments, **{keyword: callback}, **options)
    return await asyncio.wait_for(callback.future, DEADLINE_SECONDS)


@pytest.fixture
async def connection(broker, name):
    """An open AsyncioConnection, closed after the test."""
    opened, failed = Callback(), Callback()
    connection = AsyncioConnection(broker.parameters(), on_open_callback=opened, on_open_error_callback=failed)
    await asyncio.wait_for(opened.future, DEADLINE_SECONDS)
    yield connection
    if connection.is_open:
        closed = Callback()
        connection.add_on_close_callback(closed)
        connection.close()
        await asyncio.wait_for(closed.future, DEADLINE_SECONDS)


@pytest.fixture
async def channel(connection):
    """A channel of the test's connection."""
    return await answer(connection.channel, keyword="on_open_callback")


async def test_wrong_password(broker):
    """A.2 auth failure: ProbableAuthenticationError for on_open_error_callback."""
    failed = Callback()
    AsyncioConnection(broker.parameters("guest", "wrong"), on_open_error_callback=failed)
    reason = await asyncio.wait_for(failed.future, DEADLINE_SECONDS)
    assert isinstance(reason, pika.exceptions.ProbableAuthenticationError)


async def test_publish_confirm_and_consume(channel, name):
    """A.6, A.7: confirms and deliveries of three hundred messages interleave."""
    queue, total = (await answer(channel.queue_declare, name())).method.queue, 300
    highest, received = [], asyncio.Queue()
    await answer(channel.confirm_delivery, lambda frame: highest.append(frame.method))
    await answer(channel.basic_consume, queue, lambda *delivery: received.put_nowait(delivery), auto_ack=True)
    for number in range(total):
        channel.basic_publish("", queue, str(number))
    bodies = [int((await asyncio.wait_for(received.get(), DEADLINE_SECONDS))[3]) for _ in range(total)]
    assert bodies == list(range(total))
    await answer(channel.queue_declare, queue, passive=True)
    assert all(isinstance(method, pika.spec.Basic.Ack) for method in highest)
    settled = set()
    for method in highest:
        settled.update(range(1, method.delivery_tag + 1) if method.multiple else [method.delivery_tag])
    assert settled == set(range(1, total + 1))


async def test_return(channel):
    """A.6 return: code, text and message by callback."""
    returned = asyncio.Queue()
    channel.add_on_return_callback(lambda *back: returned.put_nowait(back))
    channel.basic_publish("amq.direct", "no such key", b"body", mandatory=True)
    _, method, _, body = await asyncio.wait_for(returned.get(), DEADLINE_SECONDS)
    assert (method.reply_code, method.reply_text, body) == (312, "NO_ROUTE", b"body")


async def test_channels_side_by_side(connection, name):
    """A.3: coroutines on channels of their own, all on one connection."""

    async def work(index):
        channel = await answer(connection.channel, keyword="on_open_callback")
        queue = (await answer(channel.queue_declare, name(f"q{index}"), exclusive=True)).method.queue
        received = asyncio.Queue()
        await answer(channel.basic_consume, queue, lambda *delivery: received.put_nowait(delivery))
        for number in range(20):
            channel.basic_publish("", queue, f"{index}/{number}")
        bodies = []
        for _ in range(20):
            _, method, _, body = await asyncio.wait_for(received.get(), DEADLINE_SECONDS)
            channel.basic_ack(method.delivery_tag)
            bodies.append(body.decode())
        return bodies

    results = await asyncio.gather(*(work(index) for index in range(20)))
    assert results == [[f"{index}/{number}" for number in range(20)] for index in range(20)]


async def test_refused_channel(connection, channel, name):
    """A.3: the channel closes with code and text, the connection goes on."""
    missing, closed = name(), Callback()
    channel.add_on_close_callback(closed)
    channel.queue_declare(missing, passive=True)
    reason = await asyncio.wait_for(closed.future, DEADLINE_SECONDS)
    assert (reason.reply_code, reason.reply_text) == (404, f"NOT_FOUND - no queue '{missing}' in vhost '/'")
    assert (await answer(connection.channel, keyword="on_open_callback")).is_open


async def test_get_and_requeue(channel, name):
    """A.6 get, nack: redelivered the second time."""
    queue = (await answer(channel.queue_declare, name())).method.queue
    channel.basic_publish("", queue, b"a")
    seen = []
    for _ in range(2):
        got = Callback()
        channel.basic_get(queue, lambda _channel, method, _properties, body, got=got: got((method, body)))
        method, body = await asyncio.wait_for(got.future, DEADLINE_SECONDS)
        seen.append((body, method.redelivered))
        channel.basic_nack(method.delivery_tag)
    assert seen == [(b"a", False), (b"a", True)]
