"""Archives of image files, read where they are: nothing is unpacked, so no name in them can reach the disk."""

from __future__ import annotations

import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError
from ..sourceconfig import ArchiveSource
from .columns import METADATA, columns_of_files
from .files import hidden, no_images
from .found import MAX_BYTES, SUFFIXES, Contents, Found, Picture, Stat

Wanted = Callable[[str], bool]
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


def archive(source: ArchiveSource) -> Found:
    """Image files by suffix; hidden ones are left out, as in a folder."""
    path = source.path.expanduser().resolve()
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InputError(f"prepare.source.path: {source.path} {what} ({path}); name a .zip or .tar archive of images")
    return Found(str(path), (Stat.of(path.name, path.stat()),), lambda work: _load(path, source))


def _load(path: Path, source: ArchiveSource) -> Contents:
    files = dict(_members(path, lambda name: posixpath.basename(name) in METADATA))
    names = [name for name in files if posixpath.splitext(name)[1].lower() in SUFFIXES]
    if not names:
        raise no_images("prepare.source.path", str(path))
    top = _common_folder(names)
    metadata = {name: files[top + name] for name in METADATA if top + name in files}
    columns = columns_of_files(
        [name.removeprefix(top) for name in names],
        source,
        f"{path}/{top}".rstrip("/"),
        metadata,
        metadata.__getitem__,
    )
    wanted = set(names)

    def pictures() -> Iterator[Picture]:
        for name, data in _members(path, wanted.__contains__):
            if name in wanted:
                yield Picture.of_bytes(f"{path}/{name}", data)

    return Contents(len(names), pictures, columns)


def _common_folder(names: list[str]) -> str:
    """`folder/` when one holds all files, else nothing: a packed folder is as good as what lies in it."""
    first = f"{names[0].split('/', 1)[0]}/"
    return first if all(name.startswith(first) for name in names) else ""


def _members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Names of all files that are not hidden, in the archive's order, with the bytes of those that are wanted.

    Raises InputError for a damaged or encrypted archive, and for one that holds links or names that lead out of it.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    seen = set()
    try:
        for given, data in (_zip_members if zipped else _tar_members)(path, wanted):
            if (name := posixpath.normpath(given)) in seen:
                raise _refused(path, given, "stands there twice")
            seen.add(name)
            yield name, data
    except DAMAGES as error:
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise InputError(
            f"prepare.source.path: {path} is cut off, damaged, or no .zip or .tar archive ({reason}); make it anew"
        ) from error


def _zip_members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as opened:
        for info in opened.infolist():
            _check(path, info.filename, info.file_size)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refused(path, info.filename, "is a link")
            if info.flag_bits & 1:
                raise _refused(path, info.filename, "is encrypted")
            if not info.is_dir() and not hidden(info.filename):
                yield info.filename, opened.read(info) if wanted(posixpath.normpath(info.filename)) else b""


def _tar_members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as opened:
        for member in opened:
            _check(path, member.name, member.size)
            if not (member.isreg() or member.isdir()):
                raise _refused(path, member.name, "is a link" if member.issym() or member.islnk() else "is no file")
            if member.isreg() and not hidden(member.name):
                stream = opened.extractfile(member)
                assert stream is not None
                yield member.name, stream.read() if wanted(posixpath.normpath(member.name)) else b""
        # tarfile takes a damaged header for the end; a whole archive ends in blocks of zeros.
        assert opened.fileobj is not None
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it does not end as archives do")


def _check(path: Path, name: str, size: int) -> None:
    if name.startswith("/") or re.match(r"[A-Za-z]:|.*\\", name) or ".." in name.split("/"):
        raise _refused(path, name, "leads out of the archive, or would on some systems")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _refused(path, name, "is not UTF-8") from error
    if size > MAX_BYTES:
        raise _refused(path, name, f"has more than {MAX_BYTES >> 30} GiB")


def _refused(path: Path, name: str, why: str) -> InputError:
    return InputError(
        f"prepare.source.path: in {path}, {name!r} {why}; such archives are not read. Pack the images anew as plain "
        "files with relative names and without a password"
    )
