"""A way to the broker that can be cut, as networks are."""

import contextlib
import socket
import threading


class Relay:
    """Listens on a port of its own and passes bytes on to `host`:`port`, until `cut` ends every connection."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.listener.getsockname()[1]}/%2F"

    def cut(self):
        """Ends the connections that are open; new ones are welcome."""
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                self.sockets += [client, server]
                for source, sink in [(client, server), (server, client)]:
                    threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source, sink):
    """Passes on what `source` says; when it ends, so does `sink`."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
