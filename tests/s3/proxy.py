"""A TCP proxy before a real server: slow on demand, and at one address however often the server behind is replaced."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from s3_server import free_port

CHUNK = 4096


class Proxy:
    """Forwards to a port of this machine; a server that is not there is a connection that is closed."""

    def __init__(self, target: int):
        self.target = target
        self.bytes_per_second = float("inf")
        """Of what clients send, over all connections."""
        self.sent = 0
        self.port = free_port()
        self._pace = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lead_nowhere(self) -> None:
        """Cut all connections; no new one reaches a server until there is another `target`."""
        self.target = 1
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, paced: bool) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(CHUNK):
                if paced:
                    self.sent += len(data)
                    with self._pace:
                        time.sleep(len(data) / self.bytes_per_second)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
            time.sleep(0.1)
