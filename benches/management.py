"""How long the HTTP API and the metrics take with many queues.

usage: python3 benches/management.py [--queues N] [--program target/release/leveret]

Starts the broker on ports and a directory of its own, imports that many queues as definitions, and prints how long each
request takes: the shortest of three, in milliseconds, and the octets of the answer. Needs Python 3.11 and nothing else.
"""

import argparse
import base64
import json
import pathlib
import subprocess
import tempfile
import time
import tomllib
import urllib.request

START_SECONDS = 20
REQUEST_SECONDS = 600
LOGIN = "Basic " + base64.b64encode(b"guest:guest").decode()
REQUESTS = [
    "api/queues?page=1&page_size=100",
    "api/queues?page={last}&page_size=100",
    "api/queues?page=1&page_size=100&name={name}",
    "api/queues?page=1&page_size=100&sort=messages&sort_reverse=true",
    "api/queues?columns=name,messages",
    "api/queues",
    "api/overview",
]


def main():
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--queues", type=int, default=100_000)
    arguments.add_argument("--program", default="target/release/leveret")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        process, addresses = start(options.program, pathlib.Path(directory))
        try:
            measure(options.queues, addresses, process.pid)
        finally:
            process.terminate()
            process.wait()


def start(program, directory):
    """The process, and the addresses in its ready file."""
    ready = directory / "ready.toml"
    # fmt: off
    command = [
        pathlib.Path(program).resolve(), "--data-dir", directory / "data", "--bind", "127.0.0.1", "--amqp-port", "0", "--management-port", "0",
        "--prometheus-port", "0", "--log-level", "warn", "--ready-file", ready,
    ]
    # fmt: on
    process = subprocess.Popen(command, cwd=directory)
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the broker does not start"
        time.sleep(0.01)
    return process, tomllib.loads(ready.read_text())


def measure(count, addresses, pid):
    """Makes the queues and asks."""
    management, metrics = (f"http://{addresses[key][0]}/" for key in ("management", "prometheus"))
    queues = [
        {"vhost": "/", "name": f"queue-{number:07}", "durable": True, "auto_delete": False, "arguments": {}}
        for number in range(count)
    ]
    body = json.dumps({"queues": queues}).encode()
    print(f"{count} queues; {'milliseconds':>12} {'octets':>12}")
    took_ms, _ = ask(management + "api/definitions", body)
    show("import as definitions", took_ms, len(body))
    for request in REQUESTS:
        path = request.format(last=count // 100, name=f"{count // 2:07}")
        show(path, *fastest(management + path))
    for path in ("metrics", "metrics/per-object"):
        show(path, *fastest(metrics + path))
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    print("peak memory:", next(line.split(":")[1].strip() for line in status.splitlines() if "VmHWM" in line))


def fastest(url):
    """The shortest of three."""
    return min(ask(url) for _ in range(3))


def ask(url, body=None):
    """Milliseconds until the whole answer is there, and its octets."""
    headers = {"authorization": LOGIN, "content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
        octets = len(answer.read())
    return (time.perf_counter() - began) * 1000, octets


def show(what, took_ms, octets):
    """One line."""
    print(f"{what:70} {took_ms:12.1f} {octets:12}")


main()
