"""Celery Flower, the monitor of Celery's workers: it reads figures of queues from the HTTP API."""

import asyncio
import json
import time
import urllib.parse
import urllib.request

import pytest
from flower.utils.broker import Broker as FlowerBroker

DEADLINE_SECONDS = 20


def test_flower_reads_the_figures_of_queues(broker, channel, queue):
    channel.basic_publish("", queue, b"one")
    channel.basic_publish("", queue, b"two")
    channel.basic_get(queue)
    flower = FlowerBroker(broker.url(vhost=""), http_api=f"http://guest:guest@{broker.management}/api/")
    deadline = time.monotonic() + DEADLINE_SECONDS
    figures = []
    while time.monotonic() < deadline:
        figures = [
            tuple(found[name] for name in ("messages", "messages_ready", "messages_unacknowledged", "consumers"))
            for found in asyncio.run(flower.queues([queue]))
        ]
        if figures == [(2, 1, 1, 0)]:
            return
    pytest.fail(f"Flower sees {figures}")


def test_keda_reads_the_length_and_the_rate_of_queues(broker, channel, queue):
    """KEDA's request in its mode with a regular expression, and the fields that it reads."""
    channel.basic_publish("", queue, b"one")
    pattern = urllib.parse.quote(f"^{queue}$", safe="")
    url = f"http://{broker.management}/api/queues/%2F?page=1&use_regex=true&pagination=false&name={pattern}&page_size=100"
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, url, "guest", "guest", is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = json.load(opener.open(url, timeout=5))["items"]
        assert [item["name"] for item in found] == [queue]
        rate = found[0].get("message_stats", {}).get("publish_details", {}).get("rate", 0.0)
        if found[0]["messages"] >= 1 and rate > 0:
            return
        channel.basic_publish("", queue, b"more")
        time.sleep(0.05)
    pytest.fail(f"KEDA sees {found}")
