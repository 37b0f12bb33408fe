"""What several test files share: refusals, waiting for conditions, and declaring, publishing and draining with pika."""

import contextlib
import time

import pika
import pytest

DEADLINE_SECONDS = 15

each_queue_type = pytest.mark.parametrize("queue_type", ["classic", "quorum"])
"""Runs a test that takes a `queue_type` once for each."""


@contextlib.contextmanager
def channel_refused(channel, code, text):
    """The block must get `channel` closed with exactly this code and text, and its connection must live on.

    Also holds for a publish, which nobody answers: the refusal may arrive during the block or after it.
    """
    reasons = []
    channel._impl.add_on_close_callback(lambda _, reason: reasons.append(reason))
    with contextlib.suppress(pika.exceptions.ChannelClosedByBroker, pika.exceptions.ChannelWrongStateError):
        yield
    wait_until(channel.connection, lambda: reasons)
    assert (reasons[0].reply_code, reasons[0].reply_text) == (code, shortened(text))
    assert channel.is_closed
    round_trip(channel.connection)


@contextlib.contextmanager
def connection_refused(connection, code, text):
    """The block must get the whole `connection` closed with exactly this code and text."""
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as refusal:
        yield
        wait_until(connection, lambda: False)
    assert (refusal.value.reply_code, refusal.value.reply_text) == (code, shortened(text))
    assert connection.is_closed


def shortened(text):
    """A reply text as it fits into a short string: RabbitMQ ends a longer one with an ellipsis."""
    return text if len(text) <= 255 else text[:252] + "..."


def round_trip(connection):
    """Opens and closes a channel: whatever the broker sent before is here when this returns, and it still answers."""
    connection.channel().close()


def wait_until(connection, condition, seconds=DEADLINE_SECONDS):
    """Lets `connection` work until `condition()` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        connection.process_data_events(time_limit=0.05)


def declare(channel, queue, queue_type="classic", **arguments):
    """Declares a durable queue and returns its name; `message_ttl=50` is its argument x-message-ttl."""
    arguments = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": queue_type, **arguments})
    return queue


def to(queue):
    """The arguments for `declare` that send dead letters to `queue`."""
    return {"dead_letter_exchange": "", "dead_letter_routing_key": queue}


def publish(channel, queue, *bodies, **properties):
    """Publishes text bodies to `queue` by way of the default exchange."""
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


def get(channel, queue, auto_ack=False):
    """basic.get as (method, properties, text); fails if the queue has nothing ready."""
    method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
    assert method is not None, f"nothing ready in {queue}"
    return method, properties, body.decode()


def is_confirmed(channel, exchange, key, body, **properties):
    """Publishes on a channel in confirm mode and tells whether the confirm was an ack."""
    try:
        channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties))
    except pika.exceptions.NackError:
        return False
    return True


def is_there(connection, queue):
    """Whether `queue` exists, found out by a publish: of all operations only that one does not prolong x-expires."""
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        channel.basic_publish("", queue, b"anybody home?", mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    finally:
        channel.close()
    return True


def await_ready(channel, queue, count):
    """Waits until `queue` has exactly `count` ready messages."""
    wait_until(channel.connection, lambda: counts(channel, queue)[0] == count)


def receive(channel, queue, auto_ack=True):
    """The next message as (method, properties, text), waited for."""
    await_some(channel, queue)
    return get(channel, queue, auto_ack)


def await_some(channel, queue):
    """Waits until `queue` has a ready message."""
    wait_until(channel.connection, lambda: counts(channel, queue)[0] > 0)


def receive_bodies(channel, queue, count):
    """The text bodies of the next `count` messages, waited for one by one; then there must be no more."""
    bodies = [receive(channel, queue)[2] for _ in range(count)]
    assert drain(channel, queue) == []
    return bodies


def deaths(properties):
    """What x-death tells, the newest first: (queue, reason, count) of each entry."""
    return [(entry["queue"], entry["reason"], entry["count"]) for entry in properties.headers["x-death"]]


def elapse(channel, milliseconds):
    """Waits until so much time has passed for the broker, too: until it has let a message expire.

    For what must not have happened by then. What must happen is waited for instead.
    """
    clock = channel.connection.channel()
    bell = clock.queue_declare("", exclusive=True).method.queue
    arguments = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": bell}
    publish(clock, clock.queue_declare("", exclusive=True, arguments=arguments).method.queue, "ring")
    await_some(clock, bell)
    for queue in (bell, ""):
        clock.queue_delete(queue)
    clock.close()


def drain(channel, queue):
    """The text bodies of all ready messages in order; they are removed."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body.decode())


def counts(channel, queue):
    """(ready messages, consumers) as a passive declaration tells them.

    On RabbitMQ the question may overtake what was published just before, even on the same channel.
    """
    method = channel.queue_declare(queue, passive=True).method
    return method.message_count, method.consumer_count


class Inbox:
    """What a consumer was given, in order. Acknowledge by `inbox.channel.basic_ack(inbox.tags[0])`."""

    def __init__(self, channel, queue, **options):
        """Consumes from `queue` with pika's options; deliveries arrive while the connection works."""
        self.channel = channel
        self.deliveries = []
        self.consumer_tag = channel.basic_consume(queue, self._receive, **options)

    def _receive(self, _channel, method, properties, body):
        self.deliveries.append((method, properties, body.decode()))

    @property
    def bodies(self):
        """The text bodies in the order of delivery."""
        return [body for _, _, body in self.deliveries]

    @property
    def tags(self):
        """The delivery tags in the order of delivery."""
        return [method.delivery_tag for method, _, _ in self.deliveries]

    @property
    def redelivered(self):
        """The redelivered flags in the order of delivery."""
        return [method.redelivered for method, _, _ in self.deliveries]

    def wait(self, count):
        """Waits for `count` deliveries in all, then makes sure that no further one is on its way."""
        wait_until(self.channel.connection, lambda: len(self.deliveries) >= count)
        self.settle()
        assert len(self.deliveries) == count, self.bodies
        return self

    def settle(self):
        """Handles every delivery that the broker had sent before now."""
        round_trip(self.channel.connection)
        self.channel.connection.process_data_events(time_limit=0)
        return self
