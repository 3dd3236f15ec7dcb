"""The command line, run in this process on a database of the test's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from waypost.app.secrets import open_secrets
from waypost.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stdout, of a command that was done."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return self.out.strip()

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Waypost = Callable[..., Done]


def url_of(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    name = parts.pop("dbname")
    return f"postgresql:///{name}?" + "&".join(f"{key}={quote(str(value), safe='')}" for key, value in parts.items())


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no setting in the environment."""
    for name in ("WAYPOST_DATA_DIR", "WAYPOST_DATABASE_URL", "WAYPOST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Waypost:
    """Run the command line with these words."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["waypost", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def waypost(run: Waypost, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waypost:
    """The same, on a database and a data directory of the test's own, with the secrets that a deployment has."""
    monkeypatch.setenv("WAYPOST_DATABASE_URL", url_of(database))
    monkeypatch.setenv("WAYPOST_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir(0o700)
    open_secrets(tmp_path / "data" / "secrets")
    return run


@pytest.fixture
def org(waypost: Waypost) -> str:
    return waypost("org", "create", "acme").line
