"""What people build on a broker, from end to end: order pipelines, work queues, publish/subscribe, log routing, RPC."""

import collections
import json
import pathlib
import signal
import subprocess
import sys
import threading
import uuid

import pika
import pytest

from support import Inbox, counts, drain, get, publish, round_trip, wait_until

WORKER = pathlib.Path(__file__).with_name("worker.py")


class Stage:
    """One step of the order pipeline: takes orders from a queue and publishes each on, with confirms.

    An order is acknowledged only after the next step has it; one that nobody takes goes to the returned queue.
    """

    def __init__(self, connection, exchange, queue, step, next_key):
        """`step(order)` changes the order; `next_key(order)` is the routing key it goes on with."""
        self.channel = connection.channel()
        self.channel.confirm_delivery()
        self.channel.basic_qos(prefetch_count=10)
        self.exchange, self.step, self.next_key = exchange, step, next_key
        self.returned = []
        self.channel.basic_consume(queue, self.process)

    def process(self, channel, method, properties, body):
        """Handles one order."""
        order = self.step(json.loads(body))
        try:
            channel.basic_publish(self.exchange, self.next_key(order), json.dumps(order), properties, mandatory=True)
        except pika.exceptions.UnroutableError as failure:
            self.returned += failure.messages
        channel.basic_ack(method.delivery_tag)


def test_order_pipeline_with_confirms_and_returns(connect, name):
    """Orders are checked, priced and shipped by three services; orders to where nobody ships come back by return."""
    exchange, dispatch = name("orders"), name("dispatch")
    queues = {stage: name(stage) for stage in ("new", "checked", "shipping", "audit")}
    shop, observer = connect(), connect().channel()
    channel = shop.channel()
    for each in (exchange, dispatch):
        channel.exchange_declare(each, "topic", durable=True)
    for queue in queues.values():
        channel.queue_declare(queue, durable=True)
    for stage, key in {"new": "order.new", "checked": "order.checked", "audit": "order.#"}.items():
        channel.queue_bind(queues[stage], exchange, key)
    channel.queue_bind(queues["shipping"], dispatch, "order.ship.de")

    services = [connect(), connect()]
    Stage(services[0], exchange, queues["new"], lambda order: {**order, "checked": True}, lambda order: "order.checked")
    pricing = Stage(
        services[1],
        dispatch,
        queues["checked"],
        lambda order: {**order, "price": order["amount"] * 5},
        lambda order: f"order.ship.{order['country']}",
    )
    channel.confirm_delivery()
    orders = [{"id": number, "amount": number, "country": "de" if number % 4 else "atlantis"} for number in range(40)]
    for order in orders:
        properties = pika.BasicProperties(
            delivery_mode=2, message_id=f"order-{order['id']}", content_type="application/json"
        )
        channel.basic_publish(exchange, "order.new", json.dumps(order), properties, mandatory=True)
        for service in services:
            service.process_data_events(time_limit=0)

    shippable = [order for order in orders if order["country"] == "de"]
    dead = [order for order in orders if order["country"] == "atlantis"]

    def settled():
        services[1].process_data_events(time_limit=0)
        return counts(observer, queues["shipping"])[0] == len(shippable) and len(pricing.returned) == len(dead)

    wait_until(services[0], settled)
    shipped = [get(observer, queues["shipping"], auto_ack=True) for _ in shippable]
    expected = [{**order, "checked": True, "price": order["amount"] * 5} for order in shippable]
    assert [json.loads(body) for _, _, body in shipped] == expected
    assert [properties.message_id for _, properties, _ in shipped] == [f"order-{order['id']}" for order in shippable]
    assert {method.routing_key for method, _, _ in shipped} == {"order.ship.de"}

    assert [json.loads(message.body)["id"] for message in pricing.returned] == [order["id"] for order in dead]
    for message in pricing.returned:
        assert (message.method.reply_code, message.method.reply_text) == (312, "NO_ROUTE")
        assert message.method.routing_key == "order.ship.atlantis"
        assert message.properties.delivery_mode == 2

    audited = collections.Counter(json.loads(body)["id"] for body in drain(observer, queues["audit"]))
    assert audited == {order["id"]: 2 for order in orders}
    for service in services:
        round_trip(service)
        service.close()
    assert [counts(observer, queues[stage])[0] for stage in ("new", "checked", "shipping")] == [0, 0, 0]


@pytest.fixture
def start_worker(broker):
    """Starts worker processes; those still running after the test are killed."""
    running = []

    def start(jobs, results, prefetch, poison=""):
        command = [sys.executable, WORKER, broker.host, str(broker.port), jobs, results, str(prefetch), poison]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for worker in running:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_work_queue_survives_killed_workers(connection, channel, name, start_worker):
    """Workers are killed in mid-work: every job is done all the same, and the lost ones come marked as redelivered."""
    jobs, results = name("jobs"), name("results")
    for queue in (jobs, results):
        channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    done = Inbox(channel, results, auto_ack=True)
    for number in range(200):
        publish(channel, jobs, str(number), delivery_mode=2)

    doomed = start_worker(jobs, results, 10, poison="25")
    assert doomed.stdout.readline() == "ready\n"
    assert doomed.stdout.readline() == "stuck\n"
    wait_until(connection, lambda: len(done.deliveries) == 25)
    wait_until(connection, lambda: counts(channel, jobs) == (200 - 25 - 10, 1))
    doomed.send_signal(signal.SIGKILL)
    assert doomed.wait(10) == -signal.SIGKILL
    wait_until(connection, lambda: counts(channel, jobs) == (200 - 25, 0))
    assert done.bodies == [str(number) for number in range(25)]

    second = start_worker(jobs, results, 10, poison="120")
    assert second.stdout.readline() == "ready\n"
    third = start_worker(jobs, results, 1)
    assert third.stdout.readline() == "ready\n"
    wait_until(connection, lambda: len({*done.bodies}) == 200 or counts(channel, jobs) == (0, 2))
    second.kill()
    second.wait(10)
    wait_until(connection, lambda: len({*done.bodies}) == 200)
    third.kill()
    third.wait(10)
    wait_until(connection, lambda: counts(channel, jobs)[1] == 0)
    assert len(drain(channel, jobs)) <= 1, "all but the last are acknowledged"

    redelivered = {body: properties.headers["redelivered"] for _, properties, body in done.deliveries}
    assert sorted(map(int, redelivered)) == list(range(200))
    lost_first = [str(number) for number in range(25, 35)]
    assert [redelivered[body] for body in lost_first] == [True] * 10
    assert not any(redelivered[str(number)] for number in range(25))
    repeated = {body for body, times in collections.Counter(done.bodies).items() if times > 1}
    assert len(repeated) <= 2, "a job is done twice only if its worker died between result and acknowledgement"


def test_work_is_shared_fairly_by_prefetch(connection, channel, connect, name):
    """A slow worker with a prefetch of one keeps one job while a quick one does all the others."""
    jobs = channel.queue_declare(name("jobs")).method.queue
    for number in range(50):
        publish(channel, jobs, str(number))
    slow_channel, quick = connection.channel(), connect()
    slow_channel.basic_qos(prefetch_count=1)
    slow = Inbox(slow_channel, jobs).wait(1)
    quick_channel = quick.channel()
    quick_channel.basic_qos(prefetch_count=1)
    done = []

    def work(_channel, method, _properties, body):
        done.append(body.decode())
        quick_channel.basic_ack(method.delivery_tag)

    quick_channel.basic_consume(jobs, work)
    wait_until(quick, lambda: len(done) == 49)
    assert slow.settle().bodies == ["0"]
    assert done == [str(number) for number in range(1, 50)]
    slow.channel.basic_ack(slow.tags[0])


def test_publish_and_subscribe(channel, connect, name):
    """Each subscriber has a queue of its own; latecomers hear what comes later; nobody leaves anything."""
    news = name("news")
    channel.exchange_declare(news, "fanout")

    def subscribe():
        reader = connect().channel()
        queue = reader.queue_declare("", exclusive=True).method.queue
        reader.queue_bind(queue, news)
        return queue, Inbox(reader, queue, auto_ack=True)

    channel.confirm_delivery()
    channel.basic_publish(news, "", b"nobody listens")
    subscribers = [subscribe() for _ in range(5)]
    for number in range(20):
        channel.basic_publish(news, "", str(number), mandatory=True)
    late_queue, late = subscribe()
    channel.basic_publish(news, "", b"last")
    for _, inbox in subscribers:
        assert inbox.wait(21).bodies == [*(str(number) for number in range(20)), "last"]
    assert late.wait(1).bodies == ["last"]
    for _, inbox in [*subscribers, (late_queue, late)]:
        inbox.channel.connection.close()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(news, "", b"all gone", mandatory=True)


LOGS = [
    ("shop.web.info", {"host": "web1", "level": "info"}),
    ("shop.web.error", {"host": "web1", "level": "error"}),
    ("shop.db.error", {"host": "db1", "level": "error"}),
    ("shop.db.slow.info", {"host": "db1", "level": "info", "ms": 1200}),
    ("office.mail.error", {"host": "mail", "level": "error"}),
]


def test_topic_routing_of_logs(channel, connect, name):
    """Everyone gets the logs they subscribed to by pattern, in order, and none twice."""
    logs = name("logs")
    channel.exchange_declare(logs, "topic")
    subscriptions = {
        "everything": (["#"], [0, 1, 2, 3, 4]),
        "errors": (["*.*.error"], [1, 2, 4]),
        "shop": (["shop.#"], [0, 1, 2, 3]),
        "database or errors": (["shop.db.#", "#.error"], [1, 2, 3, 4]),
        "two words": (["*.*"], []),
        "web": (["shop.web.*", "shop.*.info"], [0, 1]),
    }
    inboxes = {}
    for subscriber, (patterns, _) in subscriptions.items():
        reader = connect().channel()
        queue = reader.queue_declare("", exclusive=True).method.queue
        for pattern in patterns:
            reader.queue_bind(queue, logs, pattern)
        inboxes[subscriber] = Inbox(reader, queue, auto_ack=True)
    for key, _ in LOGS:
        channel.basic_publish(logs, key, key)
    round_trip(channel.connection)
    for subscriber, (_, expected) in subscriptions.items():
        assert inboxes[subscriber].wait(len(expected)).bodies == [LOGS[index][0] for index in expected], subscriber


def test_headers_routing_of_logs(channel, name):
    """The same by headers: all of them, any of them, or the mere presence of one."""
    logs = name("logs")
    channel.exchange_declare(logs, "headers")
    subscriptions = {
        "db errors": ({"x-match": "all", "host": "db1", "level": "error"}, [2]),
        "db or error": ({"x-match": "any", "host": "db1", "level": "error"}, [1, 2, 3, 4]),
        "measured": ({"x-match": "all", "ms": None}, [3]),
        "everything": ({}, [0, 1, 2, 3, 4]),
    }
    queues = {}
    for subscriber, (arguments, _) in subscriptions.items():
        queues[subscriber] = channel.queue_declare(name(subscriber)).method.queue
        channel.queue_bind(queues[subscriber], logs, "", arguments)
    for key, headers in LOGS:
        channel.basic_publish(logs, "ignored", key, pika.BasicProperties(headers=headers))
    for subscriber, (_, expected) in subscriptions.items():
        assert drain(channel, queues[subscriber]) == [LOGS[index][0] for index in expected], subscriber


class FibonacciServer(threading.Thread):
    """The RPC server of the tutorials, on a connection of its own."""

    def __init__(self, connection, queue):
        super().__init__(daemon=True)
        self.connection = connection
        self.channel = connection.channel()
        self.channel.queue_declare(queue)
        self.channel.basic_qos(prefetch_count=1)
        self.channel.basic_consume(queue, self.answer)

    def answer(self, channel, method, properties, body):
        """Replies to where the request says, with its correlation id."""
        first, second = 0, 1
        for _ in range(int(body)):
            first, second = second, first + second
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, str(first), reply)
        channel.basic_ack(method.delivery_tag)

    def run(self):
        """Serves until `stop`."""
        self.channel.start_consuming()
        self.connection.close()

    def stop(self):
        """Ends the thread and its connection."""
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)
        self.join(10)
        assert not self.is_alive()


class FibonacciClient:
    """Calls the server by a reply queue or by direct reply-to."""

    def __init__(self, connection, queue, direct):
        self.connection, self.queue = connection, queue
        self.channel = connection.channel()
        self.reply_to = "amq.rabbitmq.reply-to"
        if not direct:
            self.reply_to = self.channel.queue_declare("", exclusive=True).method.queue
        self.replies = Inbox(self.channel, self.reply_to, auto_ack=True)

    def call(self, *numbers):
        """Sends all the requests and returns the replies in the order of the requests."""
        self.replies.deliveries.clear()
        pending = [str(uuid.uuid4()) for _ in numbers]
        for correlation_id, number in zip(pending, numbers, strict=True):
            publish(self.channel, self.queue, str(number), reply_to=self.reply_to, correlation_id=correlation_id)
        wait_until(self.connection, lambda: len(self.replies.deliveries) == len(numbers))
        answers = {properties.correlation_id: int(body) for _, properties, body in self.replies.deliveries}
        return [answers[correlation_id] for correlation_id in pending]


@pytest.mark.parametrize("direct", [False, True], ids=["reply queue", "direct reply-to"])
def test_request_and_reply(connect, name, direct):
    """Two clients, two servers: every client gets the replies to its own requests, all of them."""
    queue = name("fibonacci")
    servers = [FibonacciServer(connect(), queue) for _ in range(2)]
    for server in servers:
        server.start()
    clients = [FibonacciClient(connect(), queue, direct) for _ in range(2)]
    try:
        assert clients[0].call(10) == [55]
        assert clients[1].call(*range(12)) == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
        assert clients[0].call(*[30] * 50) == [832040] * 50
    finally:
        for server in servers:
            server.stop()
