"""`[files]`: what it may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from waypost.app.file_settings import FileSettings
from waypost.app.settings import SettingsError, read_settings


def read(tmp_path: Path, text: str) -> FileSettings:
    config = tmp_path / "waypost.toml"
    config.write_text(f"[files]\n{text}")
    return read_settings(environment={}, data_dir=tmp_path, config_path=config).files


def test_files_stand_in_the_data_directory_unless_a_bucket_is_named(tmp_path: Path) -> None:
    assert read(tmp_path, "") == FileSettings()
    found = read(
        tmp_path,
        'store = "s3"\nbucket = "b-1"\nendpoint = "https://s3.example.org"\nregion = "eu"\n'
        'access_key_id = "env:ID"\nsecret_access_key = "file:secret"\nttl_days = 7\n',
    )
    assert (found.bucket, found.endpoint, found.region) == ("b-1", "https://s3.example.org", "eu")
    assert (found.access_key_id, found.secret_access_key) == ("env:ID", f"file:{tmp_path / 'secret'}")
    assert found.bounds.ttl_days == 7
    assert "secret" not in str(found.shown())


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('store = "gcs"', "files.store"),
        ('store = "s3"', "files.bucket: missing"),
        ('store = "s3"\nbucket = "b-1"', "files.access_key_id: missing"),
        ('store = "s3"\nbucket = "b-1"\naccess_key_id = "AKIA1"\nsecret_access_key = "env:X"', "files.access_key_id"),
        ('bucket = "b-1"', 'files.bucket: means nothing for the store "local"'),
        ('store = "s3"\nbucket = "../b"\naccess_key_id = "env:A"\nsecret_access_key = "env:X"', "files.bucket"),
        ("ttl_days = 366", "files.ttl_days"),
        ("bytes_max = 1", "files.bytes_max"),
        ("surprise = 1", "files.surprise: unknown field"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_quoted(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)

    assert any(mistake in each for each in caught.value.mistakes), caught.value.mistakes
    assert "AKIA1" not in str(caught.value)
