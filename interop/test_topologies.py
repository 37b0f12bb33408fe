"""What frameworks build on a broker, with plain clients: delays, retries, error queues, request and reply.

Names and arguments are those that the frameworks use, in front of them what keeps the tests apart; times are shorter.
"""

import json
import time
import uuid

import pika
import pytest
from kombu import Connection, Exchange, Queue
from kombu.transport import native_delayed_delivery as delayed_delivery

import celery_app
from celery_processes import Worker, stop_all
from support import (
    Inbox,
    await_ready,
    channel_refused,
    counts,
    deaths,
    declare,
    each_queue_type,
    is_there,
    publish,
    receive,
    receive_bodies,
    to,
    wait_until,
)

DELAYED = "RabbitMQ has x-delayed-message in a plugin that it does not ship"
LEVELS = 28
RESULT_SECONDS = 20


@pytest.fixture
def cleared(broker):
    """Deletes the queues and exchanges of these names, now and after the test: for those that a library names."""
    cleared = []

    def clear(*names):
        with Connection(broker.url()) as connection:
            for each in names:
                connection.default_channel.queue_delete(each)
                connection.default_channel.exchange_delete(each)
        cleared.extend(names)

    yield clear
    clear(*cleared)


# Celery: native delayed delivery


def celery_names(prefix=None):
    """The queues and exchanges of Celery's ladder of 28 levels."""
    levels = [delayed_delivery.level_name(level, prefix) for level in range(LEVELS)]
    return [*levels, delayed_delivery._celery_delayed_delivery_exchange(prefix)]


@pytest.mark.parametrize("queue_type, countdowns", [("classic", [1]), ("quorum", [3, 1])])
def test_celery_ladder(broker, channel, name, cleared, queue_type, countdowns):
    """kombu's own functions: each 1 in the binary countdown is a queue to wait in, each 0 a binding past it."""
    prefix = name("ladder")
    names = celery_names(prefix)
    cleared(*names)
    queue = Queue(name("tasks"), Exchange(name("tasks-exchange"), "topic"), "task", expires=60)
    with Connection(broker.url()) as connection:
        for _ in range(2):
            delayed_delivery.declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type, prefix)
        queue(connection.default_channel).declare()
        delayed_delivery.bind_queue_to_native_delayed_delivery_exchange(connection, queue, prefix)
    channel.confirm_delivery()
    start = time.monotonic()
    for countdown in countdowns:
        key = delayed_delivery.calculate_routing_key(countdown, "task")
        channel.basic_publish(names[LEVELS - 1], key, str(countdown), mandatory=True)
    for countdown in sorted(countdowns):
        method, properties, body = receive(channel, queue.name)
        assert time.monotonic() - start >= countdown
        assert body == str(countdown)
        assert method.exchange == names[LEVELS]
        assert method.routing_key == delayed_delivery.calculate_routing_key(countdown, "task")
        levels = [level for level in range(LEVELS) if countdown & 1 << level]
        assert deaths(properties) == [(names[level], "expired", 1) for level in levels]


def test_celery_worker_with_a_countdown(broker, cleared, tmp_path):
    """A Celery worker with a quorum queue lets the broker keep what is not due, in place of its own memory."""
    queue = "celery.delayed"
    cleared(*celery_names(), queue)
    settings = {
        "task_queues": None,
        "task_default_queue": queue,
        "task_default_queue_type": "quorum",
        "task_default_exchange": queue,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": queue,
    }
    options = ["--without-gossip", "--without-mingle", "--pool=solo"]
    worker = Worker("delayed", tmp_path, broker.url(), "rpc://", *options, **settings)
    app = celery_app.create_app(broker.url(), "rpc://", **settings)
    app.finalize()
    try:
        worker.ready()
        start = time.monotonic()
        later = app.tasks["delivery"].apply_async(countdown=1)
        sooner = app.tasks["delivery"].apply_async()
        assert sooner.get(timeout=RESULT_SECONDS)["exchange"] == queue
        delivery = later.get(timeout=RESULT_SECONDS)
        assert time.monotonic() - start >= 0.9
        assert delivery["exchange"] == delayed_delivery.CELERY_DELAYED_DELIVERY_EXCHANGE
        assert delivery["routing_key"] == delayed_delivery.calculate_routing_key(1, queue)
    finally:
        app.backend.result_consumer.stop()
        app.close()
        stop_all([worker])


# NServiceBus: delayed delivery, routing, returns

DELAY_HEADER = "NServiceBus.Transport.RabbitMQ.DelayInSeconds"
UNIT_MS = 25
"""How long the lowest level waits; a second at NServiceBus."""


def declare_nservicebus_ladder(channel, name, queue_type):
    """The levels' exchanges from 0 up, and the delivery exchange."""
    arguments = {"overflow": "reject-publish"}
    if queue_type == "quorum":
        arguments["dead_letter_strategy"] = "at-least-once"
    levels = [name(f"nsb.v2.delay-level-{level:02}") for level in range(LEVELS)]
    delivery = name("nsb.v2.delay-delivery")
    for exchange in (*levels, delivery):
        channel.exchange_declare(exchange, "topic", durable=True)
    for level, exchange in enumerate(levels):
        lower = levels[level - 1] if level else delivery
        declare(channel, exchange, queue_type, message_ttl=UNIT_MS << level, dead_letter_exchange=lower, **arguments)
        skipped = "*." * (LEVELS - 1 - level)
        channel.queue_bind(exchange, exchange, f"{skipped}1.#")
        channel.exchange_bind(lower, exchange, f"{skipped}0.#")
    return levels, delivery


@each_queue_type
def test_nservicebus_ladder(channel, name, queue_type):
    """A message waits in the level of each 1 of its delay, and arrives by its address at the end of the key."""
    levels, delivery = declare_nservicebus_ladder(channel, name, queue_type)
    endpoint = declare(channel, name("Sales"), queue_type)
    channel.exchange_declare(endpoint, "fanout", durable=True)
    channel.queue_bind(endpoint, endpoint)
    channel.exchange_bind(endpoint, delivery, f"#.{endpoint}")
    channel.confirm_delivery()
    for delay in (13, 6, 1):
        key = ".".join(f"{delay:0{LEVELS}b}") + f".{endpoint}"
        properties = pika.BasicProperties(delivery_mode=2, headers={DELAY_HEADER: delay})
        channel.basic_publish(levels[-1], key, str(delay), properties, mandatory=True)
    for delay, last in ((1, delivery), (6, levels[0]), (13, delivery)):
        method, properties, body = receive(channel, endpoint)
        assert (body, method.exchange) == (str(delay), last)
        assert method.routing_key == ".".join(f"{delay:0{LEVELS}b}") + f".{endpoint}"
        waited = {(queue, "expired", 1) for level, queue in enumerate(levels) if delay & 1 << level}
        assert set(deaths(properties)) == waited
        assert (properties.headers[DELAY_HEADER], properties.delivery_mode) == (delay, 2)


def test_nservicebus_send_to_a_missing_endpoint(channel, name):
    """Sends are mandatory, to the exchange of the endpoint: no such exchange is 404, no queue a return."""
    channel.confirm_delivery()
    exchange = name("Billing")
    channel.exchange_declare(exchange, "fanout", durable=True)
    with pytest.raises(pika.exceptions.UnroutableError) as returned:
        channel.basic_publish(exchange, "", b"command", mandatory=True)
    assert returned.value.messages[0].method.reply_text == "NO_ROUTE"
    channel.exchange_delete(exchange)
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.basic_publish(exchange, "", b"command", mandatory=True)


# MassTransit: exchanges of message types, error and skipped queues, temporary endpoints


@pytest.fixture
def bus(channel, name):
    """Declares a durable fanout exchange bound to others: `bus("Contracts:OrderSubmitted", "submit-order")`."""

    def declare_exchange(noun, *destinations, **options):
        exchange = name(noun)
        channel.exchange_declare(exchange, "fanout", durable=True, **options)
        for destination in destinations:
            channel.exchange_bind(destination, exchange)
        return exchange

    return declare_exchange


def declare_endpoint(channel, bus, noun, queue_type="classic", **arguments):
    """A receive endpoint: a queue behind an exchange of the same name."""
    exchange = bus(noun)
    declare(channel, exchange, queue_type, **arguments)
    channel.queue_bind(exchange, exchange)
    return exchange


@each_queue_type
def test_masstransit_publish(channel, bus, queue_type):
    """A message type is an exchange, bound to those of its base types and of its subscribers; nobody gets it twice."""
    orders = declare_endpoint(channel, bus, "submit-order", queue_type)
    audit = declare_endpoint(channel, bus, "audit", queue_type)
    base = bus("Contracts:IEvent", audit)
    submitted = bus("Contracts:OrderSubmitted", base, orders, audit)
    cancelled = bus("Contracts:OrderCancelled", base)
    channel.confirm_delivery()
    for exchange in (submitted, cancelled):
        channel.basic_publish(exchange, "", exchange, mandatory=True)
    assert receive_bodies(channel, orders, 1) == [submitted]
    assert receive_bodies(channel, audit, 2) == [submitted, cancelled]


def test_masstransit_error_and_skipped(channel, bus, name):
    """A consumer that fails moves the message to _error with its fault in the headers, one unknown to _skipped."""
    endpoint = declare_endpoint(channel, bus, "submit-order")
    channel.confirm_delivery()
    for body in ("unknown type", "poison"):
        publish(channel, endpoint, body, message_id=body, content_type="application/vnd.masstransit+json")
    for suffix, body, reason in (("_skipped", "unknown type", "dead-letter"), ("_error", "poison", "fault")):
        method, properties, received = receive(channel, endpoint, auto_ack=False)
        target = declare_endpoint(channel, bus, f"submit-order{suffix}")
        properties.headers = {"MT-Reason": reason, "MT-Fault-StackTrace": "at\n" * 2000}
        channel.basic_publish(target, "", received, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)
        _, moved, received = receive(channel, target)
        assert (received, moved.message_id, moved.headers) == (body, body, properties.headers)
        assert moved.content_type == "application/vnd.masstransit+json"
    assert counts(channel, endpoint)[0] == 0


@pytest.mark.deviation(DELAYED)
def test_masstransit_scheduled_redelivery(channel, bus, name):
    """The delay exchange of an endpoint leads to the exchange of its queue."""
    endpoint = declare_endpoint(channel, bus, "submit-order")
    delay = name("submit-order_delay")
    channel.exchange_declare(delay, "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    channel.exchange_bind(endpoint, delay)
    publish(channel, endpoint, "flaky", message_id="m")
    for count in range(1, 4):
        method, properties, body = receive(channel, endpoint, auto_ack=False)
        assert properties.message_id == "m"
        properties.headers = {"x-delay": 50, "MT-Redelivery-Count": count}
        channel.basic_publish(delay, "", body, properties)
        channel.basic_ack(method.delivery_tag)
    _, properties, body = receive(channel, endpoint)
    assert (body, properties.headers) == ("flaky", {"x-delay": -50, "MT-Redelivery-Count": 3})


@each_queue_type
def test_masstransit_single_active_consumer(channel, connection, bus, queue_type):
    """Ordered processing: two instances of a service, of which one works until it is stopped."""
    endpoint = declare_endpoint(channel, bus, "ledger", queue_type, single_active_consumer=True)
    instances = [connection.channel() for _ in range(2)]
    for instance in instances:
        instance.basic_qos(prefetch_count=16)
    first, second = (Inbox(instance, endpoint) for instance in instances)
    publish(channel, endpoint, *"abc")
    assert first.wait(3).bodies == ["a", "b", "c"]
    assert second.settle().bodies == []
    first.channel.basic_ack(first.tags[0])
    first.channel.close()
    assert second.wait(2).bodies == ["b", "c"]


def test_masstransit_temporary_endpoint(channel, connection, connect, bus, name):
    """The bus endpoint of a process: auto-delete with x-expires, gone with the process and its exchange with it."""
    queue = name("host_service_bus_yyyyyy")
    other = connect()
    process = other.channel()
    process.exchange_declare(queue, "fanout", auto_delete=True, arguments={"x-expires": 60000})
    process.queue_declare(queue, auto_delete=True, arguments={"x-expires": 60000})
    process.queue_bind(queue, queue)
    response = bus("Contracts:OrderAccepted")
    channel.exchange_bind(queue, response)
    inbox = Inbox(process, queue)
    channel.basic_publish(response, "", b"accepted")
    assert inbox.wait(1).bodies == ["accepted"]
    other.close()
    wait_until(connection, lambda: not is_there(connection, queue))
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{queue}' in vhost '/'"):
        channel.exchange_declare(queue, passive=True)


def test_masstransit_temporary_endpoint_that_nobody_used(connection, channel, name):
    """An auto-delete queue that never had a consumer does not go by itself: that is what the x-expires is for."""
    queue = name("host_service_bus_zzzzzz")
    channel.queue_declare(queue, auto_delete=True, arguments={"x-expires": 300})
    assert is_there(connection, queue)
    wait_until(connection, lambda: not is_there(connection, queue))


# Spring AMQP: retries by x-death, republished to a dead-letter queue, declaring again after a refusal

ATTEMPTS = 3


@each_queue_type
def test_spring_retry_by_x_death(channel, connection, name, dead, queue_type):
    """A listener rejects into a wait queue and gives up when x-death says that it has tried often enough."""
    exchange, work, wait = name("work-exchange"), name("work"), name("work.wait")
    channel.exchange_declare(exchange, "direct", durable=True)
    declare(channel, work, queue_type, dead_letter_exchange=exchange, dead_letter_routing_key="wait")
    declare(channel, wait, queue_type, message_ttl=50, dead_letter_exchange=exchange, dead_letter_routing_key="work")
    channel.queue_bind(work, exchange, "work")
    channel.queue_bind(wait, exchange, "wait")
    attempts = []

    def listen(listener, method, properties, body):
        died = [entry for entry in (properties.headers or {}).get("x-death", []) if entry["queue"] == work]
        attempts.append(died[0]["count"] if died else 0)
        if attempts[-1] < ATTEMPTS:
            listener.basic_reject(method.delivery_tag, requeue=False)
        else:
            listener.basic_publish("", dead, body, properties)
            listener.basic_ack(method.delivery_tag)

    connection.channel().basic_consume(work, listen)
    channel.basic_publish(exchange, "work", b"poison", pika.BasicProperties(message_id="m", delivery_mode=2))
    _, properties, body = receive(channel, dead)
    assert attempts == list(range(ATTEMPTS + 1))
    assert (body, properties.message_id, properties.delivery_mode) == ("poison", "m", 2)
    assert set(deaths(properties)) == {(work, "rejected", ATTEMPTS), (wait, "expired", ATTEMPTS)}
    assert properties.headers["x-first-death-queue"] == work


def test_spring_republish_recoverer(channel, name, dead):
    """RepublishMessageRecoverer: a stack trace and the message's origin become headers, nearly a frame of them."""
    work = declare(channel, name("work"))
    publish(channel, work, "poison", headers={"__TypeId__": "com.example.Order"}, message_id="m")
    method, properties, body = receive(channel, work, auto_ack=False)
    properties.headers |= {
        "x-exception-message": "Listener threw exception",
        "x-exception-stacktrace": "\tat com.example.Listener.handle(Listener.java:42)\n" * 2000,
        "x-original-exchange": method.exchange,
        "x-original-routingKey": method.routing_key,
    }
    channel.confirm_delivery()
    channel.basic_publish("", dead, body, properties, mandatory=True)
    channel.basic_ack(method.delivery_tag)
    _, republished, _ = receive(channel, dead)
    assert republished.headers == properties.headers
    assert republished.headers["x-original-routingKey"] == work


def test_spring_declares_again_on_a_new_channel(connection, channel, name):
    """RabbitAdmin: a refused passive or active declaration costs a channel, nothing else."""
    queue, exchange = name("orders"), name("orders-exchange")
    consuming = connection.channel()
    with channel_refused(channel, 404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, passive=True)
    declare(connection.channel(), queue, max_length=10)
    inbox = Inbox(consuming, queue, auto_ack=True)
    changes = {
        "received none but current is the value '10' of type 'signedint'": {},
        "received '20' but current is '10'": {"max_length": 20},
    }
    for difference, arguments in changes.items():
        text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': {difference}"
        declaring = connection.channel()
        with channel_refused(declaring, 406, text):
            declare(declaring, queue, **arguments)
    declaring = connection.channel()
    with channel_refused(declaring, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        declaring.exchange_declare(exchange, passive=True)
    publish(connection.channel(), queue, "still here")
    assert inbox.wait(1).bodies == ["still here"]


@pytest.mark.deviation(DELAYED)
def test_spring_delayed_exchange(channel, name):
    """An exchange with delayed=true: x-delayed-message around its type; setDelay is the x-delay header."""
    exchange = name("delayed")
    queue = declare(channel, name("orders"))
    channel.exchange_declare(exchange, "x-delayed-message", durable=True, arguments={"x-delayed-type": "topic"})
    channel.queue_bind(queue, exchange, "order.*")
    for delay in (150, 50):
        channel.basic_publish(exchange, "order.new", str(delay), pika.BasicProperties(headers={"x-delay": delay}))
    received = [receive(channel, queue) for _ in range(2)]
    assert [(body, properties.headers) for _, properties, body in received] == [
        ("50", {"x-delay": -50}),
        ("150", {"x-delay": -150}),
    ]


def test_spring_anonymous_queue(connect, channel, connection, name):
    """spring.gen-...: exclusive, auto-delete, with a master locator, bound to a topic exchange of another service."""
    exchange, queue = name("events"), name("spring.gen-abc")
    channel.exchange_declare(exchange, "topic", durable=True)
    service = connect()
    arguments = {"x-queue-master-locator": "client-local"}
    listener = service.channel()
    listener.queue_declare(queue, exclusive=True, auto_delete=True, arguments=arguments)
    listener.queue_bind(queue, exchange, "#")
    inbox = Inbox(listener, queue, auto_ack=True)
    channel.basic_publish(exchange, "order.new", b"a")
    assert inbox.wait(1).bodies == ["a"]
    service.close()
    assert not is_there(connection, queue)


# Laravel and Symfony: a queue for each delay


def test_laravel_delay_queues(channel, connection, name):
    """`later()` declares queue.<delay>.delay each time; it expires when it has not been used for twice its delay."""
    jobs = declare(channel, name("jobs"))
    delays = {delay: name(f"jobs.{delay}.delay") for delay in (250, 100)}
    for _ in range(2):
        for delay, queue in delays.items():
            declare(channel, queue, message_ttl=delay, expires=2 * delay, **to(jobs))
            publish(channel, queue, str(delay), delivery_mode=2, headers={"laravel": {"attempts": 0}})
    received = [receive(channel, jobs) for _ in range(4)]
    assert [body for _, _, body in received] == ["100", "100", "250", "250"]
    for _, properties, body in received:
        assert deaths(properties) == [(delays[int(body)], "expired", 1)]
        assert properties.headers["laravel"] == {"attempts": 0}
    wait_until(connection, lambda: not any(is_there(connection, queue) for queue in delays.values()))


def test_symfony_delay_queues(channel, connection, name):
    """Messenger: delay queues at a direct exchange of their own, dead-lettering to the exchange of the transport."""
    delays, messages = name("delays"), name("messages")
    channel.exchange_declare(delays, "direct", durable=True)
    channel.exchange_declare(messages, "fanout", durable=True)
    declare(channel, messages)
    channel.queue_bind(messages, messages)
    for delay in (200, 50):
        queue = name(f"delay_{messages}__{delay}_delay")
        arguments = {"message_ttl": delay, "expires": delay + 200, "dead_letter_exchange": messages}
        declare(channel, queue, dead_letter_routing_key="", **arguments)
        channel.queue_bind(queue, delays, queue)
        channel.basic_publish(delays, queue, str(delay), pika.BasicProperties(headers={"X-Symfony-Delay": delay}))
    for delay in (50, 200):
        method, properties, body = receive(channel, messages)
        assert (method.exchange, method.routing_key, body) == (messages, "", str(delay))
        (entry,) = properties.headers["x-death"]
        assert (entry["reason"], entry["exchange"]) == ("expired", delays)
        assert entry["routing-keys"] == [entry["queue"]]
    wait_until(connection, lambda: not is_there(connection, queue))


def test_laravel_priorities(channel, name):
    """`x-max-priority` on the queue of the jobs, and delayed jobs that keep their priority."""
    jobs = declare(channel, name("jobs"), max_priority=10)
    delayed = declare(channel, name("jobs.50.delay"), message_ttl=50, expires=1000, **to(jobs))
    publish(channel, delayed, "low", priority=1)
    publish(channel, delayed, "high", priority=10)
    await_ready(channel, jobs, 2)
    assert receive_bodies(channel, jobs, 2) == ["high", "low"]


# OpenStack: topics, fanouts, and a reply queue for each process


class Service:
    """A service of OpenStack: it listens on its topic, its topic and host, and its fanout, and answers."""

    def __init__(self, connection, exchange, topic, host):
        self.host = host
        self.channel = connection.channel()
        fanout = f"{topic}_fanout"
        self.channel.exchange_declare(exchange, "topic")
        self.channel.exchange_declare(fanout, "fanout", auto_delete=True)
        self.queues = [topic, f"{topic}.{host}", f"{fanout}_{uuid.uuid4().hex}"]
        for queue, source in zip(self.queues, (exchange, exchange, fanout)):
            self.channel.queue_declare(queue, arguments={"x-expires": 60000} if source == fanout else None)
            self.channel.queue_bind(queue, source, queue)
            self.channel.basic_consume(queue, self.handle)

    def handle(self, channel, method, _properties, body):
        """Answers a request as oslo.messaging does: to the exchange of the reply queue, which has its name."""
        request = json.loads(body)
        channel.basic_ack(method.delivery_tag)
        if "_reply_q" in request:
            answer = {"_msg_id": request["_msg_id"], "result": [self.host, request["args"]]}
            channel.basic_publish(request["_reply_q"], request["_reply_q"], json.dumps(answer), mandatory=True)


def declare_reply_queue(channel):
    """The reply queue of a process: a direct exchange and a queue of one name, which go when nobody uses them."""
    name = f"reply_{uuid.uuid4().hex}"
    channel.exchange_declare(name, "direct", auto_delete=True)
    channel.queue_declare(name, arguments={"x-expires": 2000})
    channel.queue_bind(name, name, name)
    return name


def test_openstack_calls_and_casts(connection, channel, connect, name):
    """rpc.call to a topic and to a host of it, rpc.cast to all of them."""
    exchange, topic = name("nova"), name("compute")
    services = [Service(connection, exchange, topic, host) for host in ("host1", "host2")]
    client = connect()
    calling = client.channel()
    reply_queue = declare_reply_queue(calling)
    replies = Inbox(calling, reply_queue)
    keys = [f"{topic}.host1", f"{topic}.host2", topic, topic]
    for number, key in enumerate(keys):
        request = {"_msg_id": number, "_reply_q": reply_queue, "args": key}
        calling.basic_publish(exchange, key, json.dumps(request))
    client.process_data_events(time_limit=0)

    def answered():
        client.process_data_events(time_limit=0)
        return len(replies.bodies) == 4

    wait_until(connection, answered)
    answers = {answer["_msg_id"]: answer["result"] for answer in map(json.loads, replies.bodies)}
    assert [answers[number][1] for number in range(4)] == keys
    assert [answers[0][0], answers[1][0]] == ["host1", "host2"]
    assert {answers[2][0], answers[3][0]} == {"host1", "host2"}

    heard = []
    for service in services:
        service.channel.basic_consume(service.queues[2], lambda *delivery: heard.append(delivery[3]), auto_ack=True)
    for _ in range(2):
        calling.basic_publish(f"{topic}_fanout", "", json.dumps({"args": "everybody"}))
    client.close()
    wait_until(connection, lambda: len(heard) == 2)
    for service in services:
        channel.queue_delete(service.queues[1])
        channel.queue_delete(service.queues[2])
    channel.queue_delete(reply_queue)


def test_openstack_many_reply_queues(channel, connection, name):
    """Hundreds of them on one connection, each with an answer; the exchanges go when the queues do."""
    queues = [declare_reply_queue(channel) for _ in range(200)]
    inboxes = [Inbox(channel, queue, auto_ack=True) for queue in queues]
    for queue in queues:
        channel.basic_publish(queue, queue, queue)
    wait_until(connection, lambda: all(inbox.bodies for inbox in inboxes))
    assert [inbox.bodies for inbox in inboxes] == [[queue] for queue in queues]
    for queue in queues:
        channel.queue_delete(queue)
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{queues[0]}' in vhost '/'"):
        channel.basic_publish(queues[0], queues[0], b"too late")


def test_openstack_reply_queue_of_a_lost_process(connection, channel, connect):
    """A process that dies leaves a queue that expires; an answer then is a 404, which the service survives."""
    process = connect()
    queue = declare_reply_queue(process.channel())
    process.close()
    wait_until(connection, lambda: not is_there(connection, queue))
    with channel_refused(channel, 404, f"NOT_FOUND - no exchange '{queue}' in vhost '/'"):
        channel.basic_publish(queue, queue, b"to nobody", mandatory=True)
