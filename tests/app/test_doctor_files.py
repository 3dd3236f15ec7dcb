"""The doctor tries the file store, and says what is wrong with it and where to look."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.stores.bucket import serving
from waypost.app.doctor_files import file_store
from waypost.app.finding import Verdict
from waypost.app.settings import Settings, read_settings


def settings_of(tmp_path: Path, *lines: str) -> Settings:
    config = tmp_path / "waypost.toml"
    config.write_text("\n".join(("[files]", *lines)))
    return read_settings(environment={}, data_dir=tmp_path / "data", config_path=config)


def test_a_folder_that_works_is_fine_and_left_empty(tmp_path: Path) -> None:
    finding = file_store(settings_of(tmp_path))

    assert (finding.verdict, "MiB free" in finding.sentence) == (Verdict.FINE, True)
    assert [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_used_or_is_nearly_full_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
        assert file_store(settings_of(tmp_path)).verdict is Verdict.DOUBTFUL
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("no folder")
    assert file_store(settings_of(tmp_path)).verdict is Verdict.BAD


def test_a_bucket_is_tried_with_the_credentials_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "buckets") as bucket:
        lines = (
            'store = "s3"',
            f'endpoint = "{bucket.settings.endpoint}"',
            'access_key_id = "env:FILES_ID"',
            'secret_access_key = "env:FILES_SECRET"',
        )
        missing = file_store(settings_of(tmp_path, *lines, f'bucket = "{bucket.settings.bucket}"'))
        assert (missing.verdict, "FILES_ID is not set" in missing.sentence) == (Verdict.DOUBTFUL, True)
        monkeypatch.setenv("FILES_ID", "id")
        monkeypatch.setenv("FILES_SECRET", "very-secret")
        assert file_store(settings_of(tmp_path, *lines, f'bucket = "{bucket.settings.bucket}"')).verdict is Verdict.FINE
        nowhere = file_store(settings_of(tmp_path, *lines, 'bucket = "another"'))
        assert nowhere.verdict is Verdict.BAD
        assert "very-secret" not in nowhere.sentence
        assert (bucket.objects(), bucket.unfinished()) == ([], [])
