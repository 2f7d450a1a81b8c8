"""Large objects, and ends in the middle of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from s3_objects import filled, listed
from s3_server import BUCKET, Server

from ganpipe.errors import WorkFailed
from ganpipe.storage import open_store
from ganpipe.storage.s3 import S3Store
from ganpipe.storage.s3place import PART_BYTES


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
import os, signal, sys
from pathlib import Path
from ganpipe.storage import open_store
store = open_store(sys.argv[1])
die = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
store._connected().client.meta.events.register("after-call.s3.UploadPart", die)
store.publish("large", Path(sys.argv[2]), {})
"""
"""Is killed as soon as the server has a part, and so before it can have them all."""


def test_a_killed_upload_leaves_nothing_half_written(store: S3Store, client: Any, s3_uri: str, tmp_path: Path) -> None:
    folder = filled(tmp_path / "large", a=6 * PART_BYTES, b=10)
    publisher = subprocess.run([sys.executable, "-c", PUBLISH, s3_uri, str(folder)], check=False)
    assert publisher.returncode == -signal.SIGKILL
    assert parts(client, store.prefix) > 0
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
    with s3_server.another_gateway() as (url, process):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        through = open_store(s3_uri)
        assert isinstance(through, S3Store)
        events = through._connected().client.meta.events
        events.register("after-call.s3.UploadPart", lambda **_: process.kill())
        with pytest.raises(WorkFailed, match=f"no S3 server answers at {url}.*AWS_ENDPOINT_URL"):
            through.publish("large", folder, {})
    assert parts(client, store.prefix) > 0
    assert whole(listed(client, s3_uri), folder)
    assert list(store.published("")) == []


def test_a_folder_is_gone_while_other_files_replace_it(store: S3Store, tmp_path: Path) -> None:
    """Killed in the middle of that, nothing would be left that looks whole."""
    folder = filled(tmp_path / "folder", a=10)
    store.publish("x", folder, {})
    (folder / "a.bin").write_bytes(b"other")
    there = []

    class Watching(S3Store):
        def _upload(self, key: str, path: Path) -> None:
            there.extend(self.published(""))
            super()._upload(key, path)

    Watching(store.uri, store.cache).publish("x", folder, {})
    assert there == [] and store.fetch("x")["a.bin"].read_bytes() == b"other"
    Watching(store.uri, store.cache).publish("x", folder, {})
    assert there == ["x"], "equal files replace nothing"
