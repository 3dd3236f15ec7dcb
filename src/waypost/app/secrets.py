"""Secrets of the deployment: the directory that holds ours, and the places where provider credentials stand.

Ours are made at the first start and stand outside the database: a copy of the database alone opens nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from waypost.kit.crypto import hmac_sha256
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.policy.catalogue import Catalogue, Provider
from waypost.policy.provider_document import PLAIN
from waypost.tenancy.pepper import IN_FORCE_MAX, Peppers, peppers_of

SECRET_BYTES = 32
CREDENTIAL_BYTES_MAX = 8192
_FILE_KEY = "file_key."
_PEPPER = "pepper"  # of version 1, and pepper.2, pepper.3, … of those after it
_RETIRED = "retired_pepper."
_CREDENTIAL = re.compile(r"[!-~]+(?: [!-~]+)*")  # goes into a header line


class SecretsError(Exception):
    """A secret cannot be used as it stands; the text says what to do and never quotes it."""


class Secrets:
    """What this deployment alone knows. `peppers` key the digests of API keys, `ids_key` the ids shown to callers
    and claims of idempotency keys, `signing_key` signs the URLs that we give out, `envelope_key` seals the secrets that
    we keep for others."""

    __slots__ = ("directory", "envelope_key", "ids_key", "peppers", "signing_key")

    def __init__(
        self, directory: Path, peppers: Peppers, ids_key: bytes, signing_key: bytes, envelope_key: bytes
    ) -> None:
        self.directory = directory
        self.peppers = peppers
        self.ids_key = ids_key
        self.signing_key = signing_key
        self.envelope_key = envelope_key


def open_secrets(directory: Path) -> Secrets:
    """The secrets in that directory; made when they are not there. Raises SecretsError when others can read them."""
    _open_directory(directory)
    others = ("ids_key", "signing_key", "envelope_key")
    return Secrets(directory, open_peppers(directory), *(_secret(directory, name) for name in others))


def has_secrets(directory: Path) -> bool:
    """Whether a deployment's secrets stand there, whoever may read them."""
    try:
        return any(path.exists() for path in _pepper_paths(directory).values())
    except PermissionError:
        return True  # something is there, and whoever opens it says what is wrong


def open_peppers(directory: Path) -> Peppers:
    """The peppers in force; the first is made when there never was one. Raises SecretsError."""
    _open_directory(directory)
    paths = _pepper_paths(directory)
    if not paths:
        if retired_peppers(directory):
            raise SecretsError(f"every pepper in {directory} is retired: restore the directory from a backup")
        paths = {1: pepper_path(directory, 1)}
    if len(paths) > IN_FORCE_MAX:
        names = ", ".join(path.name for path in paths.values())
        raise SecretsError(f"at most {IN_FORCE_MAX} peppers are in force, and {directory} has {names}: move one away")
    return peppers_of({version: _secret(directory, path.name) for version, path in paths.items()})


def retired_peppers(directory: Path) -> list[int]:
    """Versions that were set aside and can come back."""
    return _versions(directory, _RETIRED)


def add_pepper(directory: Path, version: int) -> None:
    """Make that version, the newest. Processes take it up within a second or two."""
    _secret(directory, pepper_path(directory, version).name)


def set_pepper_aside(directory: Path, version: int) -> Path:
    """Take it out of force; where it stands now. Whoever wants it gone for good deletes that file."""
    aside = directory / f"{_RETIRED}{version}"
    pepper_path(directory, version).rename(aside)
    return aside


def bring_pepper_back(directory: Path, version: int) -> None:
    """Have it in force again."""
    (directory / f"{_RETIRED}{version}").rename(pepper_path(directory, version))


def pepper_path(directory: Path, version: int) -> Path:
    """Where it stands while it is in force."""
    return directory / (_PEPPER if version == 1 else f"{_PEPPER}.{version}")


class PepperReader:
    """Tells when other peppers are in force than when it was made: to be made before they are opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = self._look()

    def changed(self) -> Peppers | None:
        """The peppers in force when they are others than at the last look; None as long as they are the same. Raises
        SecretsError and OSError, again each time until they can be read."""
        found = self._look()
        if found == self._seen:
            return None
        peppers = open_peppers(self._directory)
        self._seen = found
        return peppers

    def _look(self) -> list[tuple[int, tuple[int, int, int] | None]]:
        return [(version, _stamp(str(path))) for version, path in _pepper_paths(self._directory).items()]


def open_file_keys(directory: Path) -> dict[int, bytes]:
    """The keys that the keys of stored files are wrapped with, by version: `file_key.1`, `file_key.2`, …; the first is
    made when there is none. Raises SecretsError."""
    _open_directory(directory)
    versions = _versions(directory, _FILE_KEY) or [1]
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
        replace(
            provider,
            api_keys=tuple(_reference(provider, each, secrets, document_dir) for each in provider.api_keys),
            jobs=replace(
                provider.jobs,
                webhook_secrets=tuple(
                    _reference(provider, each, secrets, document_dir) for each in provider.jobs.webhook_secrets
                ),
            ),
        )
        for provider in catalogue.providers
    )
    return replace(catalogue, providers=providers)


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


def _pepper_paths(directory: Path) -> dict[int, Path]:
    """Of those in force, by version, the oldest first."""
    versions = [version for version in _versions(directory, f"{_PEPPER}.") if version > 1]
    if pepper_path(directory, 1).exists():
        versions.insert(0, 1)
    return {version: pepper_path(directory, version) for version in versions}


def _versions(directory: Path, prefix: str) -> list[int]:
    suffixes = [path.name.removeprefix(prefix) for path in directory.glob(f"{prefix}*")]
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
    credential = reference.removeprefix(PLAIN).encode()
    directory = secrets.directory / "credentials"
    _open_directory(directory)
    # Named by content, so that the same document is the same catalogue and a changed credential another one.
    path = directory / f"{provider.id}-{hmac_sha256(secrets.ids_key, credential).hex()[:16]}"
    if not path.exists():
        path = _named_before(directory, provider, credential) or path
        _write(path, credential + b"\n")
    return f"file:{path}"


def _named_before(directory: Path, provider: Provider, credential: bytes) -> Path | None:
    """Where versions that named by the pepper have put it. It stays there, so that the catalogue does: a new name would
    be a file that machines with copies of the directory do not have."""
    name = re.compile(re.escape(provider.id) + "-[0-9a-f]{16}")
    paths = (path for path in sorted(directory.iterdir()) if name.fullmatch(path.name))
    return next((path for path in paths if path.read_bytes().strip() == credential.strip()), None)


def _stamp(place: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
