"""What can go wrong with a server, and what it may not get wrong."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from s3_objects import filled
from s3_server import BUCKET, Server

from ganpipe.cli import main
from ganpipe.errors import InputError
from ganpipe.settings import Settings
from ganpipe.storage import Conflict, open_store
from ganpipe.storage.s3 import S3Store


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """A server in this process, and its address."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def mistaken(**variables: str | None) -> Callable[[pytest.MonkeyPatch], None]:
    def set_them(patch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)

    return set_them


def skewed(patch: pytest.MonkeyPatch) -> None:
    """Requests are signed by a clock that is an hour late."""
    wrong = lambda *_: (datetime.now(UTC) - timedelta(hours=1)).replace(tzinfo=None)  # noqa: E731
    patch.setattr("botocore.auth.get_current_datetime", wrong)


NO_KEYS = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")) | {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_CONFIG_FILE": "/nowhere",
}
MISTAKES = {
    "unknown key": (mistaken(AWS_ACCESS_KEY_ID="NOBODY"), 2, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "wrong secret": (mistaken(AWS_SECRET_ACCESS_KEY="not-it"), 2, "set AWS_SECRET_ACCESS_KEY"),
    "no keys": (mistaken(**NO_KEYS), 2, "there are no keys; set AWS_ACCESS_KEY_ID"),
    "no profile": (mistaken(AWS_PROFILE="mine"), 2, "set AWS_PROFILE"),
    "no bucket": (mistaken(GANPIPE_STORE="s3://no-such-bucket/x"), 2, "set GANPIPE_STORE"),
    "no bucket's name": (mistaken(GANPIPE_STORE="s3://Bucket?"), 2, "set GANPIPE_STORE to s3://bucket/prefix"),
    "nobody there": (mistaken(AWS_ENDPOINT_URL="http://127.0.0.1:1"), 1, "set AWS_ENDPOINT_URL"),
    "nobody there, for S3": (mistaken(AWS_ENDPOINT_URL_S3="http://127.0.0.1:1"), 1, "set AWS_ENDPOINT_URL_S3"),
    "no address": (mistaken(AWS_ENDPOINT_URL="not an address"), 2, "AWS_ENDPOINT_URL is no address"),
    "clock": (skewed, 1, "this machine's clock"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_that_names_the_variable(
    s3_uri: str, mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, exit_code, words = MISTAKES[mistake]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("GANPIPE_STORE", s3_uri)
    make(monkeypatch)
    assert main(["runs"]) == exit_code
    err = capsys.readouterr().err
    assert words in err and os.environ["GANPIPE_STORE"] in err
    assert err.startswith("ganpipe: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert secret not in err and "not-it" not in err


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///x", "s3://ab", "s3://bucket?x", "s3://bucket/../x", "s3://user@host/x"]
)
def test_what_is_no_s3_store_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="set GANPIPE_STORE to s3://bucket/prefix"):
        open_store(uri)


def test_a_bucket_without_prefix_and_keys_of_others(client: Any) -> None:
    client.create_bucket(Bucket="whole-bucket")
    client.put_object(Bucket="whole-bucket", Key="folder/", Body=b"")  # as consoles make them
    store = open_store("s3://whole-bucket/")
    store.create("a/b", b"1")
    assert store.uri == "s3://whole-bucket" and [item.key for item in store.list()] == ["a/b"]


def test_a_cache_that_cannot_be_written(store: S3Store, settings: Settings, tmp_path: Path) -> None:
    store.publish("x", filled(tmp_path / "x", a=1), {})
    settings.local_folder().joinpath("cache").touch()
    with pytest.raises(InputError, match="GANPIPE_HOME"):
        store.fetch("x")


def test_another_kind_of_server(s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Quiet) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_store(s3_uri)
        for action in (lambda: list(store.list()), lambda: store.read_bytes("x"), lambda: store.write_bytes("x", b"")):
            with pytest.raises(InputError, match=r"does not speak S3; set AWS_ENDPOINT_URL"):
                action()


def test_what_the_keys_may_not_do(store: S3Store, client: Any, tmp_path: Path) -> None:
    store.publish("mine", filled(tmp_path / "mine", a=10), {})
    whole = f"arn:aws:s3:::{BUCKET}/{store.prefix}/*"
    denied = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject", "s3:DeleteObject"], "Resource": whole}
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    try:
        for action in (
            lambda: store.write_bytes("x", b""),
            lambda: store.remove("mine"),
            lambda: store.publish("yours", tmp_path / "mine", {}),
        ):
            with pytest.raises(InputError, match=r"AWS_ACCESS_KEY_ID.* may not .*GANPIPE_STORE"):
                action()
    finally:
        client.delete_bucket_policy(Bucket=BUCKET)
    assert list(store.published("")) == ["mine"]


# --- conditional writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_found_out(
    store: S3Store, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header does not reach the real server, which then does what one that does not know it would do."""
    monkeypatch.setattr("ganpipe.storage.s3._probed", set())

    def drop(request: Any, **_: Any) -> None:
        del request.headers[header]

    store._connected().client.meta.events.register("before-sign.s3.PutObject", drop)
    with pytest.raises(InputError, match=f"does not honour {header} when it writes.*GANPIPE_STORE"):
        store.create("x", b"")
    assert list(store.list()) == []


def test_a_write_whose_answer_is_lost_has_won(
    store: S3Store, s3_server: Server, monkeypatch: pytest.MonkeyPatch, s3_uri: str
) -> None:
    """The first answer to a conditional write is thrown away: boto3's second try then loses against the first."""
    store.create("x", b"old")
    lost = []

    class Lossy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", s3_server.port)) as server:
                conditional = False
                while request := received(self.request):
                    server.sendall(request)
                    answer = received(server)
                    conditional |= b"\r\nif-match: " in request.lower()
                    if conditional and b"200 OK" in answer and not lost:
                        lost.append(answer)
                        return
                    self.request.sendall(answer)

    def received(connection: socket.socket) -> bytes:
        """One small message: what comes at once."""
        data: bytes = connection.recv(1 << 16)
        connection.settimeout(0.1)
        try:
            while more := connection.recv(1 << 16):
                data += more
        except TimeoutError:
            pass
        connection.settimeout(None)
        return data

    with serving(Lossy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setattr("ganpipe.storage.s3._probed", {(url, BUCKET)})
        through = open_store(s3_uri)
        through.compare_and_set("x", b"new", b"old")
        assert len(lost) == 1
        with pytest.raises(Conflict):
            through.compare_and_set("x", b"new", b"old")
    assert store.read_bytes("x") == b"new"
