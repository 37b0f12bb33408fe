"""kombu on the broker: the messaging library under Celery, used by itself.

What is tested is what kombu makes of AMQP: its queues and their arguments, confirms, broadcast, mailboxes, consumers
that live on when their connection is lost.
"""

import contextlib
import socket
import threading
import time
import uuid
from queue import Empty

import pytest
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed, ResourceLocked
from kombu import Connection, Consumer, Exchange, Producer, Queue, binding
from kombu.common import Broadcast
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu.pidbox import Mailbox
from kombu.pools import Connections, Producers
from kombu.simple import SimpleBuffer, SimpleQueue

SECONDS = 20
LONGER_THAN_SILENCE = 2.5
"""Seconds; a peer that has been silent for two heartbeats of one second is taken for dead."""
CONFIRMS = {"confirm_publish": True}


@pytest.fixture
def kombu(broker):
    """A connection that waits for the confirm of all it publishes."""
    with Connection(broker.url(), transport_options=CONFIRMS) as connection:
        yield connection


@pytest.fixture
def producer(kombu):
    return Producer(kombu.channel())


def drain_until(connection, condition):
    """Handles what `connection` receives until `condition()` is true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        remaining = deadline - time.monotonic()
        assert remaining > 0, f"not within {SECONDS} s"
        with contextlib.suppress(socket.timeout):
            connection.drain_events(timeout=min(remaining, 1))


def declare(kombu, queue):
    """The queue, declared and with a channel of its own."""
    bound = queue(kombu.channel())
    bound.declare()
    return bound


def take(queue):
    """The message that is first in `queue`, acknowledged."""
    message = queue.get()
    message.ack()
    return message


class Collector:
    """A consumer that acknowledges each message and keeps its body."""

    def __init__(self, channel, *queues, **options):
        self.bodies = []
        self.consumer = Consumer(channel, queues, callbacks=[self.keep], **options)

    def keep(self, body, message):
        self.bodies.append(body)
        message.ack()


# Publishing and consuming


def test_a_message_arrives_as_it_was_published(kombu, producer, name):
    exchange = Exchange(name("orders"), type="direct")
    queue = declare(kombu, Queue(name(), exchange, routing_key="new"))
    producer.publish(
        {"id": 7, "note": "für elise"},
        exchange=exchange,
        routing_key="new",
        headers={"nested": {"list": [1, -2, "three", None, True, 0.5]}, "big": 2**40},
        priority=3,
        correlation_id="c1",
        reply_to="answers",
        message_id="m1",
        expiration=60,
        timestamp=1_700_000_000,
        type="order",
        app_id="shop",
        compression="zlib",
    )
    message = take(queue)
    assert message.payload == {"id": 7, "note": "für elise"}
    assert message.headers["nested"] == {"list": [1, -2, "three", None, True, 0.5]}
    assert message.headers["big"] == 2**40
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    kept = {
        "correlation_id": "c1",
        "reply_to": "answers",
        "message_id": "m1",
        "expiration": "60000",
        "type": "order",
        "app_id": "shop",
        "priority": 3,
        "delivery_mode": 2,
    }
    assert kept.items() <= message.properties.items()
    assert message.delivery_info["exchange"] == exchange.name
    assert message.delivery_info["routing_key"] == "new"
    assert message.delivery_info["redelivered"] is False


def test_messages_are_consumed_in_order(kombu, producer, name):
    queue = Queue(name(), durable=False)
    for number in range(100):
        producer.publish(number, routing_key=queue.name, declare=[queue])
    collected = Collector(kombu, queue)
    with collected.consumer:
        drain_until(kombu, lambda: len(collected.bodies) == 100)
    assert collected.bodies == list(range(100))


def test_a_publish_to_a_missing_exchange_raises(kombu, producer, name):
    missing = name("missing")
    with pytest.raises(NotFound, match=f"NOT_FOUND - no exchange '{missing}' in vhost '/'"):
        producer.publish("lost", exchange=missing)


def test_a_mandatory_message_without_a_queue_comes_back(kombu, name):
    """The return comes before the confirm, so kombu has called back when publish returns."""
    returned = []
    producer = Producer(kombu.channel(), on_return=lambda *details: returned.append(details))
    producer.publish("lost", routing_key=name("nowhere"), mandatory=True)
    ((error, exchange, routing_key, message),) = returned
    assert (error.reply_code, error.reply_text) == (312, "NO_ROUTE")
    assert (exchange, message.body) == ("", "lost")
    assert routing_key.endswith("nowhere")


def test_requeue_gives_the_same_message_again(kombu, producer, name):
    queue = declare(kombu, Queue(name()))
    producer.publish("first", routing_key=queue.name)
    producer.publish("second", routing_key=queue.name)
    message = queue.get()
    message.requeue()
    again = take(queue)
    assert (again.payload, again.delivery_info["redelivered"]) == ("first", True)
    second = queue.get()
    second.reject()
    assert queue.get() is None


def test_recover_redelivers_what_is_not_acknowledged(kombu, producer, name):
    queue = Queue(name())
    producer.publish("again", routing_key=queue.name, declare=[queue])
    seen = []
    consumer = Consumer(kombu, queue, on_message=seen.append)
    with consumer:
        drain_until(kombu, lambda: len(seen) == 1)
        consumer.recover(requeue=True)
        drain_until(kombu, lambda: len(seen) == 2)
        assert [message.delivery_info["redelivered"] for message in seen] == [False, True]
        seen[1].ack()


@pytest.mark.parametrize("apply_global", [False, True])
def test_a_prefetch_limits_what_is_unacknowledged(kombu, producer, name, apply_global):
    queue = Queue(name())
    for number in range(4):
        producer.publish(number, routing_key=queue.name, declare=[queue])
    seen = []
    consumer = Consumer(kombu.channel(), queue, on_message=seen.append)
    consumer.qos(prefetch_count=2, apply_global=apply_global)
    with consumer:
        drain_until(kombu, lambda: len(seen) == 2)
        assert queue(producer.channel).queue_declare(passive=True).message_count == 2
        seen[1].ack(multiple=True)
        drain_until(kombu, lambda: len(seen) == 4)
        seen[3].ack(multiple=True)


def test_a_cancelled_consumer_gets_no_more(kombu, producer, name):
    queue = Queue(name())
    collected = Collector(kombu, queue)
    collected.consumer.consume()
    producer.publish("one", routing_key=queue.name)
    drain_until(kombu, lambda: collected.bodies == ["one"])
    collected.consumer.cancel()
    producer.publish("two", routing_key=queue.name)
    assert take(queue(kombu.channel())).payload == "two"


def test_a_consumer_hears_that_its_queue_was_deleted(kombu, name):
    queue = declare(kombu, Queue(name()))
    cancelled = []
    queue.consume("tag", callback=print, on_cancel=cancelled.append)
    queue(kombu.channel()).delete()
    drain_until(kombu, lambda: cancelled == ["tag"])


def test_the_consumer_of_higher_priority_is_served_first(kombu, producer, name):
    plain, preferred = (Queue(name("q"), consumer_arguments=arguments) for arguments in ({}, {"x-priority": 10}))
    preferred.name = plain.name
    low, high = Collector(kombu.channel(), plain), Collector(kombu.channel(), preferred)
    with low.consumer, high.consumer:
        for number in range(5):
            producer.publish(number, routing_key=plain.name)
        drain_until(kombu, lambda: len(low.bodies) + len(high.bodies) == 5)
    assert (low.bodies, high.bodies) == ([], [0, 1, 2, 3, 4])


# Exchanges


def test_a_topic_exchange_with_several_bindings(kombu, producer, name):
    exchange = Exchange(name("topic"), type="topic")
    queue = Queue(name(), bindings=[binding(exchange, routing_key=key) for key in ("*.error", "kern.#")])
    queue = declare(kombu, queue)
    for key in ("kern.error", "kern", "cron.error", "cron.info", "kern.a.b"):
        producer.publish(key, exchange=exchange, routing_key=key)
    assert [take(queue).payload for _ in range(4)] == ["kern.error", "kern", "cron.error", "kern.a.b"]
    assert queue.get() is None


def test_a_headers_exchange(kombu, producer, name):
    exchange = Exchange(name("headers"), type="headers")
    arguments = {"x-match": "all", "format": "pdf", "pages": 3}
    queue = declare(kombu, Queue(name(), exchange, binding_arguments=arguments))
    producer.publish("too short", exchange=exchange, headers={"format": "pdf", "pages": 2})
    producer.publish("right", exchange=exchange, headers={"format": "pdf", "pages": 3, "author": "me"})
    assert take(queue).payload == "right"
    assert queue.get() is None


def test_an_exchange_bound_to_an_exchange(kombu, producer, name):
    source, target = Exchange(name("source"), type="fanout"), Exchange(name("target"), type="direct")
    source(kombu.default_channel).declare()
    bound = target(kombu.default_channel)
    bound.declare()
    bound.bind_to(source, routing_key="any")
    queue = declare(kombu, Queue(name(), target, routing_key="key"))
    producer.publish("through both", exchange=source, routing_key="key")
    assert take(queue).payload == "through both"
    bound.unbind_from(source, routing_key="any")
    producer.publish("nowhere", exchange=source, routing_key="key")
    assert queue.get() is None


def test_a_broadcast_reaches_every_consumer(kombu, producer, name):
    """Each consumer has a queue of its own, which goes when the consumer does."""
    exchange = name("news")
    listeners = [Collector(kombu.channel(), Broadcast(exchange)) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for each in listeners:
            stack.enter_context(each.consumer)
        producer.publish("extra", exchange=exchange)
        drain_until(kombu, lambda: all(each.bodies == ["extra"] for each in listeners))
    for each in listeners:
        with pytest.raises(NotFound, match="NOT_FOUND - no queue 'bcast."):
            each.consumer.queues[0](kombu.channel()).queue_declare(passive=True)


def test_an_auto_delete_exchange_goes_with_its_last_queue(kombu, name):
    exchange = Exchange(name("passing"), type="direct", auto_delete=True)
    queue = declare(kombu, Queue(name(), exchange, routing_key="key"))
    queue.delete()
    with pytest.raises(NotFound, match="no exchange"):
        exchange(kombu.channel()).declare(passive=True)


# Queues and their arguments


def test_queue_arguments_are_kept_and_compared(kombu, name):
    kept = name()
    options = {
        "expires": 60.0,
        "message_ttl": 30.0,
        "max_length": 100,
        "max_length_bytes": 1_000_000,
        "max_priority": 5,
        "queue_arguments": {"x-dead-letter-exchange": "", "x-overflow": "reject-publish"},
    }
    declare(kombu, Queue(kept, **options))
    declare(kombu, Queue(kept, **options))
    text = f"inequivalent arg 'x-message-ttl' for queue '{kept}' in vhost '/': received '31000' but current is '30000'"
    with pytest.raises(PreconditionFailed) as refused:
        declare(kombu, Queue(kept, **options | {"message_ttl": 31.0}))
    assert text in str(refused.value)


def test_a_bad_queue_argument_is_refused(kombu, name):
    with pytest.raises(PreconditionFailed, match="invalid arg 'x-expires' for queue .*{value_zero,0}"):
        declare(kombu, Queue(name(), expires=0))


def test_messages_of_a_priority_queue(kombu, producer, name):
    queue = declare(kombu, Queue(name(), max_priority=10))
    for priority in (0, 5, 10, 5, None, 255):
        producer.publish(f"{priority}", routing_key=queue.name, priority=priority)
    assert [take(queue).payload for _ in range(6)] == ["10", "255", "5", "5", "0", "None"]


def test_purge_and_delete_tell_how_many_messages_there_were(kombu, producer, name):
    queue = declare(kombu, Queue(name()))
    for number in range(3):
        producer.publish(number, routing_key=queue.name)
    assert queue.purge() == 3
    producer.publish("one", routing_key=queue.name)
    with pytest.raises(PreconditionFailed, match="not empty"):
        queue(kombu.channel()).delete(if_empty=True)
    assert queue(kombu.channel()).delete() == 1


def test_a_queue_named_by_the_broker(kombu, producer):
    queue = declare(kombu, Queue("", exclusive=True, durable=False))
    assert queue.name.startswith("amq.gen-")
    producer.publish("here", routing_key=queue.name)
    assert take(queue).payload == "here"


def test_reserved_names_are_refused(kombu):
    with pytest.raises(AccessRefused, match="contains reserved prefix 'amq"):
        declare(kombu, Queue("amq.mine"))


# Simple queues


def test_a_simple_queue(kombu, name):
    with SimpleQueue(kombu.channel(), name()) as queue:
        assert queue.qsize() == 0
        with pytest.raises(Empty):
            queue.get_nowait()
        for number in range(3):
            queue.put({"number": number}, serializer="json", compression="zlib")
        assert queue.qsize() == 3
        for number in range(3):
            message = queue.get(timeout=SECONDS)
            assert message.payload == {"number": number}
            message.ack()


def test_a_simple_buffer_belongs_to_its_connection(broker, kombu, name):
    with SimpleBuffer(kombu.channel(), name()) as queue, Connection(broker.url()) as other:
        queue.put("passing")
        assert queue.get(timeout=SECONDS).payload == "passing"
        with pytest.raises(ResourceLocked, match="cannot obtain exclusive access to locked queue"):
            SimpleBuffer(other.channel(), queue.queue.name)


# Connections that fail


def test_ensure_tries_again_with_a_new_connection(kombu, name):
    producer = Producer(kombu)
    queue = declare(kombu, Queue(name()))
    before = kombu.connection
    errors = []
    before.transport.sock.shutdown(socket.SHUT_RDWR)
    publish = kombu.ensure(producer, producer.publish, errback=lambda error, _: errors.append(error), max_retries=3)
    publish("in the end", routing_key=queue.name)
    assert kombu.connection is not before
    assert len(errors) <= 1
    assert take(queue(kombu.channel())).payload == "in the end"


def test_publish_with_retry_survives_a_lost_connection(kombu, name):
    queue = Queue(name())
    producer = Producer(kombu)
    producer.publish("before", routing_key=queue.name, declare=[queue], retry=True)
    kombu.connection.transport.sock.shutdown(socket.SHUT_RDWR)
    producer.publish("after", routing_key=queue.name, declare=[queue], retry=True, retry_policy={"max_retries": 3})
    bound = queue(kombu.channel())
    assert [take(bound).payload for _ in range(2)] == ["before", "after"]


def test_a_second_broker_is_taken_when_the_first_is_not_there(broker, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    with Connection(f"amqp://guest:guest@127.0.0.1:{nobody}/%2F;{broker.url()}") as connection:
        connection.ensure_connection(max_retries=3, interval_start=0)
        assert connection.as_uri(include_password=True).rstrip("/").endswith(broker.address)


class Listener(ConsumerMixin):
    """Consumes in a thread, from a connection that the test can break."""

    connect_max_retries = 5

    def __init__(self, connection, queue):
        self.connection = connection
        self.queue = queue
        self.bodies = []
        self.consuming = threading.Semaphore(0)
        self.established = None

    def get_consumers(self, Consumer, channel):
        return [Consumer([self.queue], callbacks=[self.on_body], accept=["json"])]

    def on_consume_ready(self, connection, channel, consumers, **_):
        self.established = connection
        self.consuming.release()

    def on_body(self, body, message):
        self.bodies.append(body)
        message.ack()
        self.should_stop = body == "stop"


def test_a_consumer_mixin_reconnects(broker, producer, name):
    queue = Queue(name())
    with Connection(broker.url()) as connection:
        listener = Listener(connection, queue)
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        assert listener.consuming.acquire(timeout=SECONDS)
        listener.established.connection.transport.sock.shutdown(socket.SHUT_RDWR)
        assert listener.consuming.acquire(timeout=SECONDS), "it consumes again"
        producer.publish({"after": "the fault"}, routing_key=queue.name)
        producer.publish("stop", routing_key=queue.name, serializer="json")
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert listener.bodies == [{"after": "the fault"}, "stop"]


class Doubler(ConsumerProducerMixin):
    """Answers each number with its double; None is its last request."""

    def __init__(self, connection, queue):
        self.connection = connection
        self.queue = queue

    def get_consumers(self, Consumer, channel):
        return [Consumer(self.queue, on_message=self.on_request, prefetch_count=1)]

    def on_request(self, message):
        number = message.payload
        self.should_stop = number is None
        answer = {"routing_key": message.properties["reply_to"], "serializer": "json", "retry": True}
        self.producer.publish(2 * (number or 0), correlation_id=message.properties["correlation_id"], **answer)
        message.ack()


def test_request_and_reply(broker, kombu, producer, name):
    requests = Queue(name("requests"), durable=False)
    replies = Queue(name("replies"), exclusive=True, auto_delete=True)
    with Connection(broker.url()) as connection:
        thread = threading.Thread(target=Doubler(connection, requests).run, daemon=True)
        thread.start()
        answers = {}
        consumer = Consumer(kombu, replies, no_ack=True)
        consumer.on_message = lambda message: answers.update({message.properties["correlation_id"]: message.payload})
        with consumer:
            for number in (1, 21, None):
                expected = {"reply_to": replies.name, "correlation_id": str(number)}
                producer.publish(number, routing_key=requests.name, declare=[requests], **expected)
            drain_until(kombu, lambda: len(answers) == 3)
        thread.join(SECONDS)
    assert answers == {"1": 2, "21": 42, "None": 0}


def test_heartbeats_keep_an_idle_connection(broker):
    """With a heartbeat of one second each side would miss the other after two; the broker's show on the wire."""
    with Connection(broker.url(), heartbeat=1) as connection:
        connection.connect()
        assert connection.get_heartbeat_interval() == 1
        received = connection.connection.bytes_recv
        until = time.monotonic() + LONGER_THAN_SILENCE
        while time.monotonic() < until:
            connection.heartbeat_check()
            with contextlib.suppress(socket.timeout):
                connection.drain_events(timeout=0.25)
        assert connection.connection.bytes_recv > received
        connection.default_channel.queue_declare("", exclusive=True)


def test_a_client_without_heartbeats_is_dropped(broker):
    connection = Connection(broker.url(), heartbeat=1)
    connection.connect()
    with pytest.raises(connection.connection_errors, match="Server unexpectedly closed connection|reset by peer"):
        drain_until(connection, lambda: False)
    connection.collect()


# Pools and mailboxes


def test_pools_of_connections_and_producers(broker, name):
    connection = Connection(broker.url(), transport_options=CONFIRMS)
    connections = Connections(limit=2)
    producers = Producers(limit=2)
    queue = Queue(name())
    with connections[connection].acquire(block=True) as first, connections[connection].acquire(block=True) as second:
        assert first is not second
        queue(first.default_channel).declare()
        with producers[connection].acquire(block=True) as pooled:
            pooled.publish("pooled", routing_key=queue.name)
        assert take(queue(second.default_channel)).payload == "pooled"
    connections[connection].force_close_all()


def test_a_mailbox_is_called_and_answers(broker, kombu, name):
    """A node of a broadcast mailbox has an exclusive queue; who asks has a reply queue that expires."""
    mailbox = Mailbox(f"control{uuid.uuid4().hex}", type="fanout", queue_ttl=5.0, queue_expires=10.0)
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(serving(broker, mailbox, host)) for host in ("left", "right")]
        caller = mailbox(kombu)
        assert caller.call(["left"], "double", {"number": 4}, timeout=SECONDS) == [{"left": 8}]
        everyone = caller.multi_call("double", {"number": 5}, timeout=SECONDS, limit=2)
        assert sorted(everyone, key=str) == [{"left": 10}, {"right": 10}]
        assert caller.call(["right"], "fault", timeout=SECONDS) == [{"right": {"error": "ValueError('broken')"}}]
        caller.abcast("stop")
        for thread in nodes:
            thread.join(SECONDS)
            assert not thread.is_alive()
    for exchange in (mailbox.exchange, mailbox.reply_exchange):
        exchange(kombu.channel()).delete()


@contextlib.contextmanager
def serving(broker, mailbox, host):
    """Runs a node of `mailbox` in a thread until it is told to stop."""
    running = []
    with Connection(broker.url()) as connection:
        node = mailbox(connection).Node(host, channel=connection.channel(), state=running)

        @node.handler
        def double(state, number):
            return 2 * number

        @node.handler
        def fault(state):
            raise ValueError("broken")

        @node.handler
        def stop(state):
            state.append("stop")

        consumer = node.listen()
        thread = threading.Thread(target=drain_until, args=(connection, lambda: running), daemon=True)
        thread.start()
        yield thread
        consumer.cancel()


def test_two_nodes_of_one_name_are_refused(broker, kombu):
    mailbox = Mailbox(f"control{uuid.uuid4().hex}", type="fanout")
    node = mailbox(kombu).Node("same", channel=kombu.channel())
    node.listen(callback=print)
    with Connection(broker.url()) as other, pytest.raises(Exception, match="already using this process mailbox"):
        mailbox(other).Node("same", channel=other.channel()).listen(callback=print)
    mailbox.exchange(kombu.channel()).delete()
