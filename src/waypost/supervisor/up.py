"""`waypost up`, top to bottom: lock, listen, database, catalogue, children, ready; and the way back on SIGTERM.

The public sockets are opened here and handed to the gateways, so that a restarted gateway finds the callers who came
meanwhile waiting in its queue. SIGHUP looks at the configuration file now, SIGUSR2 replaces the gateways one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from waypost.storage.database import DatabaseUnfit, migrate
from waypost.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from waypost.storage.roles import RolesMissing
from waypost.supervisor.child import Child, ChildFailed, ChildPlan
from waypost.supervisor.metrics_port import MetricsPort
from waypost.supervisor.public_port import PortUnusable, open_public_sockets, taken
from waypost.supervisor.workers import PathTooLong, Workers, WorkersPlan, check_socket_path
from waypost.telemetry.events import report_bug

WATCH_S = 1.0  # between looks at the configuration file and the embedded database
LOCK_NAME = "up.lock"  # in the data directory: holds the pid of the `up` that runs there


class UpRefused(Exception):
    """`up` cannot start. The message is a sentence for the operator, with what to do."""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `waypost up` was told. Port 0 takes any free one."""

    data_dir: Path
    database: EmbeddedPostgres | None  # None: conninfo names a server that somebody else runs
    conninfo: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9464
    workers: int = 1
    drain_s: Callable[[], float] = lambda: 30.0  # asked when a gateway is to end
    is_tls: bool = False  # of the public port
    config_path: Path | None = None  # watched
    gateway_command: tuple[str, ...] = ()  # to which it is told what it inherits by the environment
    control: ChildPlan | None = None  # the control process; started once the schema is there, at a Unix socket
    vault: ChildPlan | None = None  # the vault, beside them; the first to start and the last to end


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when everything is ready."""

    url: str
    metrics_url: str


Prepare = Callable[[str], None]
"""Given the database's conninfo, make what must be there before the gateways start. Runs in a thread, as does
the next."""

ApplyCatalogue = Callable[[str], Sequence[str]]
"""Given the database's conninfo, apply the configuration file's catalogue if its content changed since it was last
applied; returns the mistakes for which it was refused whole. May raise psycopg.OperationalError."""


def run_up(
    options: UpOptions,
    apply_catalogue: ApplyCatalogue | None,
    *,
    companions: Sequence[ChildPlan] = (),
    prepare: Prepare | None = None,
    on_ready: Callable[[Deployment], None] | None = None,
) -> int:
    """Run the deployment until SIGTERM or SIGINT; the exit code.

    `companions` are started beside the gateways and ended after them. `prepare` is called once the schema is there.
    `on_ready` is called once; by default it prints the ready line. Raises UpRefused.
    """
    _private_dir(options.data_dir)
    with _Lock(options.data_dir):
        try:
            return asyncio.run(_Up(options, apply_catalogue, companions).run(prepare, on_ready or _print_ready))
        except (EmbeddedPostgresError, DatabaseUnfit, RolesMissing, ChildFailed, PortUnusable) as error:
            raise UpRefused(str(error)) from None
        except PathTooLong:
            refusal = f"{options.data_dir} is too long a path for a Unix socket: give a shorter --data-dir."
            raise UpRefused(refusal) from None


def roll_running(data_dir: Path) -> int | None:
    """Ask the `up` of a data directory to replace its gateways one by one; its pid, None when none runs there."""
    pid = running_pid(data_dir)
    if pid is not None:
        os.kill(pid, signal.SIGUSR2)
    return pid


def running_pid(data_dir: Path) -> int | None:
    """The `up` that runs on a data directory."""
    try:
        with (data_dir / LOCK_NAME).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except OSError:
        return None
    return None


def _print_ready(deployment: Deployment) -> None:
    sys.stdout.write(f"waypost ready {deployment.url}\n")
    sys.stdout.flush()


class _Up:
    def __init__(
        self, options: UpOptions, apply_catalogue: ApplyCatalogue | None, companions: Sequence[ChildPlan]
    ) -> None:
        self._options = options
        self._apply_catalogue = apply_catalogue
        self._companions = [Child(plan) for plan in companions]
        self._control = [] if options.control is None else [Child(options.control)]
        self._vault = [] if options.vault is None else [Child(options.vault)]
        self._conninfo = options.conninfo
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        self._roll = asyncio.Event()

    async def run(self, prepare: Prepare | None, on_ready: Callable[[Deployment], None]) -> int:
        self._listen_to_signals()
        options = self._options
        sockets = open_public_sockets(options.host, options.port, options.workers)
        with contextlib.ExitStack() as open_sockets:
            for each in sockets:
                open_sockets.callback(each.close)
            workers = Workers(_workers_plan(options), sockets)
            metrics = MetricsPort(lambda: [*workers.all, *self._control, *self._vault, *self._companions])
            try:
                metrics_port = await metrics.listen(options.host, options.metrics_port)
            except OSError as error:
                raise UpRefused(taken(options.metrics_port, "--metrics-port", error)) from None
            port = sockets[0].getsockname()[1]
            deployment = Deployment(
                url=_url(options.host, port, is_tls=options.is_tls), metrics_url=_url(options.host, metrics_port)
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    for child in self._companions:
                        tasks.create_task(child.run())
                    await self._serve(tasks, workers, open_sockets, prepare, lambda: on_ready(deployment))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None  # the cause; the others were cancelled for it
            finally:
                await metrics.close()
                if options.database is not None:
                    await asyncio.to_thread(options.database.stop)
        return 0

    async def _serve(
        self,
        tasks: asyncio.TaskGroup,
        workers: Workers,
        open_sockets: contextlib.ExitStack,
        prepare: Prepare | None,
        on_ready: Callable[[], None],
    ) -> None:
        """From an empty machine to ready, until told to stop, and back."""
        try:
            await asyncio.to_thread(self._start_database)
            if prepare is not None:
                await asyncio.to_thread(prepare, self._conninfo)
            await asyncio.to_thread(self._apply)
            for child in [*self._vault, *self._control]:
                tasks.create_task(child.run())
            workers.start(tasks)
            tasks.create_task(self._watch())
            if await self._get_ready([*self._companions, *self._vault, *self._control, *workers.children]):
                on_ready()
                tasks.create_task(self._roll_when_asked(workers, tasks))
                await self._stopping.wait()
            open_sockets.close()  # from now on a caller is refused, and not left waiting
        finally:
            await workers.stop(self._hurry)
            await asyncio.gather(*(child.stop(self._hurry) for child in [*self._control, *self._companions]))
            await asyncio.gather(*(child.stop(self._hurry) for child in self._vault))

    async def _roll_when_asked(self, workers: Workers, tasks: asyncio.TaskGroup) -> None:
        """Replace the gateways one after the other, whenever the signal has come, until told to stop."""
        while True:
            await self._roll.wait()
            self._roll.clear()
            if self._stopping.is_set():
                return
            await workers.roll(tasks, self._hurry)

    async def _get_ready(self, children: Sequence[Child]) -> bool:
        """Whether everything got ready before somebody asked us to stop."""
        ready: asyncio.Future[Any] = asyncio.gather(*(child.wait_ready() for child in children))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return not self._stopping.is_set()

    def _start_database(self) -> None:
        if self._options.database is not None:
            self._conninfo = self._options.database.start()
        try:
            migrate(self._conninfo)
        except psycopg.OperationalError as error:
            raise UpRefused(f"The database does not answer ({type(error).__name__}): check its address.") from None

    def _apply(self) -> None:
        if self._apply_catalogue is not None:
            for mistake in self._apply_catalogue(self._conninfo):
                _tell(mistake)

    async def _watch(self) -> None:
        """Keep the embedded database alive, and follow the configuration file."""
        seen = _stamp(self._options.config_path)
        is_due = False
        while True:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._reload.wait()
            except TimeoutError:
                pass
            if self._stopping.is_set():
                return
            database = self._options.database
            if database is not None and not database.is_running:
                await asyncio.to_thread(self._revive, database)
            stamp = _stamp(self._options.config_path)
            is_due = is_due or stamp != seen or self._reload.is_set()
            self._reload.clear()
            seen = stamp
            if is_due:
                is_due = not await asyncio.to_thread(self._apply_again)

    def _apply_again(self) -> bool:
        """Whether that is settled; not so while the database is away."""
        try:
            self._apply()
        except psycopg.OperationalError:
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the process: what serves goes on serving
            report_bug(error)
        return True

    @staticmethod
    def _revive(database: EmbeddedPostgres) -> None:
        try:
            database.start()
        except EmbeddedPostgresError as error:
            _tell(str(error))

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.add_signal_handler(signal.SIGUSR2, self._roll.set)

    def _stop(self) -> None:
        """The first signal lets running requests end, the second does not."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._reload.set()  # wakes who watches,
        self._roll.set()  # and who waits to be asked


class _Lock:
    """One `up` per data directory, for as long as its process lives."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._data_dir = data_dir

    def __enter__(self) -> None:
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read().strip()
            raise UpRefused(
                f"Waypost already runs on {self._data_dir} (process {pid}): stop that one, or give another --data-dir."
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _workers_plan(options: UpOptions) -> WorkersPlan:
    run_dir = options.data_dir / "run"
    _private_dir(run_dir)
    for left in run_dir.glob("gateway-*.sock"):
        left.unlink()
    control = options.control
    for child in (control, options.vault):
        if child is not None and isinstance(child.address, Path):
            check_socket_path(child.address)
    return WorkersPlan(
        count=options.workers,
        command=options.gateway_command,
        run_dir=run_dir,
        drain_s=options.drain_s,
        control_socket="" if control is None else str(control.address),
    )


def _url(host: str, port: int, *, is_tls: bool = False) -> str:
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _private_dir(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def _tell(sentence: str) -> None:
    sys.stderr.write(f"waypost: {sentence}\n")
    sys.stderr.flush()
