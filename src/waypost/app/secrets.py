"""Secrets of the deployment: the directory that holds ours, and the places where provider credentials stand.

Ours are made at the first start and stand outside the database: a copy of the database alone opens nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from waypost.kit.crypto import hmac_sha256
from waypost.kit.ids import Ids
from waypost.policy.catalogue import Catalogue, Provider
from waypost.policy.provider_document import PLAIN

SECRET_BYTES = 32
CREDENTIAL_BYTES_MAX = 8192
_FILE_KEY = "file_key."
_CREDENTIAL = re.compile(r"[!-~]+(?: [!-~]+)*")  # goes into a header line


class SecretsError(Exception):
    """A secret cannot be used as it stands; the text says what to do and never quotes it."""


class Secrets:
    """What this deployment alone knows. `pepper` keys the digests of API keys, `ids_key` the ids shown to callers,
    `signing_key` signs the URLs that we give out, `envelope_key` seals the secrets that we keep for others."""

    __slots__ = ("directory", "envelope_key", "ids_key", "pepper", "signing_key")

    def __init__(self, directory: Path, pepper: bytes, ids_key: bytes, signing_key: bytes, envelope_key: bytes) -> None:
        self.directory = directory
        self.pepper = pepper
        self.ids_key = ids_key
        self.signing_key = signing_key
        self.envelope_key = envelope_key


def open_secrets(directory: Path) -> Secrets:
    """The secrets in that directory; made when they are not there. Raises SecretsError when others can read them."""
    _open_directory(directory)
    return Secrets(
        directory, *(_secret(directory, name) for name in ("pepper", "ids_key", "signing_key", "envelope_key"))
    )


def has_secrets(directory: Path) -> bool:
    """Whether a deployment's secrets stand there, whoever may read them."""
    try:
        return (directory / "pepper").exists()
    except PermissionError:
        return True  # something is there, and whoever opens it says what is wrong


def open_file_keys(directory: Path) -> dict[int, bytes]:
    """The keys that the keys of stored files are wrapped with, by version: `file_key.1`, `file_key.2`, …; the first is
    made when there is none. Raises SecretsError."""
    _open_directory(directory)
    versions = _file_key_versions(directory) or [1]
    return {version: _secret(directory, f"{_FILE_KEY}{version}") for version in versions}


def add_file_key(directory: Path) -> int:
    """Make the next version, which the control process takes up at its next sweep; its number. The ones before may go
    once nothing is wrapped with them any more."""
    version = max(open_file_keys(directory)) + 1
    _secret(directory, f"{_FILE_KEY}{version}")
    return version


def open_node_id(journal_dir: Path) -> bytes:
    """The id of the gateway node whose journal stands in this directory: 16 bytes, made at the first start.

    It lies with the journal and not with the secrets, which several nodes may share."""
    journal_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    node_id = _keep(journal_dir / "node_id", Ids().new())
    if len(node_id) != 16:
        raise SecretsError(f"{journal_dir / 'node_id'} is damaged: restore it from a backup")
    return node_id


def with_references(catalogue: Catalogue, secrets: Secrets, *, document_dir: Path) -> Catalogue:
    """The catalogue with each `plain:` credential moved into a file of the secrets directory, and each `file:` path
    made absolute from where the document stands. Only such a catalogue may be stored."""
    providers = tuple(
        msgspec.structs.replace(
            provider,
            api_keys=tuple(_reference(provider, each, secrets, document_dir) for each in provider.api_keys),
            jobs=msgspec.structs.replace(
                provider.jobs,
                webhook_secrets=tuple(
                    _reference(provider, each, secrets, document_dir) for each in provider.jobs.webhook_secrets
                ),
            ),
        )
        for provider in catalogue.providers
    )
    return msgspec.structs.replace(catalogue, providers=providers)


def absolute_reference(reference: str, *, document_dir: Path) -> str:
    """The reference with a `file:` path made absolute from where its document stands; others as they are."""
    scheme, _, place = reference.partition(":")
    if scheme != "file":
        return reference
    return f"file:{(document_dir / Path(place).expanduser()).absolute()}"


class CredentialReader:
    """Reads `env:NAME` and `file:PATH`; remembers the files, so that `has_changed` can tell when to read again."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._stamps: dict[str, tuple[int, int, int] | None] = {}

    def __call__(self, reference: str) -> str:
        """The credential. Raises LookupError, naming the place but never its content, when there is no usable one."""
        scheme, _, place = reference.partition(":")
        if scheme == "env":
            credential = self._environment.get(place, "").strip()
            if not credential:
                raise LookupError(f"the environment variable {place} is not set")
        elif scheme == "file":
            self._stamps[place] = _stamp(place)
            try:
                with Path(place).open("rb") as file:
                    credential = file.read(CREDENTIAL_BYTES_MAX + 1).decode("ascii").strip()
            except OSError as error:
                raise LookupError(f"{place} cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                credential = ""
        else:
            raise LookupError("a credential is read from env:NAME or file:PATH")
        if len(credential) > CREDENTIAL_BYTES_MAX or _CREDENTIAL.fullmatch(credential) is None:
            raise LookupError(f"{place} does not hold one line of printable ASCII")
        return credential

    def has_changed(self) -> bool:
        """Whether a file read before is another one now."""
        return any(_stamp(place) != stamp for place, stamp in self._stamps.items())


def _secret(directory: Path, name: str) -> bytes:
    secret = _keep(directory / name, os.urandom(SECRET_BYTES))
    if len(secret) != SECRET_BYTES:
        raise SecretsError(f"a secret in {directory} is damaged: restore the directory from a backup")
    return secret


def _file_key_versions(directory: Path) -> list[int]:
    suffixes = [path.name.removeprefix(_FILE_KEY) for path in directory.glob(f"{_FILE_KEY}*")]
    return sorted(int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdigit())


def _open_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_if_shared(directory, "700")


def _refuse_if_shared(path: Path, mode: str) -> None:
    if path.stat().st_mode & 0o077:
        raise SecretsError(f"others can read {path}: run chmod {mode} {path}")


def _keep(path: Path, fresh: bytes) -> bytes:
    """The bytes kept there as hexadecimal text; `fresh` when nothing was. Of several processes that start at once,
    one wins and all get the same."""
    if not path.exists():
        _write(path, fresh.hex().encode() + b"\n")
    _refuse_if_shared(path, "600")
    try:
        return bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        return b""


def _write(path: Path, content: bytes) -> None:
    """Create the file, whole or not at all, for its owner only. One that is already there stays."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        os.unlink(temporary)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _reference(provider: Provider, reference: str, secrets: Secrets, document_dir: Path) -> str:
    if not reference.startswith(PLAIN):
        return absolute_reference(reference, document_dir=document_dir)
    place = reference.removeprefix(PLAIN)
    directory = secrets.directory / "credentials"
    _open_directory(directory)
    # Named by content, so that the same document is the same catalogue and a changed credential another one.
    name = f"{provider.id}-{hmac_sha256(secrets.pepper, place.encode()).hex()[:16]}"
    _write(directory / name, place.encode() + b"\n")
    return f"file:{directory / name}"


def _stamp(place: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
