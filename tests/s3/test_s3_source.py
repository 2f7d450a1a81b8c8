"""A bucket of images as a source: the data set that the same files would make in a folder."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from s3_server import BUCKET, Server

from ganpipe import prepare
from ganpipe.cli import main
from ganpipe.config import RunConfig, config_to_yaml, load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.prepare.manifest import DataManifest
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.storage.s3place import S3Place

Refused = Callable[[RunConfig], str]
Requests = Callable[[str, Callable[[dict[str, Any]], None]], None]

ODD_NAMES = (
    "käse & brot/ü#1?.png",
    "käse & brot/a+b 100%25.png",
    "日本/猫'\"<x>.JPEG",
    "日本/back\\slash.png",
    "日本/é.png",
)


def config_of(source: dict[str, Any], **prepare: Any) -> RunConfig:
    return load_config(
        {
            "name": "test",
            "prepare": {"source": source, "resolution": 8, "test_fraction": 0.4, "extractor_fraction": 0, **prepare},
            "gan": {"name": "classic"},
            "train": {"batch": 4, "stop": {"kimg": 1}},
            "evaluate": {"extractor": "inception", "allow_few": True},
            "register": {"model": "test"},
        }
    )


def save_images(folder: Path, *names: str, seed: int = 0) -> None:
    """Random PNGs, whatever they are called."""
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path, "PNG")


class Bucket:
    """A prefix in the real server's bucket, filled by plain boto3."""

    def __init__(self, client: Any, uri: str):
        self.client, self.uri = client, uri
        self.prefix = uri.removeprefix(f"s3://{BUCKET}/")

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def upload(self, folder: Path) -> None:
        """What lies in a folder, by the same names."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.fixture
def bucket(client: Any, s3_uri: str) -> Bucket:
    return Bucket(client, s3_uri)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty-four images in two class folders."""
    save_images(tmp_path / "images", *(f"{('cat', 'dog')[number % 2]}/{number:03d}.png" for number in range(24)))
    return tmp_path / "images"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """requests(name, function): boto3 calls the function with the parameters of each such request."""
    connect = S3Place._connect

    def watch(name: str, function: Callable[[dict[str, Any]], None]) -> None:
        def watched(place: S3Place) -> Any:
            connection = connect(place)
            connection.client.meta.events.register(
                f"provide-client-params.s3.{name}", lambda params, **_: function(params)
            )
            return connection

        monkeypatch.setattr(S3Place, "_connect", watched)

    return watch


@pytest.fixture
def reads(requests: Requests) -> list[str]:
    """Grows by the name of each object whose content is asked for."""
    asked: list[str] = []
    requests("GetObject", lambda params: asked.append(params["Key"].rpartition("/")[2]))
    return asked


@pytest.fixture
def refused(settings: Settings) -> Refused:
    """refused(config) -> the message of the error, after which nothing is published and no work left behind."""

    def refuse(config: RunConfig) -> str:
        with pytest.raises((InputError, WorkFailed)) as error:
            prepare.run(config, settings)
        assert not list(open_store(settings.store).list())
        assert not list((settings.home / "work").glob("*"))
        return str(error.value)

    return refuse


# --- as a folder ------------------------------------------------------------------------------------------------------


def test_the_same_data_set_as_from_a_folder(settings: Settings, bucket: Bucket, images: Path) -> None:
    save_images(images, *ODD_NAMES, seed=1)
    save_images(images, ".hidden.png", "cat/.hidden/in.png", ".trash/dog/in.png", seed=2)
    (images / "cat" / "notes.txt").write_text("no image")
    bucket.upload(images)
    bucket.put("cat/", b"")  # as consoles make folders
    bucket.put("empty/", b"")
    Bucket(bucket.client, f"{bucket.uri}-beside").put("owl/other.png", b"not below the prefix")
    remote = prepare.run(config_of({"name": "s3", "uri": bucket.uri}), settings)
    assert remote == prepare.run(config_of({"name": "folder", "path": str(images)}), settings)
    manifest = DataManifest.read(open_store(settings.store), remote.digest)
    assert (
        manifest is not None
        and manifest.tables["main"].columns["label"].vocabulary == ("cat", "dog", "käse & brot", "日本")
        and sum(remote.rows.values()) == 24 + len(ODD_NAMES)
    )
    assert not list((settings.home / "work").glob("*"))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_columns_of_a_metadata_file(settings: Settings, bucket: Bucket, images: Path, name: str) -> None:
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    rows = [
        {"file_name": name, "kind": f"k{number % 3}", "text": f"picture {number}"} for number, name in enumerate(names)
    ]
    if name.endswith("csv"):
        text = "file_name,kind,text\n" + "".join(f"{','.join(row.values())}\n" for row in rows)
    else:
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (images / name).write_text(text)
    bucket.upload(images)
    columns = {"label_column": "kind", "caption_column": "text", "classes": ["k2", "k1", "k0"]}
    remote = prepare.run(config_of({"name": "s3", "uri": f"{bucket.uri}/", **columns}), settings)
    assert remote == prepare.run(config_of({"name": "folder", "path": str(images), **columns}), settings)


def test_the_whole_bucket_and_more_than_one_page_of_it(settings: Settings, client: Any, requests: Requests) -> None:
    pages = []

    def seven_at_a_time(params: dict[str, Any]) -> None:
        params["MaxKeys"] = 7
        pages.append(params)

    requests("ListObjectsV2", seven_at_a_time)
    client.create_bucket(Bucket="whole-source")
    for number in range(30):
        stream = io.BytesIO()
        Image.new("RGB", (3, 3), (number, 0, 0)).save(stream, "PNG")
        client.put_object(Bucket="whole-source", Key=f"{number}.png", Body=stream.getvalue())
    assert sum(prepare.run(config_of({"name": "s3", "uri": "s3://whole-source"}), settings).rows.values()) == 30
    assert len(pages) == 5


# --- what has changed -------------------------------------------------------------------------------------------------


def test_unchanged_is_known_from_the_listing_and_grown_reads_only_what_is_new(
    settings: Settings, bucket: Bucket, images: Path, tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    bucket.upload(images)
    config = config_of({"name": "s3", "uri": bucket.uri})
    before = prepare.run(config, settings)
    assert len(reads) == 24
    reads.clear()
    with caplog.at_level(logging.INFO):
        assert prepare.run(config, settings) == before
    assert reads == [] and "already prepared" in caplog.text

    for name in ("cat/000.png", "dog/001.png"):
        bucket.remove(name)
        (images / name).unlink()
    save_images(images, "cat/new.png", "owl/one.png", "owl/two.png", "dog/003.png", seed=5)  # the last one over another
    for name in ("cat/new.png", "owl/one.png", "owl/two.png", "dog/003.png"):
        bucket.put(name, (images / name).read_bytes())
    with caplog.at_level(logging.INFO):
        after = prepare.run(config, settings)
    assert sorted(reads) == ["003.png", "new.png", "one.png", "two.png"]
    assert f"+4 -3 against data set {before.digest}; 4 images decoded, 21 taken from there" in caplog.text
    assert after == prepare.run(config_of({"name": "folder", "path": str(images)}), settings) != before


def test_other_bytes_of_the_same_size_are_noticed(settings: Settings, bucket: Bucket, images: Path) -> None:
    bitmap = lambda colour: Image.new("RGB", (8, 8), colour)  # noqa: E731
    for path in images.rglob("*.png"):
        bitmap(int(path.stem)).save(path.with_suffix(".bmp"))
        path.unlink()
    bucket.upload(images)
    config = config_of({"name": "s3", "uri": bucket.uri})
    before = prepare.run(config, settings)
    bitmap("teal").save(images / "cat" / "000.bmp")
    bucket.put("cat/000.bmp", (images / "cat" / "000.bmp").read_bytes())
    assert prepare.run(config, settings).digest != before.digest


def test_many_are_read_at_the_same_time_and_few_are_held(
    settings: Settings, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_images(tmp_path / "many", *(f"{number:03d}.png" for number in range(300)))
    bucket.upload(tmp_path / "many")
    read = S3Place.read
    lock, now, most, begun, decoded_when = threading.Lock(), 0, 0, 0, []

    def slow(place: S3Place, key: str, etag: str | None = None) -> Any:
        nonlocal now, most, begun
        with lock:
            now, begun = now + 1, begun + 1
            most = max(most, now)
        try:
            time.sleep(0.01)
            return read(place, key, etag)
        finally:
            with lock:
                now -= 1

    from ganpipe.prepare import decode

    pixels_of = decode.pixels_of

    def noting(pictures: Any, **rule: Any) -> Any:
        decoded_when.append(begun)
        return pixels_of(pictures, **rule)

    monkeypatch.setattr(S3Place, "read", slow)
    monkeypatch.setattr("ganpipe.prepare.decode.pixels_of", noting)
    prepare.run(config_of({"name": "s3", "uri": bucket.uri}), settings)
    assert 8 <= most <= decode.READERS
    assert decoded_when[0] <= decode.CHUNK_PICTURES * (decode.CHUNKS_AHEAD + 1)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "exit_code", "words"),
    [
        ({"prepare.source.uri": "s3://no-such-bucket/x"}, 2, "s3://no-such-bucket/x: there is no such bucket"),
        ({"prepare.source.uri": "s3://ab"}, 2, "set prepare.source.uri to s3://bucket/prefix"),
        ({"prepare.source.uri": "pictures"}, 2, "set prepare.source.uri to s3://bucket/prefix"),
        ({"prepare.source.uri": f"s3://{BUCKET}/nothing-here"}, 2, "prepare.source.uri: no images in"),
        ({"AWS_ACCESS_KEY_ID": "NOBODY"}, 2, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "not-it"}, 2, "set AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 1, "no S3 server answers at http://127.0.0.1:1"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_sentence_and_publish_nothing(
    settings: Settings,
    s3_uri: str,
    mistake: dict[str, str],
    exit_code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(config_to_yaml(config_of({"name": "s3", "uri": mistake.get("prepare.source.uri", s3_uri)})))
    for name, value in mistake.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    assert main(["prepare", str(path)]) == exit_code
    err = capsys.readouterr().err
    assert words in err and err.startswith("ganpipe: error: ") and err.count("\n") == 1 and "GANPIPE_STORE" not in err
    assert not list(open_store(settings.store).list())


def test_other_files_only(bucket: Bucket, refused: Refused) -> None:
    bucket.put("notes.txt", b"x")
    bucket.put(".hidden.png", b"x")
    message = refused(config_of({"name": "s3", "uri": bucket.uri}))
    assert f"no images in {bucket.uri}; it holds other files (.txt: 1)" in message


@pytest.mark.parametrize("key", ["a//b.png", "a/../b.png", "./b.png", "/b.png"])
def test_keys_that_are_no_path(bucket: Bucket, images: Path, refused: Refused, key: str) -> None:
    bucket.upload(images)
    bucket.put(key, b"x")
    message = refused(config_of({"name": "s3", "uri": bucket.uri}))
    assert message.startswith("prepare.source.uri: ") and repr(key) in message


def test_unreadable_and_too_large_objects_are_named(
    bucket: Bucket, images: Path, refused: Refused, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(images)
    bucket.put("cat/bad.png", b"no image")
    bucket.put("dog/huge.png", bytes(100_000))
    monkeypatch.setattr("ganpipe.prepare.decode.MAX_BYTES", 50_000)
    message = refused(config_of({"name": "s3", "uri": bucket.uri}))
    assert "2 of 26 images" in message
    assert f"{bucket.uri}/cat/bad.png: no image in any of the formats" in message
    assert f"{bucket.uri}/dog/huge.png: the file has more than 1 GiB" in message
    assert "huge.png" not in reads and len(reads) == 25


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_an_object_that_changes_between_listing_and_reading(
    bucket: Bucket, images: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bucket.upload(images)
    objects = S3Place.objects

    def then_change(place: S3Place, under: str = "") -> Any:
        yield from objects(place, under)
        if change == "removed":
            bucket.remove("dog/001.png")
        else:
            bucket.put("dog/001.png", (images / "cat" / "000.png").read_bytes())

    monkeypatch.setattr(S3Place, "objects", then_change)
    message = refused(config_of({"name": "s3", "uri": bucket.uri}))
    assert message.startswith(f"{bucket.uri}/dog/001.png was removed or replaced")


def test_a_server_that_dies_while_images_are_read(
    bucket: Bucket,
    images: Path,
    s3_server: Server,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket.upload(images)
    with s3_server.another_gateway() as (url, process):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        read = S3Place.read

        def dying(place: S3Place, key: str, etag: str | None = None) -> Any:
            if key == "dog/003.png":
                process.kill()
                process.wait()
            return read(place, key, etag)

        monkeypatch.setattr(S3Place, "read", dying)
        assert "no S3 server answers at" in refused(config_of({"name": "s3", "uri": bucket.uri}))
