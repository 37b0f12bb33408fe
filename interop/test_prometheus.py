"""Prometheus itself scrapes the metrics: it reads all of them, and its queries find what was done."""

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import tools

SECONDS = 30


@pytest.fixture
def prometheus(broker, tmp_path):
    """A function that answers a PromQL query with the first value, once there is one."""
    program = tools.find("prometheus", package="prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        f"  - {{job_name: leveret, static_configs: [{{targets: ['{broker.metrics}']}}]}}\n"
        "  - job_name: each\n"
        "    metrics_path: /metrics/per-object\n"
        f"    static_configs: [{{targets: ['{broker.metrics}']}}]\n"
    )
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path)

    def ask(query):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return None
        return float(result[0]["value"][1]) if result else None

    def wait_for(query, value):
        deadline = time.monotonic() + SECONDS
        while (found := ask(query)) != value:
            assert time.monotonic() < deadline, f"{query} is {found}, not {value}: {(tmp_path / 'log').read_text()}"
            time.sleep(0.1)

    yield wait_for
    process.terminate()
    process.wait(SECONDS)


@pytest.mark.deviation("only ours has its ready file")
def test_d4_prometheus_reads_what_was_done(prometheus, channel, queue, broker):
    """Both paths are scraped without an error, and the join of the dashboards works."""
    for _ in range(5):
        channel.basic_publish("", queue, b"body")
    prometheus('up{job="leveret"}', 1)
    prometheus('up{job="each"}', 1)
    prometheus(f'rabbitmq_queue_messages_ready{{job="each",queue="{queue}"}}', 5)
    join = "* on(instance, job) group_left(rabbitmq_cluster, rabbitmq_node) rabbitmq_identity_info"
    prometheus(f'count(rabbitmq_queue_messages_ready{{job="leveret"}} {join})', 1)
