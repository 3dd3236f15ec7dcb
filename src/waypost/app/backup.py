"""A whole deployment as one file and back: the database, the journals with their node ids, the secrets.

The journals are read before the database. So what had ended by then is in one of the two: booked, or to be booked when
the journals are recovered at the first start of what was restored. The files in a folder are read after it, so that
each file that the database knows is there, but for those deleted meanwhile. Those in a bucket are not in the archive.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import cast

import msgspec

from waypost.app.database import EMBEDDED_DIR, embedded_postgres, open_database
from waypost.app.file_wiring import FILES_DIR
from waypost.app.operator import CommandRefused
from waypost.app.settings import Settings
from waypost.storage.dump import DumpFailed, dump_database, restore_database
from waypost.stores.objects import INCOMING

FORMAT = 1
_HEAD, _DUMP = "waypost-backup.json", "database.dump"
_SECRETS = "secrets"
# Directories of the data directory that are part of the deployment, where they are there.
_KEPT = ("journal", FILES_DIR, "tombstones")
_LOCKS = ("lock", ".lock")


class Head(msgspec.Struct, frozen=True):
    """The first member of the archive."""

    format: int
    has_secrets: bool


def back_up(settings: Settings, file: Path, *, with_secrets: bool = True) -> None:
    """Write the archive, readable by its owner only; whether or not the deployment runs. Raises CommandRefused."""
    if file.exists():
        raise CommandRefused(f"{file} is there already: name a file that is not")
    if not file.absolute().parent.is_dir():
        raise CommandRefused(f"{file} cannot be written: there is no directory {file.parent}; make it, or name another")
    if with_secrets and not settings.secrets_dir.is_dir():
        raise CommandRefused(
            f"there are no secrets in {settings.secrets_dir}: check --data-dir, or leave them out (--without-secrets)"
        )
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with (
            os.fdopen(descriptor, "wb") as raw,
            tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive,
            tempfile.TemporaryDirectory(dir=file.parent) as directory,
        ):
            _add_bytes(archive, _HEAD, msgspec.json.encode(Head(FORMAT, with_secrets)), Path(directory))
            for name in _KEPT:
                if name != FILES_DIR:
                    _add_tree(archive, settings.data_dir / name, name)
            if with_secrets:
                _add_tree(archive, settings.secrets_dir, _SECRETS)
            dump = Path(directory) / _DUMP
            with open_database(settings) as conninfo:
                _in_words(lambda: dump_database(conninfo, dump))
            archive.add(dump, _DUMP)
            if settings.files.store == "local":
                _add_tree(archive, settings.data_dir / FILES_DIR, FILES_DIR)
        with unfinished.open("rb") as whole:
            os.fsync(whole.fileno())
        unfinished.rename(file)
    finally:
        unfinished.unlink(missing_ok=True)


def restore(settings: Settings, file: Path) -> Head:
    """Make the deployment of an archive, where there is none yet. Raises CommandRefused."""
    _refuse_what_is_there(settings)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.data_dir) as directory:
        unpacked = Path(directory)
        head = _unpack(file, unpacked)
        if settings.database_url is not None:
            url = settings.database_url
            _in_words(lambda: restore_database(url, unpacked / _DUMP))
        else:
            server = embedded_postgres(settings)
            try:
                conninfo = server.start()
                _in_words(lambda: restore_database(conninfo, unpacked / _DUMP))
            finally:
                server.stop()
        # Last: only what is whole looks like a deployment.
        for name in _KEPT:
            if (unpacked / name).exists():
                shutil.move(unpacked / name, settings.data_dir / name)
        if head.has_secrets:
            settings.secrets_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(unpacked / _SECRETS, settings.secrets_dir)
    return head


def _refuse_what_is_there(settings: Settings) -> None:
    places = [settings.data_dir / name for name in _KEPT]
    places += [settings.secrets_dir, settings.data_dir / EMBEDDED_DIR / "cluster"]
    for place in places:
        if place.is_dir() and any(place.iterdir()):
            raise CommandRefused(
                f"{place} is there already: restore into an empty --data-dir, and with --database-url into an empty "
                "database"
            )


def _add_tree(archive: tarfile.TarFile, directory: Path, name: str) -> None:
    if not directory.is_dir():
        return
    archive.add(directory, name, recursive=False)
    for path in sorted(directory.rglob("*")):
        relative = f"{name}/{path.relative_to(directory)}"
        if path.is_dir():
            archive.add(path, relative, recursive=False)
        elif path.is_file() and not path.is_symlink() and path.name not in _LOCKS and path.parent.name != INCOMING:
            # A journal's segment may go while it is read: then all of it is booked, and the dump has it. A file's
            # object may: then the file is deleted.
            try:
                archive.add(path, relative)
            except FileNotFoundError:
                continue


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes, directory: Path) -> None:
    path = directory / name
    path.write_bytes(content)
    archive.add(path, name)


def _unpack(file: Path, into: Path) -> Head:
    try:
        with tarfile.open(file, mode="r:gz") as archive:
            for member in _members(archive):
                target = into / member.name
                if member.isdir():
                    target.mkdir(mode=0o700, parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with (
                    os.fdopen(descriptor, "wb") as out,
                    cast(tarfile.ExFileObject, archive.extractfile(member)) as part,
                ):
                    shutil.copyfileobj(part, out)
        head = msgspec.json.decode((into / _HEAD).read_bytes(), type=Head)
    except (tarfile.TarError, EOFError, OSError, msgspec.DecodeError) as error:
        if isinstance(error, OSError) and error.filename is not None and not isinstance(error, FileNotFoundError):
            raise
        raise CommandRefused(f"{file} is no backup of Waypost, or a part of it is missing") from None
    if head.format != FORMAT:
        raise CommandRefused(f"{file} was made by a later version of Waypost: restore it with that one")
    if not (into / _DUMP).is_file():
        raise CommandRefused(f"{file} is no backup of Waypost, or a part of it is missing")
    return head


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Plain files and directories below the places that we write ourselves, and nothing that leads out of them."""
    for member in archive:
        parts = PurePosixPath(member.name).parts
        is_ours = bool(parts) and (parts[0] in (*_KEPT, _SECRETS) or parts in ((_HEAD,), (_DUMP,)))
        if not is_ours or ".." in parts or not (member.isfile() or member.isdir()):
            raise tarfile.ReadError("a member that no backup of ours has")
        yield member


def _in_words(work: Callable[[], None]) -> None:
    try:
        work()
    except DumpFailed as error:
        raise CommandRefused(str(error)) from None
