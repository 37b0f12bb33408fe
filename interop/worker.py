"""A worker process of the work queue story: `python worker.py HOST PORT JOBS RESULTS PREFETCH POISON`.

It acknowledges a job after its result is confirmed. On the job named POISON, first time round, it says so on
its standard output and then works on it for ever: that is where the test kills it.
"""

import signal
import sys

import pika


def main(host, port, jobs, results, prefetch, poison):
    """Works until it is killed."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port)))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=int(prefetch))
    channel.confirm_delivery()

    def work(_channel, method, properties, body):
        if body.decode() == poison and not method.redelivered:
            print("stuck", flush=True)
            signal.pause()
        outcome = pika.BasicProperties(headers={"redelivered": method.redelivered}, delivery_mode=2)
        channel.basic_publish("", results, body, outcome, mandatory=True)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(jobs, work)
    print("ready", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main(*sys.argv[1:])
