"""RabbitMQ's own command-line client: queues, exchanges and bindings, made and used as its users do."""

import json

import pytest


@pytest.fixture
def declared(rabbitmqadmin, name):
    """An exchange and a queue of the test's own, deleted afterwards."""
    exchange, queue = name("exchange"), name("queue")
    rabbitmqadmin("declare", "exchange", f"name={exchange}", "type=topic", "durable=false")
    rabbitmqadmin("declare", "queue", f"name={queue}", "durable=false", 'arguments={"x-max-length": 10}')
    yield exchange, queue
    rabbitmqadmin.run("delete", "queue", f"name={queue}")
    rabbitmqadmin.run("delete", "exchange", f"name={exchange}")


def test_it_lists_what_it_declares(rabbitmqadmin, declared):
    exchange, queue = declared
    queues = rabbitmqadmin.rows("list", "queues", "name", "durable", "arguments.x-max-length")
    assert {"name": queue, "durable": "False", "arguments.x-max-length": "10"} in queues
    exchanges = rabbitmqadmin.rows("list", "exchanges", "name", "type", "durable")
    assert {"name": exchange, "type": "topic", "durable": "False"} in exchanges


def test_it_publishes_gets_and_purges(rabbitmqadmin, declared):
    exchange, queue = declared
    rabbitmqadmin("declare", "binding", f"source={exchange}", f"destination={queue}", "routing_key=a.*")
    properties = json.dumps({"delivery_mode": 2, "headers": {"n": 1}})
    to = ("publish", f"exchange={exchange}")
    assert "NOT routed" in rabbitmqadmin(*to, "routing_key=b", "payload=lost")
    assert "NOT routed" not in rabbitmqadmin(*to, "routing_key=a.b", "payload=grüße", f"properties={properties}")
    rabbitmqadmin("publish", f"routing_key={queue}", stdin="from the standard input")
    (first,) = rabbitmqadmin.rows("get", f"queue={queue}")
    assert (first["routing_key"], first["exchange"], first["payload"]) == ("a.b", exchange, "grüße")
    assert (first["message_count"], first["redelivered"]) == ("1", "False")
    taken = rabbitmqadmin.rows("get", f"queue={queue}", "count=5", "ackmode=ack_requeue_false")
    assert [(row["payload"], row["redelivered"]) for row in taken] == [
        ("grüße", "True"),
        ("from the standard input", "False"),
    ]
    rabbitmqadmin("publish", f"routing_key={queue}", "payload=purged")
    rabbitmqadmin("purge", "queue", f"name={queue}")
    assert rabbitmqadmin.rows("get", f"queue={queue}") == []


def test_it_saves_a_payload_in_a_file(rabbitmqadmin, declared, tmp_path):
    _, queue = declared
    rabbitmqadmin("publish", f"routing_key={queue}", "payload=kept")
    rabbitmqadmin("get", f"queue={queue}", f"payload_file={tmp_path / 'payload'}")
    assert (tmp_path / "payload").read_text() == "kept"


def test_it_lists_and_deletes_bindings(rabbitmqadmin, declared):
    exchange, queue = declared
    arguments = 'arguments={"tenant": "a/b"}'
    for key, more in (("a.#", []), ("", []), ("a b/c%", []), ("k", [arguments])):
        bind = ("declare", "binding", f"source={exchange}", f"destination={queue}", f"routing_key={key}")
        rabbitmqadmin(*bind, *more)

    def bindings():
        rows = rabbitmqadmin.rows("list", "bindings", "source", "destination", "routing_key", "properties_key")
        return {row["routing_key"]: row["properties_key"] for row in rows if row["source"] == exchange}

    assert set(bindings()) == {"a.#", "", "a b/c%", "k"}
    for key, properties_key in bindings().items():
        unbind = ("delete", "binding", f"source={exchange}", f"destination={queue}", "destination_type=queue")
        rabbitmqadmin(*unbind, f"properties_key={properties_key}")
        assert key not in bindings()


def test_it_is_told_why_it_may_not(rabbitmqadmin, declared):
    _, queue = declared
    done = rabbitmqadmin.run("declare", "queue", f"name={queue}", "durable=true")
    assert done.returncode != 0
    assert "inequivalent arg" in done.stdout + done.stderr
    done = rabbitmqadmin.run("delete", "queue", "name=not-there")
    assert done.returncode != 0
    assert "Not found" in done.stdout + done.stderr
