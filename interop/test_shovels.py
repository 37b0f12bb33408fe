"""Shovels, set through the HTTP API and judged by pika: what is moved arrives as it was published."""

import base64
import decimal
import json
import urllib.error
import urllib.request

import pika
import pytest

from support import wait_until


def ask(broker, method, path, body=None):
    """The status and the JSON that guest is answered."""
    request = urllib.request.Request(f"http://{broker.management}/api/{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("ack_mode", ["on-confirm", "on-publish", "no-ack"])
def test_a_queue_is_moved_as_it_is(broker, connection, channel, ack_mode):
    """The page's "Move messages": `src-delete-after` is `queue-length`."""
    source, target = f"shovel-from-{ack_mode}", f"shovel-to-{ack_mode}"
    channel.confirm_delivery()
    channel.queue_declare(source, durable=True)
    channel.queue_declare(target, durable=True)
    headers = {"text": "é", "n": -7, "list": [1, {"none": None}], "money": decimal.Decimal("1.25"), "yes": True}
    properties = pika.BasicProperties(
        content_type="a/b", headers=headers, delivery_mode=2, priority=4, correlation_id="c", reply_to="r",
        message_id="m", timestamp=1_700_000_000, type="t", app_id="app",
    )
    bodies = [f"{number}" * (number % 7 * 3000) for number in range(60)]
    for body in bodies:
        channel.basic_publish("", source, body.encode(), properties)
    name = f"parameters/shovel/%2F/move-{ack_mode}"
    value = {
        "src-uri": "amqp://", "src-queue": source, "dest-uri": f"amqp://guest:guest@{broker.address}/%2f",
        "dest-queue": target, "ack-mode": ack_mode, "src-delete-after": "queue-length", "src-prefetch-count": 8,
    }
    assert ask(broker, "PUT", name, {"value": value}) == (201, None)
    wait_until(connection, lambda: ask(broker, "GET", name)[0] == 404)
    moved = [channel.basic_get(target, auto_ack=True) for _ in bodies]
    assert [body.decode() for _, _, body in moved] == bodies
    assert all(vars(received) == vars(properties) for _, received, _ in moved)
    assert channel.basic_get(source)[0] is None and channel.basic_get(target)[0] is None
    channel.queue_delete(source)
    channel.queue_delete(target)
