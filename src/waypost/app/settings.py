"""Process settings: the command line, the environment, and the tables of `waypost.toml` that are no catalogue.

Read and checked at the start of a command, and again by gateways when the file changes.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import msgspec

from waypost.app.file_settings import FileSettings, read_files
from waypost.app.live_settings import TERMINATED, LiveSettings, read_live
from waypost.policy.table import Table

CONFIG_NAME = "waypost.toml"  # taken from the current directory when nothing else is said
_CATALOGUE_TABLES = ("providers", "models")  # of the same file, read by policy.document
VALKEY_WAIT_S = 0.02
VAULT_BYTES = 512 * 1024 * 1024
VAULT_SHARE = 50  # percent
VAULT_BYTES_BOUNDS = (1024 * 1024, 1024**4)
_VALKEY = re.compile(r"(?:valkeys?|rediss?|unix)://.+")
_PASSWORD = re.compile(r"(?<=:)[^:@/]*(?=@)|(?<=password=)[^&\s]*")


DURABILITIES = ("process", "power")


class SettingsError(Exception):
    """The settings are refused. `mistakes` are lines that each name what is wrong and where."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        super().__init__("; ".join(mistakes))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a process of ours is told from outside."""

    data_dir: Path
    secrets_dir: Path
    database_url: str | None  # None: the embedded PostgreSQL in the data directory
    config_path: Path | None
    durability: str  # of the journal: "process" or "power"
    valkey_url: str | None = None  # of the server that the nodes of a cluster share; None: this machine is alone
    valkey_wait_s: float = VALKEY_WAIT_S  # that a request waits for its count of a limit
    vault_bytes: int = VAULT_BYTES  # of payloads that the vault process holds at one time
    vault_share: int = VAULT_SHARE  # percent of them that one organisation's may take
    live: LiveSettings
    files: FileSettings

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in self.shown())})"

    def shown(self) -> list[tuple[str, str]]:
        """Name and value of each setting, with secrets masked."""
        masked = "embedded" if self.database_url is None else _PASSWORD.sub("•••", self.database_url)
        return [
            ("config", str(self.config_path or "none")),
            ("data_dir", str(self.data_dir)),
            ("database_url", masked),
            ("secrets_dir", str(self.secrets_dir)),
            ("journal.durability", self.durability),
            ("valkey_url", "none" if self.valkey_url is None else _PASSWORD.sub("•••", self.valkey_url)),
            ("valkey_wait_s", f"{self.valkey_wait_s:g}"),
            ("vault_bytes", str(self.vault_bytes)),
            ("vault_share", str(self.vault_share)),
            *self.live.shown(),
            *self.files.shown(),
        ]


def check_listening(settings: Settings, host: str) -> None:
    """Raises SettingsError when callers' keys would cross a network in the clear."""
    if not is_loopback(host) and settings.live.tls_mode == "none":
        raise SettingsError(
            f"{host} is reachable from other machines, and there is no TLS: set tls = {{ cert = …, key = … }} under "
            f'[server] of waypost.toml, or tls = "{TERMINATED}" when a proxy in front speaks it'
        )


def is_loopback(host: str) -> bool:
    """Whether a server that listens there is out of reach from other machines."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_settings(
    *,
    environment: Mapping[str, str],
    data_dir: Path | None = None,
    database_url: str | None = None,
    config_path: Path | None = None,
) -> Settings:
    """Settings from the command line (the arguments), the environment, and the configuration file.

    Raises SettingsError with every mistake of the file.
    """
    named_dir = data_dir or _path(environment.get("WAYPOST_DATA_DIR"))
    directory = (named_dir or default_data_dir(environment)).expanduser().absolute()
    url = database_url or environment.get("WAYPOST_DATABASE_URL") or None
    if url is not None:
        _check_database_url(url, environment)
    path = _find_config(config_path or _path(environment.get("WAYPOST_CONFIG")))
    mistakes: list[str] = []
    root = Table({} if path is None else read_toml(path), "", mistakes)
    server, egress, journal = root.table("server"), root.table("egress"), root.table("journal")
    directory_of_file = Path.cwd() if path is None else path.parent
    secrets_dir = server.text("secrets_dir", "")
    settings = Settings(
        data_dir=directory,
        secrets_dir=Path(secrets_dir).expanduser().absolute() if secrets_dir else directory / "secrets",
        database_url=url,
        config_path=path,
        durability=journal.one_of("durability", DURABILITIES, DURABILITIES[0]),
        valkey_url=_read_valkey_url(server),
        valkey_wait_s=server.number("valkey_wait_s", VALKEY_WAIT_S, least=0.001, most=5),
        vault_bytes=server.integer("vault_bytes", VAULT_BYTES, least=VAULT_BYTES_BOUNDS[0], most=VAULT_BYTES_BOUNDS[1]),
        vault_share=server.integer("vault_share", VAULT_SHARE, least=1, most=100),
        live=read_live(server, egress, root.table("webhooks"), directory_of_file),
        files=read_files(root.table("files"), directory_of_file),
    )
    journal.close()
    server.close()
    egress.close()
    for name in _CATALOGUE_TABLES:
        root.has(name)
    root.close()
    if mistakes:
        raise SettingsError(*(f"{path}: {mistake}" for mistake in mistakes))
    return settings


def read_toml(path: Path) -> dict[str, object]:
    """The parsed file. Raises SettingsError when it cannot be read or is not TOML; the text itself is not quoted,
    since it may hold a credential."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at (.*)\)$", str(error))
        raise SettingsError(f"{path}: is not valid TOML{f' (at {at[1]})' if at else ''}") from None


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`$XDG_DATA_HOME/waypost` (XDG Base Directory Specification: `~/.local/share` when unset or relative)."""
    base = Path(environment.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local/share") / "waypost"


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _check_database_url(url: str, environment: Mapping[str, str]) -> None:
    """Raises SettingsError when it is none, and when balances and keys' digests would cross a network in a way that
    nobody has chosen: PostgreSQL's own default speaks in the clear, or to whoever answers."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError("the database URL must begin with postgresql://")
    import psycopg  # noqa: PLC0415  a tenth of a second, which a command without a URL is spared
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        named = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:  # which quotes what it could not read
        raise SettingsError(
            "the database URL cannot be read: escape special characters of its parts by %, and use no parameters but "
            "those of PostgreSQL's libpq"
        ) from None
    if named.get("sslmode") or environment.get("PGSSLMODE"):
        return
    place = _remote_place(named, environment)
    if place is not None:
        raise SettingsError(
            f"the database at {place} may be on another machine: say in its URL how it is reached, by "
            "`?sslmode=verify-full&sslrootcert=FILE` (or `=system`), or by `?sslmode=disable` where nobody else is on "
            "the network between"
        )


def _remote_place(named: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """The first place out of this machine where libpq would look for the database; None when there is none.

    A variable counts when the URL does not name its parameter, and an address before the host that it belongs to:
    https://www.postgresql.org/docs/current/libpq-connect.html"""

    def said(name: str) -> str:
        return named.get(name, environment.get(f"PG{name.upper()}", ""))

    if said("service"):
        return f"service {said('service')}"  # whose file may name any host
    lists = said("host").split(","), said("hostaddr").split(",")
    places = [address or host for host, address in zip_longest(*lists, fillvalue="")]
    # Without a name it is the socket here; a path is a socket, and @ stands before an abstract one's name.
    return next((each for each in places if each and each[0] not in "/@" and not is_loopback(each)), None)


def _find_config(named: Path | None) -> Path | None:
    if named is not None:
        return named.expanduser().absolute()
    usual = Path.cwd() / CONFIG_NAME
    return usual if usual.exists() else None


def _read_valkey_url(server: Table) -> str | None:
    hint = 'an address such as "valkey://10.0.0.5:6379"; valkeys:// with TLS'
    url = server.text("valkey_url", "", hint=hint)
    if url and not _VALKEY.fullmatch(url):
        server.note("valkey_url", f"expected {hint}")
    return url or None
