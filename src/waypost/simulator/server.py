"""The simulator as a whole: a listener, its connections, and the handle that tests hold."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec
import uvloop

from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.simulator.bill import Bill
from waypost.simulator.connection import Connection, HttpRequest
from waypost.simulator.control import PREFIX, Control
from waypost.simulator.door import Door
from waypost.simulator.fault import BEFORE_CONNECT, Fault, FaultBox, checked
from waypost.simulator.fault_write import prepare
from waypost.simulator.job import SimJob
from waypost.simulator.job_provider import JobProviders
from waypost.simulator.job_style import JOB_STYLES
from waypost.simulator.provider import STYLES, Exchange, Options, Providers, play, style_of
from waypost.simulator.record import RECORDS_MAX, Record
from waypost.simulator.reply import Ending, Framing, Reply, Write, writes

DEFAULT_PORT = 9100
_REFUSED_S = 1.0
_CONNECT_ENDINGS = {
    "reset": Ending.RESET,
    "half_close": Ending.HALF_CLOSE,
    "black_hole": Ending.HANG,
}


class Simulator:
    """Three providers on one port.

        async with Simulator() as sim:
            sim.set_prices({"sim-large": {"input": "2.00", "output": "8.00"}})
            sim.arm("reset", phase="mid")
            ...                              # talk to sim.base_url("beta")
            assert sim.requests[-1].body == ...
            assert sim.bill.nanos == ...

    `keep_bodies` keeps the bodies of the last 10,000 requests in memory.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        accepted_keys: Iterable[str] = (),
        cancel_stops_billing: bool = True,
        keep_bodies: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.bill = Bill()
        self.requests: deque[Record] = deque(maxlen=RECORDS_MAX)
        self._faults = FaultBox()
        options = Options(accepted_keys=list(accepted_keys), cancel_stops_billing=cancel_stops_billing)
        self._providers = Providers(
            options=options, faults=self._faults, bill=self.bill, ids=Ids(), clock=SystemClock()
        )
        self._changed = asyncio.Event()
        self._job_providers = JobProviders(
            faults=self._faults,
            bill=self.bill,
            ids=Ids(),
            clock=SystemClock(),
            base_url=lambda: self.url,
            is_authorized=self._providers.is_authorized,
            on_change=self._changed.set,
        )
        self._control = Control(
            bill=self.bill,
            faults=self._faults,
            records=self.requests,
            jobs=lambda: self.jobs,
            arm=self._arm,
            disarm=self.disarm,
            set_options=self._set_options,
        )
        self._keep_bodies = keep_bodies
        self._requests_seen = 0
        self._connections: set[Connection] = set()
        self._door = Door(lambda: Connection(self))

    # For tests

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def base_url(self, style: str = "alpha") -> str:
        """What a client of the style's kind takes as its base URL."""
        prefixes = {each.name: each.prefix for each in STYLES} | {each.name: each.prefix for each in JOB_STYLES}
        return self.url + prefixes[style]

    @property
    def jobs(self) -> list[SimJob]:
        """Every job that was made, the newest last."""
        return list(self._job_providers.jobs.values())

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def armed(self) -> list[dict[str, object]]:
        """The armed faults with their `hits`."""
        return self._faults.armed

    def arm(self, kind: str, **fields: object) -> None:
        """Arms a fault; fields as in `POST /_sim/faults`. Raises BadFault, or msgspec.ValidationError."""
        self._arm(msgspec.convert({"kind": kind, **fields}, Fault))

    def disarm(self) -> None:
        """Clears all faults, and listens again if connects were refused."""
        self._faults.clear()
        self._door.open()

    def set_prices(self, prices: Mapping[str, Mapping[str, str]]) -> None:
        """As `Bill.set_prices`."""
        self.bill.set_prices(prices)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Returns as soon as the condition holds; it is asked again whenever a request, answer or connection begins
        or ends. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    # Life

    async def __aenter__(self) -> Simulator:
        self.port = await self._door.start(self.host, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._door.stop()
        await self._job_providers.stop()
        for connection in list(self._connections):
            connection.transport.abort()
        await self.until(lambda: not self._connections)

    # Connections

    def on_connect(self, connection: Connection) -> Ending:
        self._connections.add(connection)
        self._changed.set()
        fault = self._faults.take_for_connection()
        return Ending.KEEP_ALIVE if fault is None else _CONNECT_ENDINGS[fault.kind]

    def on_request(self, connection: Connection, request: HttpRequest) -> None:
        if request.path.startswith(PREFIX):
            _send(connection, request, self._control.answer(request))
            return
        is_of_jobs = self._job_providers.takes(request.path)
        style = None if is_of_jobs else style_of(request.method, request.path)
        if style is None and not is_of_jobs:
            reply = Reply(404, [("Content-Type", "text/plain")], document=b"not found\n", framing=Framing.LENGTH)
            _send(connection, request, reply)
            return
        self._requests_seen += 1
        record = Record(
            number=self._requests_seen,
            style=self._job_providers.style_name(request.path) if style is None else style.name,
            method=request.method,
            path=request.path,
            headers=request.headers,
            arrived_s=time.monotonic(),
            body=request.body if self._keep_bodies else b"",
        )
        self.requests.append(record)
        exchange = Exchange(record, self.bill, self._changed.set)
        if style is not None:
            self._providers.serve(connection, request, style, exchange)
        else:
            reply, fault = self._job_providers.answer(request, record)
            record.status = reply.status
            if fault is not None:
                prepare(fault, reply)
            play(connection, request, reply, fault, exchange)
        self._changed.set()

    def on_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    # Control

    def _arm(self, fault: Fault) -> None:
        fault = checked(fault)
        if fault.phase == BEFORE_CONNECT:
            # A caller that kept a connection would never meet the fault.
            for connection in list(self._connections):
                if connection.is_idle:
                    connection.transport.close()
        if fault.kind == "refuse":
            self._door.refuse(_REFUSED_S if fault.for_s is None else fault.for_s)
        else:
            self._faults.arm(fault)

    def _set_options(self, options: Options) -> None:
        self._providers.options = options


async def serve(host: str = "127.0.0.1", port: int = DEFAULT_PORT, *, cancel_stops_billing: bool = True) -> None:
    """Serves until SIGTERM or SIGINT; prints one line when ready. Raises OSError when the port is taken."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with Simulator(host=host, port=port, cancel_stops_billing=cancel_stops_billing, keep_bodies=False) as sim:
        sys.stdout.write(f"waypost sim ready {sim.url}\n")
        sys.stdout.flush()
        await stopped.wait()


def run(port: int = DEFAULT_PORT, host: str = "127.0.0.1") -> None:
    """`waypost sim`: blocks until it is told to stop."""
    uvloop.run(serve(host, port))


class _Unheard:
    """Nobody listens to how an answer of the control paths goes."""

    def on_write(self, write: Write) -> None: ...

    def on_closed(self, *, is_early: bool) -> None: ...


def _send(connection: Connection, request: HttpRequest, reply: Reply) -> None:
    ending = Ending.KEEP_ALIVE if request.is_kept_alive else Ending.CLOSE
    connection.play(writes(reply, request.is_kept_alive), ending, _Unheard())
