"""What every store promises: nothing half-written is seen, bytes are verified, one of many racing writers wins."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ganpipe.errors import InputError
from ganpipe.settings import Settings
from ganpipe.storage import Conflict, CorruptObject, FileStore, Store, open_store, scratch_folder, sha256_of_bytes


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('s3_uri')}/a störe %20")
    return open_store(f"file://{tmp_path}/a store%20")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something to publish: three files, one of them further down."""
    path = tmp_path / "folder"
    (path / "below").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"a" * 1000)
    (path / "b.bin").write_bytes(b"")
    (path / "below" / "c.bin").write_bytes(b"c" * 10)
    return path


def keys(store: Store, prefix: str = "") -> list[str]:
    return [item.key for item in store.list(prefix)]


# --- single objects ----------------------------------------------------------------------------------------------


def test_objects(store: Store) -> None:
    assert keys(store) == []
    store.write_bytes("runs/one/log.txt", b"first")
    store.write_bytes("runs/one/log.txt", b"second")
    store.write_bytes("runs/two.txt", b"")
    assert store.read_bytes("runs/one/log.txt") == b"second"
    assert [(item.key, item.size) for item in store.list("runs")] == [("runs/one/log.txt", 6), ("runs/two.txt", 0)]
    assert keys(store, "runs/one") == ["runs/one/log.txt"]
    assert store.exists("runs/two.txt")
    store.remove("runs/two.txt")
    store.remove("runs/two.txt")
    store.remove("runs/three")
    assert not store.exists("runs/two.txt")
    store.remove("runs")
    assert keys(store) == []


@pytest.mark.parametrize("key", ["missing", "runs", "runs/log.txt/below"])
def test_what_is_no_object_is_not_found(store: Store, key: str) -> None:
    store.write_bytes("runs/log.txt", b"x")
    assert not store.exists(key)
    with pytest.raises(FileNotFoundError):
        store.read_bytes(key)


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "", ".", "a\\b", "a\0b"])
def test_keys_that_could_leave_the_store_are_refused(store: Store, folder: Path, key: str) -> None:
    for action in (
        lambda: store.read_bytes(key),
        lambda: store.write_bytes(key, b""),
        lambda: store.compare_and_set(key, b"", None),
        lambda: store.remove(key),
        lambda: store.publish(key, folder, {}),
    ):
        with pytest.raises(InputError, match="is not a key"):
            action()


def test_readers_see_the_old_bytes_or_the_new_ones(store: Store) -> None:
    versions = [bytes([number]) * 300_000 for number in range(8)]
    store.write_bytes("x", versions[0])
    done = threading.Event()

    def read() -> int:
        reads = 0
        while not done.is_set():
            assert store.read_bytes("x") in versions
            assert keys(store) == ["x"]
            reads += 1
        return reads

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(40):
            store.write_bytes("x", versions[number % 8])
        done.set()
        assert all(reader.result() > 0 for reader in readers)


# --- compare and set ---------------------------------------------------------------------------------------------


def test_compare_and_set(store: Store) -> None:
    store.create("champion.json", b"1")
    with pytest.raises(Conflict, match=r"champion\.json"):
        store.create("champion.json", b"2")
    store.compare_and_set("champion.json", b"2", expected=b"1")
    for expected in (b"1", None):
        with pytest.raises(Conflict):
            store.compare_and_set("champion.json", b"3", expected)
    with pytest.raises(Conflict):
        store.compare_and_set("other.json", b"1", expected=b"0")
    assert store.read_bytes("champion.json") == b"2"
    assert keys(store) == ["champion.json"]


@pytest.mark.parametrize("expected", [None, b"old"])
@pytest.mark.parametrize("same", [False, True], ids=["different", "same"])
def test_one_of_sixteen_racing_threads_wins(store: Store, expected: bytes | None, same: bool) -> None:
    """Also when they write the very same bytes."""
    if expected is not None:
        store.write_bytes("champion.json", expected)
    start = threading.Barrier(16)

    def race(number: int) -> bool:
        start.wait()
        try:
            store.compare_and_set("champion.json", b"new" if same else str(number).encode(), expected)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sum(won) == 1
    assert store.read_bytes("champion.json") == (b"new" if same else str(won.index(True)).encode())


def test_racing_processes_lose_no_update(store: Store) -> None:
    """Four processes count to ten each, by compare-and-set alone."""
    program = """
import sys
from ganpipe.storage import Conflict, open_store
store = open_store(sys.argv[1])
done = 0
while done < 10:
    old = store.read_bytes("count")
    try:
        store.compare_and_set("count", str(int(old) + 1).encode(), old)
        done += 1
    except Conflict:
        pass
"""
    store.write_bytes("count", b"0")
    racers = [subprocess.Popen([sys.executable, "-c", program, store_uri(store)]) for _ in range(4)]
    assert [racer.wait(60) for racer in racers] == [0] * 4
    assert store.read_bytes("count") == b"40"


def store_uri(store: Store) -> str:
    return Path(store.root).as_uri() if isinstance(store, FileStore) else store.uri


# --- published folders -------------------------------------------------------------------------------------------


def test_publish_and_fetch(store: Store, folder: Path) -> None:
    written = store.publish("datasets/one", folder, {"format": 1})
    assert written == store.manifest("datasets/one")
    assert written["format"] == 1
    assert written["files"]["a.bin"] == {"sha256": sha256_of_bytes(b"a" * 1000), "bytes": 1000}
    files = store.fetch("datasets/one")
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "a.bin": b"a" * 1000,
        "b.bin": b"",
        "below/c.bin": b"c" * 10,
    }
    assert list(store.fetch("datasets/one", ["b.bin"])) == ["b.bin"]
    with pytest.raises(FileNotFoundError, match=r"d\.bin"):
        store.fetch("datasets/one", ["d.bin"])
    assert list(store.published("datasets")) == ["datasets/one"]
    store.remove("datasets/one")
    assert list(store.published("datasets")) == []
    with pytest.raises(FileNotFoundError):
        store.fetch("datasets/one")


def test_publishing_again_replaces_the_folder(store: Store, folder: Path) -> None:
    store.publish("x", folder, {})
    (folder / "a.bin").unlink()
    (folder / "b.bin").write_bytes(b"new")
    store.publish("x", folder, {})
    assert keys(store) == ["x/b.bin", "x/below/c.bin", "x/manifest.json"]
    assert store.fetch("x")["b.bin"].read_bytes() == b"new"


@pytest.mark.parametrize("prefix", ["x/y/", "x//y", "./x/y"])
def test_a_folder_has_one_name_however_it_is_written(store: Store, folder: Path, prefix: str) -> None:
    store.publish(prefix, folder, {})
    assert list(store.published("")) == ["x/y"] and len(keys(store, "x/y/")) == 4
    assert len(store.fetch("x/y")) == len(store.fetch(prefix)) == 3
    store.remove(prefix)
    assert keys(store) == []


def test_many_publish_the_same_at_once(store: Store, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.publish("datasets/one", folder, {}), range(24)))
    assert len(store.fetch("datasets/one")) == 3
    assert len(keys(store)) == 4


def test_a_reader_sees_nothing_or_everything(store: Store, folder: Path) -> None:
    for number in range(30):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 100_000)
    done = threading.Event()

    def poll() -> int:
        incomplete = 0
        while True:
            last = done.is_set()
            try:
                assert len(store.fetch("datasets/one")) == 33
            except FileNotFoundError:
                incomplete += 1
                if isinstance(store, FileStore):  # by one rename, so even without looking at the manifest
                    assert len(keys(store)) in (0, 34)
            if last:
                return incomplete

    with ThreadPoolExecutor() as pool:
        poller = pool.submit(poll)
        time.sleep(0.02)
        store.publish("datasets/one", folder, {})
        done.set()
        assert poller.result() > 0


def test_a_killed_publisher_leaves_nothing_visible(store: Store, folder: Path) -> None:
    """Killed at ever later moments of publishing in an endless loop under ever new names."""
    program = """
import itertools, sys
from pathlib import Path
from ganpipe.storage import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for number in itertools.count():
    store.publish(f"{sys.argv[3]}/{number}", Path(sys.argv[2]), {})
"""
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 200_000)
    for attempt in range(3):
        publisher = subprocess.Popen(
            [sys.executable, "-c", program, store_uri(store), str(folder), f"attempt-{attempt}"], stdout=subprocess.PIPE
        )
        with publisher:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(0.015 + 0.04 * attempt)
            publisher.send_signal(signal.SIGKILL)
        complete = list(store.published(f"attempt-{attempt}"))
        if isinstance(store, FileStore):
            assert len(keys(store, f"attempt-{attempt}")) == 24 * len(complete)
        else:  # objects may lie there: whole ones, in no folder that exists
            whole = {f"{number}.bin": 200_000 for number in range(20)} | {"a.bin": 1000, "b.bin": 0, "c.bin": 10}
            for item in store.list(f"attempt-{attempt}"):
                name = item.key.rpartition("/")[2]
                assert name == "manifest.json" or item.size == whole[name]
        for prefix in complete:
            assert len(store.fetch(prefix)) == 23


@pytest.mark.parametrize("damage", [b"A" + b"a" * 999, b"a" * 999, b""])
def test_changed_bytes_are_named(store: Store, folder: Path, damage: bytes) -> None:
    store.publish("datasets/one", folder, {})
    store.write_bytes("datasets/one/a.bin", damage)
    assert list(store.fetch("datasets/one", ["b.bin"])) == ["b.bin"]
    with pytest.raises(CorruptObject, match=r"datasets/one/a\.bin"):
        store.fetch("datasets/one")


def test_a_lost_object_is_named(store: Store, folder: Path) -> None:
    store.publish("datasets/one", folder, {})
    store.remove("datasets/one/a.bin")
    with pytest.raises(CorruptObject, match=r"datasets/one/a\.bin .* is gone"):
        store.fetch("datasets/one")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_manifest_is_named(store: Store, folder: Path, damage: bytes) -> None:
    store.publish("datasets/one", folder, {})
    store.write_bytes("datasets/one/manifest.json", damage)
    with pytest.raises(CorruptObject, match=r"datasets/one/manifest\.json"):
        store.manifest("datasets/one")


def test_a_manifest_cannot_name_files_outside_the_store(store: Store) -> None:
    files = {"../../../etc/passwd": {"sha256": "0", "bytes": 1}}
    store.write_bytes("x/manifest.json", json.dumps({"files": files}).encode())
    with pytest.raises(InputError, match="is not a key"):
        store.fetch("x")


# --- where the store is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["ftp://host/x", "/plain/path", "file://host/x", "file:relative", ""])
def test_what_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="file:///absolute/folder"):
        open_store(uri)


def test_a_store_that_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(f"file://{tmp_path}/file/store")
    for action in (
        lambda: store.write_bytes("x", b""),
        lambda: store.create("x", b""),
        lambda: store.publish("x", folder, {}),
    ):
        with pytest.raises(InputError, match="GANPIPE_STORE"):
            action()
    assert keys(store) == []


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, folder: Path) -> None:
    store = FileStore(f"file://{tmp_path}/store")
    before = os.umask(0o022)
    try:
        store.write_bytes("x", b"")
        store.publish("folder", folder, {})
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in store.root.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o644}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o755}


@pytest.mark.parametrize("name", ["with space", "größe", "a#b?c%20d;e"])
def test_any_folder_can_be_the_store(tmp_path: Path, name: str) -> None:
    settings = Settings.from_environment({"GANPIPE_HOME": str(tmp_path / name)})
    store = open_store(settings.store)
    store.write_bytes("a", b"1")
    assert (tmp_path / name / "store" / "a").read_bytes() == b"1"
    assert store.uri == settings.store and [item.key for item in open_store(store.uri).list()] == ["a"]


def test_ambiguous_uris_are_refused(tmp_path: Path) -> None:
    for end in ("a#b", "a?b"):
        with pytest.raises(InputError, match="%23"):
            open_store(f"file://{tmp_path}/{end}")


def test_what_killed_processes_left_goes_and_what_others_work_on_stays(tmp_path: Path) -> None:
    (tmp_path / "x-left").mkdir()
    (tmp_path / "x-left" / "file").touch()
    (tmp_path / "another").mkdir()
    with scratch_folder(tmp_path, "x-") as first, scratch_folder(tmp_path, "x-") as second:
        assert first.is_dir() and second.is_dir() and not (tmp_path / "x-left").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["another"]
