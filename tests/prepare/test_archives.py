"""Archives are read like the folder they were made of, and refused whole when anything about them is unsafe."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.settings import Settings

Configure = Callable[..., RunConfig]
Refused = Callable[[RunConfig], str]
FORMATS = {"zip": ".zip", "tar": ".tar", "gztar": ".tar.gz", "xztar": ".tar.xz"}


def source(path: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "archive", "path": str(path), **fields}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("with_folder", [False, True])
def test_an_archive_is_prepared_as_the_folder_in_it(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path, kind: str, with_folder: bool
) -> None:
    (images / "cat" / "notes.txt").write_text("no image")
    (images / ".hidden.png").write_bytes(b"?")
    if with_folder:
        packed = shutil.make_archive(str(tmp_path / "packed"), kind, images.parent, images.name)
    else:
        packed = shutil.make_archive(str(tmp_path / "packed"), kind, images)
    beside = set(tmp_path.iterdir())
    ref = prepare.run(configure(source(Path(packed))), settings)
    assert ref == prepare.run(configure(images), settings)
    assert set(tmp_path.iterdir()) <= {*beside, settings.home}


def test_names_in_any_script(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    (images / "dog").rename(images / "犬 é")
    ref = prepare.run(configure(images), settings)
    for kind in FORMATS:
        path = Path(shutil.make_archive(str(tmp_path / kind), kind, images))
        assert prepare.run(configure(source(path)), settings) == ref


def tar_with(path: Path, images: Path, member: tarfile.TarInfo, data: bytes = b"") -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(images, "images")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def zip_with(path: Path, images: Path, member: zipfile.ZipInfo, data: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for image in images.rglob("*.png"):
            archive.write(image, image.relative_to(images))
        archive.writestr(member, data)


@pytest.mark.parametrize("name", ["../out.png", "cat/../../out.png", "/tmp/out.png", "C:/out.png", "..\\out.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"evil.{kind}"
    data = next(images.rglob("*.png")).read_bytes()
    if kind == "zip":
        zip_with(path, images, zipfile.ZipInfo(name), data)
    else:
        tar_with(path, images, tarfile.TarInfo(name), data)
    message = refused(configure(source(path)))
    assert str(path) in message
    assert repr(name) in message
    assert "leads out" in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_in_a_tar_are_refused(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, kind: bytes
) -> None:
    member = tarfile.TarInfo("images/cat/odd.png")
    member.type, member.linkname = kind, "/etc/passwd"
    tar_with(tmp_path / "odd.tar", images, member)
    message = refused(configure(source(tmp_path / "odd.tar")))
    assert "'images/cat/odd.png' is " in message
    assert ("a link" in message) == (kind != tarfile.FIFOTYPE)


def test_a_link_in_a_zip_is_refused(configure: Configure, refused: Refused, images: Path, tmp_path: Path) -> None:
    member = zipfile.ZipInfo("cat/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    zip_with(tmp_path / "link.zip", images, member, b"/etc/passwd")
    assert "'cat/link.png' is a link" in refused(configure(source(tmp_path / "link.zip")))


def test_an_encrypted_zip_is_refused(configure: Configure, refused: Refused, images: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "secret"), "zip", images))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in each of a file's two headers
        start = 0
        while (start := data.find(signature, start)) >= 0:
            data[start + offset] |= 1
            start += 4
    path.write_bytes(data)
    message = refused(configure(source(path)))
    assert "is encrypted" in message
    assert "without a password" in message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_archive_is_refused(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, kind: str, share: float
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "cut"), kind, images))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 512 * 512 if kind == "tar" else int(len(data) * share)])
    message = refused(configure(source(path)))
    assert str(path) in message
    assert "cut off, damaged" in message


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damage_inside_is_noticed(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, kind: str
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "damaged"), kind, images))
    data = bytearray(path.read_bytes())
    names = [place for place in range(len(data)) if data.startswith(b"dog/0", place)]
    start = names[len(names) // 4] - (0 if kind == "tar" else -100)
    data[start : start + 20] = bytes(range(20))
    path.write_bytes(data)
    message = refused(configure(source(path)))
    assert "damaged" in message


def test_what_is_no_archive(configure: Configure, refused: Refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    assert "no .zip or .tar archive" in refused(configure(source(tmp_path / "text.zip")))
    assert "is not a file" in refused(configure(source(images)))
    assert "does not exist" in refused(configure(source(tmp_path / "missing.zip")))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "no images in" in refused(configure(source(tmp_path / "empty.zip")))
    (tmp_path / "faces.zip").write_bytes(b"PK")
    assert "`archive`" in refused(configure(tmp_path / "faces.zip"))


def test_unreadable_images_in_an_archive_are_named(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path
) -> None:
    (images / "cat" / "bad.png").write_bytes(b"?")
    path = Path(shutil.make_archive(str(tmp_path / "some"), "zip", images))
    assert f"{path}/cat/bad.png: no image" in refused(configure(source(path)))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_too_large_to_be_images_are_refused_unread(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"bomb.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo("bomb.png")
            member.size = 1 << 40
            archive.addfile(member)
    else:
        zip_with(path, images, zipfile.ZipInfo("bomb.png"))
        data = bytearray(path.read_bytes())
        entry = data.rfind(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = (3 << 30).to_bytes(4, "little")
        path.write_bytes(data)
    assert "'bomb.png' has more than 1 GiB" in refused(configure(source(path)))
