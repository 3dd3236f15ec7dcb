"""Process settings: where they come from, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.policy.samples import FULL
from waypost.app.settings import Settings, SettingsError, default_data_dir, is_loopback, read_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current directory without a waypost.toml."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def read(text: str, directory: Path) -> Settings:
    path = directory / "waypost.toml"
    path.write_text(text)
    return read_settings(environment={}, data_dir=directory / "data", config_path=path)


def mistakes_of(text: str, directory: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(text, directory)
    return [mistake.removeprefix(f"{directory / 'waypost.toml'}: ") for mistake in caught.value.mistakes]


def test_nothing_said_is_an_embedded_database_below_the_data_directory(tmp_path: Path) -> None:
    settings = read_settings(environment={"XDG_DATA_HOME": str(tmp_path)})
    assert settings.data_dir == tmp_path / "waypost"
    assert settings.secrets_dir == tmp_path / "waypost/secrets"
    assert (settings.database_url, settings.config_path, settings.live.public_url) == (None, None, None)
    assert settings.live.drain_s == 30


def test_a_relative_xdg_directory_counts_as_unset() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "data"}) == Path.home() / ".local/share/waypost"


def test_the_command_line_comes_before_the_environment(tmp_path: Path) -> None:
    environment = {"WAYPOST_DATA_DIR": "/environment", "WAYPOST_DATABASE_URL": "postgresql:///environment"}
    from_environment = read_settings(environment=environment)
    assert (from_environment.data_dir, from_environment.database_url) == (
        Path("/environment"),
        "postgresql:///environment",
    )
    said = read_settings(environment=environment, data_dir=tmp_path, database_url="postgresql:///said")
    assert (said.data_dir, said.database_url) == (tmp_path, "postgresql:///said")


def test_the_file_of_the_current_directory_is_taken_when_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("waypost.toml").write_text("[server]\ndrain_s = 3")
    assert read_settings(environment={}).live.drain_s == 3
    Path("other.toml").write_text("[server]\ndrain_s = 4")
    assert read_settings(environment={"WAYPOST_CONFIG": "other.toml"}).live.drain_s == 4


def test_the_file_is_understood(tmp_path: Path) -> None:
    text = f"""
    {FULL.replace("[server]", "")}
    [egress]
    allow = []
    """
    settings = read(
        '[server]\npublic_url = "https://ai.example.org/"\nsecrets_dir = "/etc/waypost"\ntls = "terminated"\n'
        'trusted_proxies = []\nvalkey_url = ""\ncors_origins = []\n' + text,
        tmp_path,
    )
    assert settings.live.public_url == "https://ai.example.org"
    assert settings.secrets_dir == Path("/etc/waypost")
    assert settings.live.is_tls_terminated


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\ndrain = 30", "server.drain: unknown field; did you mean 'drain_s'?"),
        ("[srever]\n", "srever: unknown field; did you mean 'server'?"),
        ("[egress]\nalow = []", "egress.alow: unknown field; did you mean 'allow'?"),
        ("[server]\ndrain_s = '30'", "server.drain_s: expected a number, got a string"),
        ("[server]\ndrain_s = 601", "server.drain_s: expected a number from 0 to 600, got 601"),
        ("server = 1", "server: expected a table, got an integer"),
        (
            "[server]\npublic_url = 'ai.example.org'",
            'server.public_url: expected an address such as "https://ai.example.org"',
        ),
        (
            "[server]\npublic_url = 'http://u:p@h'",
            'server.public_url: expected an address such as "https://ai.example.org"',
        ),
        ("[server.tls]\ncert = 'a'", "server.tls.key: missing; expected the path of a PEM file"),
        ("[server]\ntls = 'on'", 'server.tls: expected { cert = "…", key = "…" }, or "terminated" behind a proxy'),
        (
            "[server]\ntrusted_proxies = ['10.0.0.1/8']",
            (
                'server.trusted_proxies[0]: expected an address or a network such as "10.0.0.0/8", '
                "without bits set behind its mask"
            ),
        ),
        (
            "[server]\ncors_origins = ['*']",
            (
                'server.cors_origins[0]: expected an origin such as "https://app.example.org": '
                "in small letters, no path, each named (no *)"
            ),
        ),
        (
            "[server.limits]\nbody_bytes = 1",
            "server.limits.body_bytes: expected an integer from 1024 to 268435456, got 1",
        ),
        ("[server.limits]\nhead_s = 0", "server.limits.head_s: expected a number from 1 to 120, got 0"),
        (
            "[egress]\nproxy = 'socks5://h:1'",
            'egress.proxy: expected an address such as "http://proxy.example.org:3128", with its port',
        ),
        (
            "[server]\nvalkey_url = 'http://h'",
            'server.valkey_url: expected an address such as "valkey://10.0.0.5:6379"; valkeys:// with TLS',
        ),
        (
            "[egress]\nallow = ['hooks.lan', '10.0.0.1/8']",
            'egress.allow[1]: expected a host, host:port, or a network such as "10.0.0.0/8"',
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    assert mistakes_of(text, tmp_path) == [message]


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    assert len(mistakes_of("[server]\ndrain = 1\npublic_url = 2\n[egress]\nalow = 1", tmp_path)) == 3


def test_a_file_that_is_no_toml_is_refused_without_quoting_it(tmp_path: Path) -> None:
    (mistake,) = mistakes_of('[server]\napi_key = "canary', tmp_path)
    assert mistake.startswith("is not valid TOML (at ")
    assert "canary" not in mistake
    (tmp_path / "waypost.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        read_settings(environment={}, config_path=tmp_path / "waypost.toml")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read: No such file or directory"):
        read_settings(environment={}, config_path=tmp_path / "none.toml")


def test_a_database_url_must_be_one() -> None:
    with pytest.raises(SettingsError, match="must begin with postgresql://"):
        read_settings(environment={"WAYPOST_DATABASE_URL": "mysql://h"})


@pytest.mark.parametrize(
    ("url", "environment", "host"),
    [
        ("postgresql://waypost@db.internal/waypost", {}, "db.internal"),
        ("postgres://db.internal:5433", {}, "db.internal"),
        ("postgresql://waypost:secret@10.0.0.5:5432/waypost?application_name=x", {}, "10.0.0.5"),
        ("postgresql://[2001:db8::5]:5432/waypost", {}, "2001:db8::5"),
        ("postgresql://localhost,db.internal:5433/waypost", {}, "db.internal"),
        ("postgresql:///waypost?host=db.internal", {}, "db.internal"),
        ("postgresql://localhost/waypost?hostaddr=10.0.0.5", {}, "10.0.0.5"),
        ("postgresql://localhost%2Cdb.internal/waypost", {}, "db.internal"),
        ("postgresql://127.0.0.1.example.org/waypost", {}, "127.0.0.1.example.org"),
        ("postgresql:///waypost", {"PGHOST": "db.internal"}, "db.internal"),
        ("postgresql:///waypost", {"PGHOSTADDR": "10.0.0.5"}, "10.0.0.5"),
        ("postgresql://localhost/waypost", {"PGHOSTADDR": "10.0.0.5"}, "10.0.0.5"),
        ("postgresql:///waypost?service=far", {}, "service far"),
        ("postgresql://localhost/waypost", {"PGSERVICE": "far"}, "service far"),
        ("postgresql://db.internal/waypost?sslmode=verify-full&sslrootcert=system", {}, None),
        ("postgresql://db.internal/waypost?sslmode=disable", {}, None),
        ("postgresql://db.internal/waypost", {"PGSSLMODE": "verify-full"}, None),
        ("postgresql:///waypost?service=far&sslmode=disable", {}, None),
        ("postgresql:///waypost", {}, None),
        ("postgresql://:5433/waypost", {}, None),
        ("postgresql://LOCALHOST/waypost", {}, None),
        ("postgresql://127.8.8.8,/waypost", {}, None),
        ("postgresql:///waypost?host=::1", {}, None),
        ("postgresql:///waypost?hostaddr=::1", {}, None),
        ("postgresql:///waypost?hostaddr=::1", {"PGHOST": "db.internal"}, None),
        ("postgresql://localhost/waypost", {"PGHOST": "db.internal"}, None),
        ("postgresql:///waypost", {"PGHOST": "@abstract"}, None),
        ("postgresql://waypost@localhost:5432/waypost", {}, None),
        ("postgresql://127.0.0.1,[::1]:5433/waypost", {}, None),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/waypost", {}, None),
        ("postgresql:///waypost?host=%2Frun%2Fpostgresql&port=5433", {}, None),
    ],
)
def test_how_a_database_on_another_machine_is_reached_has_to_be_said(
    url: str, environment: dict[str, str], host: str | None
) -> None:
    if host is None:
        assert read_settings(environment={**environment, "WAYPOST_DATABASE_URL": url}).database_url == url
        return
    with pytest.raises(SettingsError, match=f"the database at {re.escape(host)} may be on another machine") as refused:
        read_settings(environment={**environment, "WAYPOST_DATABASE_URL": url})
    assert "secret" not in str(refused.value)


def test_a_database_url_that_cannot_be_read_is_refused_without_quoting_it() -> None:
    for url in ("postgresql://waypost:can%zzary@localhost/w", "postgresql://[::1:canary/w", "postgresql:///w?canary=1"):
        with pytest.raises(SettingsError, match="the database URL cannot be read") as refused:
            read_settings(environment={"WAYPOST_DATABASE_URL": url})
        assert "ary" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://waypost:canary@[::1]:5432/waypost", "postgresql://waypost:•••@[::1]:5432/waypost"),
        ("postgresql://waypost@db/waypost?password=canary&sslmode=require", "?password=•••&sslmode=require"),
        ("postgresql://localhost/waypost", "postgresql://localhost/waypost"),
    ],
)
def test_the_database_password_is_never_shown(url: str, shown: str) -> None:
    settings = read_settings(environment={"WAYPOST_DATABASE_URL": url})
    assert dict(settings.shown())["database_url"].endswith(shown)
    assert "canary" not in f"{settings!r} {settings}"


def test_what_counts_as_loopback() -> None:
    hosts = ("127.0.0.1", "127.9.9.9", "localhost", "Localhost", "::1", "0.0.0.0", "10.0.0.1", "127.example.org")
    assert [is_loopback(host) for host in hosts] == [True] * 5 + [False] * 3
