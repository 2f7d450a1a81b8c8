"""Somebody who reads the morning's messages."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Webhook:
    """A web server on loopback, and the Prefect block that sends to it."""

    def __init__(self, server: HTTPServer, messages: list[str]):
        from prefect.blocks.notifications import CustomWebhookNotificationBlock

        self.messages = messages
        name = f"test-{uuid.uuid4().hex[:8]}"
        CustomWebhookNotificationBlock(
            name="morning",
            url=f"http://127.0.0.1:{server.server_port}/",
            json_data={"text": "{{subject}}\n{{body}}"},
        ).save(name)  # type: ignore[unused-coroutine]
        self.block = f"custom-webhook/{name}"


@contextmanager
def listening() -> Iterator[tuple[HTTPServer, list[str]]]:
    messages: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, messages
    finally:
        server.shutdown()
