"""Copies of a store on this machine: verified, shared by processes, of limited size."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_objects import filled

from ganpipe.errors import InputError
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.storage.s3 import S3Store

MB = 1_000_000


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
