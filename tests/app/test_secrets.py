"""Our own secrets, and where provider credentials are read from."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.policy.samples import document
from waypost.app.secrets import (
    CredentialReader,
    Secrets,
    SecretsError,
    add_file_key,
    open_file_keys,
    open_node_id,
    open_secrets,
    with_references,
)
from waypost.kit.values import replace
from waypost.policy.catalogue import Catalogue, JobSettings
from waypost.policy.document import catalogue_document, read_catalogue


def catalogue_with(*references: str) -> Catalogue:
    whole = document()
    whole["providers"][0]["api_keys"] = list(references)
    return read_catalogue(whole)


def references_of(catalogue: Catalogue) -> tuple[str, ...]:
    return catalogue.providers[0].api_keys


def digest(secrets: Secrets) -> bytes:
    return secrets.peppers.newest.digest("a key")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "data/secrets"
    first = open_secrets(directory)
    again = open_secrets(directory)
    secrets = (digest(first), first.ids_key, first.signing_key, first.envelope_key)
    assert secrets == (digest(again), again.ids_key, again.signing_key, again.envelope_key)
    assert len(set(secrets)) == 4
    assert {len(secret) for secret in secrets} == {32}
    assert mode(directory) == 0o700
    names = ("envelope_key", "ids_key", "pepper", "signing_key")
    assert sorted((path.name, mode(path)) for path in directory.iterdir()) == [(name, 0o600) for name in names]


def test_a_file_key_is_made_once_and_followed_by_the_next_when_it_is_asked_for(tmp_path: Path) -> None:
    first = open_file_keys(tmp_path / "secrets")
    assert list(first) == [1]
    assert open_file_keys(tmp_path / "secrets") == first

    assert add_file_key(tmp_path / "secrets") == 2
    both = open_file_keys(tmp_path / "secrets")
    assert (sorted(both), both[1]) == ([1, 2], first[1])
    assert both[2] != both[1]
    assert {mode(path) for path in (tmp_path / "secrets").iterdir()} == {0o600}

    (tmp_path / "secrets" / "file_key.1").unlink()
    assert open_file_keys(tmp_path / "secrets") == {2: both[2]}


def test_a_damaged_file_key_is_told_and_never_replaced(tmp_path: Path) -> None:
    open_file_keys(tmp_path)
    (tmp_path / "file_key.1").write_text("abcd\n")
    with pytest.raises(SecretsError, match="damaged"):
        open_file_keys(tmp_path)
    assert (tmp_path / "file_key.1").read_text() == "abcd\n"


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        peppers = {digest(each) for each in threads.map(open_secrets, [tmp_path / "secrets"] * 16)}
    assert len(peppers) == 1


def test_a_secret_does_not_show(tmp_path: Path) -> None:
    secrets = open_secrets(tmp_path / "secrets")
    told = f"{secrets} {secrets!r} {secrets.peppers!r} {secrets.peppers.newest!r}"
    for secret in (secrets.ids_key, bytes.fromhex((tmp_path / "secrets/pepper").read_text())):
        assert secret.hex() not in told
        assert str(secret) not in told


@pytest.mark.parametrize("bits", [0o750, 0o705])
def test_a_directory_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    directory = tmp_path / "secrets"
    open_secrets(directory)
    directory.chmod(bits)
    with pytest.raises(SecretsError, match=f"run chmod 700 {directory}"):
        open_secrets(directory)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_secrets(tmp_path / "secrets")
    (tmp_path / "secrets/pepper").chmod(0o644)
    with pytest.raises(SecretsError, match=r"run chmod 600 .*pepper"):
        open_secrets(tmp_path / "secrets")


@pytest.mark.parametrize("content", ["", "zz", "00ff"])
def test_a_damaged_secret_is_never_replaced(tmp_path: Path, content: str) -> None:
    open_secrets(tmp_path / "secrets")
    (tmp_path / "secrets/pepper").write_text(content)
    with pytest.raises(SecretsError, match="restore the directory from a backup"):
        open_secrets(tmp_path / "secrets")
    assert (tmp_path / "secrets/pepper").read_text() == content


def test_a_node_keeps_its_id(tmp_path: Path) -> None:
    first = open_node_id(tmp_path / "journal")
    assert len(first) == 16
    assert open_node_id(tmp_path / "journal") == first
    assert open_node_id(tmp_path / "other") != first


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return open_secrets(tmp_path / "secrets")


def test_a_plain_credential_moves_into_a_file(secrets: Secrets, tmp_path: Path) -> None:
    moved = with_references(catalogue_with("env:A", "plain:sk-canary"), secrets, document_dir=tmp_path)
    assert "canary" not in str(catalogue_document(moved))
    kept, reference = references_of(moved)
    assert kept == "env:A"
    assert CredentialReader({})(reference) == "sk-canary"
    path = Path(reference.removeprefix("file:"))
    assert path.parent.parent == secrets.directory
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_webhook_secrets_are_moved_as_credentials_are(secrets: Secrets, tmp_path: Path) -> None:
    catalogue = catalogue_with("env:A")
    jobs = JobSettings(webhook_secrets=("env:B", "plain:whsec_canary"))
    (provider,) = catalogue.providers
    provider = replace(provider, kind="replicate", jobs=jobs)
    moved = with_references(replace(catalogue, providers=(provider,)), secrets, document_dir=tmp_path)
    assert "canary" not in str(catalogue_document(moved))
    kept, reference = moved.providers[0].jobs.webhook_secrets
    assert kept == "env:B"
    assert CredentialReader({})(reference) == "whsec_canary"


def test_the_same_credential_is_the_same_reference_and_another_one_another(secrets: Secrets, tmp_path: Path) -> None:
    def reference_to(value: str) -> str:
        return references_of(with_references(catalogue_with(f"plain:{value}"), secrets, document_dir=tmp_path))[0]

    assert reference_to("a") == reference_to("a") != reference_to("b")


def test_a_credential_stays_in_the_file_that_an_earlier_version_named(secrets: Secrets, tmp_path: Path) -> None:
    """Other machines have copies of it, by that name, and the catalogue stays the same."""
    directory = secrets.directory / "credentials"
    directory.mkdir(mode=0o700)
    before = directory / "alpha-0123456789abcdef"
    for name in (before.name, "alpha-beta-0123456789abcdef", "alpha-note"):
        (directory / name).write_text("kept\n")
    references = references_of(with_references(catalogue_with("plain:kept"), secrets, document_dir=tmp_path))
    assert references == (f"file:{before}",)
    assert len(list(directory.iterdir())) == 3


def test_a_relative_path_counts_from_the_document(secrets: Secrets, tmp_path: Path) -> None:
    moved = with_references(catalogue_with("file:keys/alpha", "file:/run/key"), secrets, document_dir=tmp_path)
    assert references_of(moved) == (f"file:{tmp_path}/keys/alpha", "file:/run/key")


def test_a_credential_is_read_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    read = CredentialReader({"ALPHA": " sk-env "})
    assert (read("env:ALPHA"), read(f"file:{tmp_path / 'key'}")) == ("sk-env", "sk-file")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    read = CredentialReader({})
    assert read(f"file:{path}") == "one"
    assert not read.has_changed()
    replacement = tmp_path / "new"
    replacement.write_text("two")
    os.replace(replacement, path)
    assert read.has_changed()
    assert read(f"file:{path}") == "two"
    assert not read.has_changed()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:NONE", "the environment variable NONE is not set"),
        ("env:EMPTY", "the environment variable EMPTY is not set"),
        ("env:LINES", "LINES does not hold one line of printable ASCII"),
        ("file:{dir}/none", "{dir}/none cannot be read: No such file or directory"),
        ("file:{dir}/binary", "{dir}/binary does not hold one line of printable ASCII"),
        ("file:{dir}/long", "{dir}/long does not hold one line of printable ASCII"),
        ("plain:canary", "a credential is read from env:NAME or file:PATH"),
    ],
)
def test_a_credential_that_cannot_be_used_is_told_by_its_place(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xffcanary")
    (tmp_path / "long").write_text("canary" * 2000)
    read = CredentialReader({"EMPTY": " ", "LINES": "canary\r\nX-Other: canary"})
    with pytest.raises(LookupError) as caught:
        read(reference.format(dir=tmp_path))
    assert str(caught.value) == message.format(dir=tmp_path)
