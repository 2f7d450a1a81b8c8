"""S3 stores, beyond what every store promises: what can go wrong with a server, large objects, the local cache."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, Server
from tiny import tiny_raw

from ganpipe import prepare, train
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.night import new_record
from ganpipe.refs import CheckpointRef
from ganpipe.settings import Settings
from ganpipe.storage import Conflict, open_store, sha256_of_bytes
from ganpipe.storage.s3 import PART_BYTES, S3Store

MB = 1_000_000


@pytest.fixture
def store(s3_uri: str) -> S3Store:
    store = open_store(s3_uri)
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def client(s3_uri: str) -> Any:
    """Plain boto3, with nothing but its own variables."""
    import boto3

    return boto3.client("s3")


def listed(client: Any, uri: str) -> dict[str, int]:
    """Sizes of all objects of a store by key, as plain boto3 sees them."""
    prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"].removeprefix(prefix): item["Size"] for page in pages for item in page.get("Contents", [])}


def filled(folder: Path, **sizes: int) -> Path:
    """A folder of files with random bytes."""
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        (folder / f"{name}.bin").write_bytes(os.urandom(size))
    return folder


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


# --- what can go wrong -------------------------------------------------------------------------------------------


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


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """A server in this process, and its address."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- conditional writes ------------------------------------------------------------------------------------------


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


# --- the copies on this machine ----------------------------------------------------------------------------------


def cached(settings: Settings) -> dict[str, int]:
    """Sizes of the cached files, by sha256."""
    return {path.parent.name: path.stat().st_size for path in (settings.home / "cache").glob("*/*.bin")}


@pytest.fixture
def downloads(store: S3Store) -> list[str]:
    """Grows by the key of each object that is asked for."""
    asked: list[str] = []
    events = store._connected().client.meta.events
    events.register("before-call.s3.GetObject", lambda context, params, **_: asked.append(params["url_path"]))
    return asked


def test_what_is_here_is_not_fetched_again_unless_it_is_damaged(
    store: S3Store, settings: Settings, downloads: list[str], tmp_path: Path
) -> None:
    folder = filled(tmp_path / "folder", a=MB, b=10)
    manifest = store.publish("x", folder, {})
    files = store.fetch("x")
    assert cached(settings) == {facts["sha256"]: facts["bytes"] for facts in manifest["files"].values()}

    def objects() -> list[str]:
        """Asked for since the last time, manifests aside."""
        names = [key.rpartition("/")[2] for key in downloads]
        downloads.clear()
        return sorted(name for name in names if name.endswith(".bin"))

    assert objects() == ["a.bin", "b.bin"]
    assert store.fetch("x") == files and objects() == []
    files["a.bin"].write_bytes(b"damaged")
    assert store.fetch("x")["a.bin"].read_bytes() == (folder / "a.bin").read_bytes() and objects() == ["a.bin"]
    store.publish("same/bytes", folder, {})
    store.fetch("same/bytes")
    assert objects() == []


FETCH = """
import sys
from ganpipe.storage import open_store
files = open_store(sys.argv[1]).fetch(sys.argv[2])
print(*files.values(), flush=True)
sys.stdin.read()
"""


def fetching(uri: str, prefix: str) -> subprocess.Popen[str]:
    """A process that fetches a folder, prints the paths, and holds them until the end of its input."""
    command = [sys.executable, "-c", FETCH, uri, prefix]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_cache_has_a_size_and_leaves_what_is_in_use(
    s3_uri: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GANPIPE_CACHE_GB", "0.0025")
    store = open_store(s3_uri)
    shas = {}
    for name in ("held", "first", "second", "third"):
        published = store.publish(name, filled(tmp_path / name, a=MB), {})
        shas[published["files"]["a.bin"]["sha256"]] = name

    def here() -> set[str]:
        return {shas[sha256] for sha256 in cached(settings)}

    with fetching(s3_uri, "held") as holder:
        assert holder.stdout is not None
        path = Path(holder.stdout.readline().strip())
        with fetching(s3_uri, "first") as other:
            assert other.communicate("")[1] == ""
        store.fetch("second")
        assert here() == {"held", "second"} and path.stat().st_size == MB, "the oldest one, but in use"
        holder.kill()
    store.fetch("third")
    assert here() == {"second", "third"} and caplog.messages == []
    store.fetch("first")
    assert here() == {"first", "second", "third"}, "by this very process"
    assert "0.0005 GB more than GANPIPE_CACHE_GB=0.0025" in caplog.text


def test_processes_that_make_room_for_one_another_all_get_their_files(
    store: S3Store, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three at once, each wanting more than the cache may hold, at first killed on the way: the next ones read well."""
    monkeypatch.setenv("GANPIPE_CACHE_GB", "0.001")
    for prefix in ("one", "two"):
        store.publish(prefix, filled(tmp_path / prefix, **{f"f{number}": MB // 4 for number in range(8)}), {})
    for kill_after in (0.9, None):
        fetchers = [fetching(s3_uri, prefix) for prefix in ("one", "two", "one")]
        if kill_after:
            time.sleep(kill_after)
        for fetcher in fetchers:
            if kill_after:
                fetcher.kill()
            out, err = fetcher.communicate("")
            assert "Traceback" not in err and (kill_after or len(out.split()) == 8)


@pytest.mark.parametrize("size", ["many", "-1", "nan"])
def test_a_cache_needs_a_size(size: str) -> None:
    with pytest.raises(InputError, match="GANPIPE_CACHE_GB"):
        Settings.from_environment({"GANPIPE_CACHE_GB": size})


# --- a run -------------------------------------------------------------------------------------------------------


def trained(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointRef:
    """Prepare and train the tiny configuration into a store, by a machine that has nothing yet."""
    monkeypatch.setenv("GANPIPE_HOME", str(folder / "home"))
    monkeypatch.setenv("GANPIPE_STORE", uri)
    settings = Settings.from_environment()
    config = load_config(tiny_raw())
    dataset = prepare.run(config, settings)
    started = datetime(2026, 11, 23, tzinfo=UTC)
    return train.run(config, new_record(config, dataset, settings, started), settings)


def test_a_run_in_s3_is_the_run_on_files(
    client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain boto3 lists it all, every file of a manifest has its sha256, and nothing depends on the kind of store."""
    here = trained(f"file://{tmp_path}/store", tmp_path / "here", monkeypatch)
    there = trained(s3_uri, tmp_path / "there", monkeypatch)
    assert there == here
    local, remote = open_store(f"file://{tmp_path}/store"), open_store(s3_uri)
    sizes = listed(client, s3_uri)
    assert sorted(sizes) == [item.key for item in local.list()]
    published = list(remote.published(""))
    assert len([prefix for prefix in published if prefix.startswith("datasets/")]) == 1
    assert len([prefix for prefix in published if "/checkpoints/" in prefix]) >= 2
    same = {"generator.safetensors", "training.safetensors", "rank-00000.safetensors"}
    for prefix in published:
        files = remote.manifest(prefix)["files"]
        for name, facts in files.items():
            body = client.get_object(Bucket=BUCKET, Key=f"{s3_uri.rpartition('/')[2]}/{prefix}/{name}")["Body"].read()
            assert (sha256_of_bytes(body), len(body)) == (facts["sha256"], facts["bytes"])
            if prefix.startswith("datasets/") or name in same:
                assert facts == local.manifest(prefix)["files"][name]


@pytest.mark.slow
def test_a_night_in_s3_is_the_night_on_files(
    client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole chain, MLflow's artifacts too: the same objects of the same content, times and names of runs aside."""
    (tmp_path / "tiny.yaml").write_text(json.dumps(tiny_raw()))
    kept = []
    for uri in (f"file://{tmp_path}/store", s3_uri):
        home = tmp_path / uri.partition(":")[0]
        monkeypatch.setenv("GANPIPE_HOME", str(home))
        monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        monkeypatch.setenv("GANPIPE_STORE", uri)
        assert main(["run", str(tmp_path / "tiny.yaml"), "--no-orchestrator"]) == 3
        store = open_store(uri)
        kept.append(
            {
                prefix.partition("/checkpoints/")[2] or prefix: {
                    name: facts["sha256"]
                    for name, facts in store.manifest(prefix)["files"].items()
                    if name.endswith((".npy", ".safetensors")) and name != "generator.safetensors"  # names its run
                }
                for prefix in store.published("")
            }
        )
        for prefix in store.published(""):
            store.fetch(prefix)
    assert kept[0] == kept[1] and len(kept[0]) >= 4
    there = listed(client, s3_uri)
    assert any(key.startswith("mlflow/") and key.endswith("generator.safetensors") for key in there)
    assert not any(key.startswith(".") for key in there)


# --- large objects, and ends in the middle of them ---------------------------------------------------------------


def test_large_files_travel_in_parts(store: S3Store, client: Any, s3_uri: str, tmp_path: Path) -> None:
    folder = filled(tmp_path / "large", a=3 * PART_BYTES + 1, b=10)
    manifest = store.publish("large", folder, {})
    assert listed(client, s3_uri)["large/a.bin"] == 3 * PART_BYTES + 1
    etag = client.head_object(Bucket=BUCKET, Key=f"{store.prefix}/large/a.bin")["ETag"]
    assert etag.strip('"').endswith("-4"), "four parts"
    assert store.fetch("large")["a.bin"].read_bytes() == (folder / "a.bin").read_bytes()
    assert manifest["files"]["a.bin"]["bytes"] == 3 * PART_BYTES + 1


def parts(client: Any, prefix: str) -> int:
    """How many parts of unfinished uploads the server has."""
    uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
    return sum(
        len(client.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", []))
        for upload in uploads
    )


def whole(there: dict[str, int], folder: Path) -> bool:
    """Whether these are files of the folder as a whole, and no manifest."""
    return all((folder / key.removeprefix("large/")).stat().st_size == size for key, size in there.items())


PUBLISH = """
import sys
from pathlib import Path
from ganpipe.storage import open_store
open_store(sys.argv[1]).publish("large", Path(sys.argv[2]), {})
"""


def test_a_killed_upload_leaves_nothing_half_written(store: S3Store, client: Any, s3_uri: str, tmp_path: Path) -> None:
    folder = filled(tmp_path / "large", a=6 * PART_BYTES, b=10)
    with python(PUBLISH, s3_uri, str(folder)) as publisher:
        until(lambda: parts(client, store.prefix) > 0)
        publisher.send_signal(signal.SIGKILL)
    assert whole(listed(client, s3_uri), folder)
    assert list(store.published("")) == []
    with pytest.raises(FileNotFoundError):
        store.fetch("large")
    (folder / "b.bin").rename(folder / "c.bin")
    store.publish("large", folder, {})
    assert sorted(listed(client, s3_uri)) == ["large/a.bin", "large/c.bin", "large/manifest.json"]


def test_a_killed_server_leaves_nothing_half_written(
    store: S3Store, s3_server: Server, client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert list(store.published("")) == []  # connects while the way is the lasting one
    folder = filled(tmp_path / "large", a=6 * PART_BYTES, b=10)
    with s3_server.another_gateway() as (url, process), ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        through = open_store(s3_uri)
        done = pool.submit(through.publish, "large", folder, {})
        until(lambda: parts(client, store.prefix) > 0)
        process.kill()
        with pytest.raises(WorkFailed, match=f"no S3 server answers at {url}.*AWS_ENDPOINT_URL"):
            done.result()
    assert whole(listed(client, s3_uri), folder)
    assert list(store.published("")) == []


def test_a_folder_is_gone_while_other_files_replace_it(store: S3Store, tmp_path: Path) -> None:
    """Killed in the middle of that, nothing would be left that looks whole."""
    folder = filled(tmp_path / "folder", a=10)
    store.publish("x", folder, {})
    (folder / "a.bin").write_bytes(b"other")
    there = []

    class Watching(S3Store):
        def _put_file(self, key: str, path: Path) -> None:
            there.extend(self.published(""))
            super()._put_file(key, path)

    Watching(store.uri, store.cache).publish("x", folder, {})
    assert there == [] and store.fetch("x")["a.bin"].read_bytes() == b"other"
    Watching(store.uri, store.cache).publish("x", folder, {})
    assert there == ["x"], "equal files replace nothing"
