"""RabbitMQ's own command-line client of the HTTP API: what it shows of the broker and its connections."""

import time

import pika
import pytest

DEADLINE_SECONDS = 20


def until(condition):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    return pytest.fail(f"not within {DEADLINE_SECONDS} s")


def test_it_shows_the_overview(rabbitmqadmin):
    (overview,) = rabbitmqadmin.rows("show", "overview")
    assert overview["rabbitmq_version"]
    assert overview["cluster_name"]
    assert "queue_totals.messages" in overview or "message_stats.disk_reads" in overview


def test_it_lists_the_node(rabbitmqadmin):
    (node,) = rabbitmqadmin.rows("list", "nodes", "name", "type", "mem_used", "running")
    assert node["running"] == "True"
    assert node["type"] == "disc"
    assert int(node["mem_used"]) > 1_000_000


def test_it_lists_connections_and_channels(rabbitmqadmin, connect):
    connection = connect(client_properties={"connection_name": "listed"})
    channel = connection.channel()
    channel.basic_qos(prefetch_count=7)
    columns = ("name", "user", "channels", "user_provided_name")
    listed = [row for row in rabbitmqadmin.rows("list", "connections", *columns) if row["user_provided_name"] == "listed"]
    assert [(row["user"], row["channels"]) for row in listed] == [("guest", "1")]
    name = f"{listed[0]['name']} ({channel.channel_number})"
    channels = {row["name"]: row for row in rabbitmqadmin.rows("list", "channels", "name", "vhost", "prefetch_count")}
    assert (channels[name]["vhost"], channels[name]["prefetch_count"]) == ("/", "7")


def test_it_lists_consumers(rabbitmqadmin, channel, queue):
    channel.basic_consume(queue, lambda *_: None, consumer_tag="listed")
    consumers = rabbitmqadmin.rows("list", "consumers", "consumer_tag", "queue.name", "ack_required")
    assert {"consumer_tag": "listed", "queue.name": queue, "ack_required": "True"} in consumers


def test_it_closes_a_connection(rabbitmqadmin, connect):
    connection = connect(client_properties={"connection_name": "unwanted"})
    rows = rabbitmqadmin.rows("list", "connections", "name", "user_provided_name")
    (name,) = [row["name"] for row in rows if row["user_provided_name"] == "unwanted"]
    rabbitmqadmin("close", "connection", f"name={name}")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED") as closed:
        until(lambda: connection.process_data_events(0.1))
    assert closed.value.reply_code == 320


def test_a_wrong_password_is_refused(broker, rabbitmqadmin):
    done = type(rabbitmqadmin)(broker.management, password="wrong").run("list", "nodes")
    assert done.returncode != 0
    assert "Access refused" in done.stdout + done.stderr
