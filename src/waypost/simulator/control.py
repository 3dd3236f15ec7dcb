"""The simulator's own endpoints under `/_sim/`: prices and bill, faults, options, and what was seen.

POST   /_sim/prices    {"model": {"input": "2.00", "cache_read": "0.20", "output": "8.00"}}   USD per million
GET    /_sim/prices
GET    /_sim/bill      totals, per model, in nano-USD; `?lines=1` lists every request, `&style=alpha` those of one
POST   /_sim/faults    one fault, see `fault.KINDS`;   GET: what is armed and what there is;   DELETE: clear
POST   /_sim/options   {"accepted_keys": ["…"], "cancel_stops_billing": false}
GET    /_sim/requests  the last requests without their bodies; `?last=N`
GET    /_sim/jobs      the jobs that were made, the newest last; `?last=N`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import parse_qs

import msgspec

from waypost.simulator.bill import BadPrice, Bill
from waypost.simulator.connection import HttpRequest
from waypost.simulator.fault import KINDS, BadFault, Fault, FaultBox
from waypost.simulator.job import SimJob
from waypost.simulator.provider import Options
from waypost.simulator.record import Record
from waypost.simulator.reply import Framing, Reply

PREFIX = "/_sim/"
_PRICES = msgspec.json.Decoder(dict[str, dict[str, str]])
_FAULT = msgspec.json.Decoder(Fault)
_OPTIONS = msgspec.json.Decoder(Options)
_ENCODER = msgspec.json.Encoder()


class Control:
    """Reads and changes what the simulator is told. Any field that is wrong is answered with 400 and why."""

    def __init__(
        self,
        *,
        bill: Bill,
        faults: FaultBox,
        records: Sequence[Record],
        jobs: Callable[[], Sequence[SimJob]],
        arm: Callable[[Fault], None],
        disarm: Callable[[], None],
        set_options: Callable[[Options], None],
    ) -> None:
        self._bill = bill
        self._faults = faults
        self._records = records
        self._jobs = jobs
        self._arm = arm
        self._disarm = disarm
        self._set_options = set_options

    def answer(self, request: HttpRequest) -> Reply:
        try:
            status, answer = self._answer(request)
        except (BadFault, BadPrice, msgspec.DecodeError, ValueError) as error:
            status, answer = 400, {"error": str(error)}
        body = _ENCODER.encode(answer) + b"\n"
        return Reply(status, [("Content-Type", "application/json")], document=body, framing=Framing.LENGTH)

    def _answer(self, request: HttpRequest) -> tuple[int, object]:
        query = parse_qs(request.query)
        match request.method, request.path.removeprefix(PREFIX):
            case "GET", "bill":
                return 200, self._bill.report(has_lines=query.get("lines") == ["1"], style=query.get("style", [""])[0])
            case "GET", "prices":
                return 200, self._bill.prices()
            case "POST", "prices":
                self._bill.set_prices(_PRICES.decode(request.body))
                return 200, self._bill.prices()
            case "GET", "faults":
                return 200, {"armed": self._faults.armed, "kinds": KINDS}
            case "POST", "faults":
                self._arm(_FAULT.decode(request.body))
                return 200, {"armed": self._faults.armed}
            case "DELETE", "faults":
                self._disarm()
                return 200, {"armed": []}
            case "POST", "options":
                options = _OPTIONS.decode(request.body)
                self._set_options(options)
                return 200, options
            case "GET", "requests":
                last = int(query.get("last", ["10000"])[0])
                return 200, {"requests": [record.shown() for record in list(self._records)[-last:]]}
            case "GET", "jobs":
                last = int(query.get("last", ["10000"])[0])
                return 200, {"jobs": [job.shown() for job in self._jobs()[-last:]]}
        return 404, {"error": f"there is no {request.method} {request.path}"}
