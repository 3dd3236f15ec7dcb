"""The simulated providers themselves: from a request to an answer in the provider's style, billed and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from waypost.kit.clock import Clock
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.simulator.answer import Answer, answer_to
from waypost.simulator.bill import Bill, Line
from waypost.simulator.connection import Connection, HttpRequest
from waypost.simulator.directive import Directives
from waypost.simulator.fault import Fault, FaultBox
from waypost.simulator.fault_reply import Turn, error_reply, page, spoil_reply
from waypost.simulator.fault_told import spoil_telling
from waypost.simulator.fault_write import prepare, spoil_writes
from waypost.simulator.record import Record
from waypost.simulator.reply import Ending, Framing, Piece, Reply, Stage, Write, writes
from waypost.simulator.request import InvalidRequest
from waypost.simulator.style import Complaint, Identity, Style, Telling
from waypost.simulator.style_alpha import Alpha
from waypost.simulator.style_beta import Beta
from waypost.simulator.style_delta import Delta
from waypost.simulator.style_embeddings import EMBEDDING_STYLES
from waypost.simulator.style_epsilon import Epsilon
from waypost.simulator.style_eta import Eta
from waypost.simulator.style_gamma import Gamma
from waypost.simulator.style_images import AlphaImages, BetaImages
from waypost.simulator.style_responses import AlphaResponses, GammaResponses
from waypost.simulator.style_zeta import Zeta

STYLES: tuple[Style, ...] = (
    *(Beta(), Gamma(), Delta(), Epsilon(), Zeta(), Eta(), Alpha()),
    *(GammaResponses(), AlphaResponses()),
    *(BetaImages(), AlphaImages()),
    *EMBEDDING_STYLES,
)
_MODELS = ("sim-large", "sim-small")  # listed beside those that have a price; any name is answered


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """What the providers do. `accepted_keys` empty: any credential is fine, as long as there is one."""

    accepted_keys: list[str] = []
    cancel_stops_billing: bool = True


class Providers:
    """Answers what is asked of any of the providers."""

    def __init__(self, *, options: Options, faults: FaultBox, bill: Bill, ids: Ids, clock: Clock) -> None:
        self.options = options
        self._faults = faults
        self._bill = bill
        self._ids = ids
        self._clock = clock

    def serve(self, connection: Connection, request: HttpRequest, style: Style, exchange: Exchange) -> None:
        """Plays an answer to any request under the style's prefix."""
        identity = Identity(self._ids.new().hex(), self._clock.unix_ns() // 1_000_000_000, "")
        fields = request.fields
        path = request.path.removeprefix(style.prefix)
        complaint = self._unauthorized(style.credential(fields)) or style.complains(fields)
        if complaint is None and style.takes(request.method, path):
            try:
                asked, directives = style.read(path, request.body)
                answer = answer_to(asked, directives)
            except InvalidRequest as error:
                complaint = Complaint(400, str(error))
            else:
                identity = replace(identity, model=asked.model)
                turn = Turn(style, identity, asked, answer, fields)
                self._complete(connection, request, turn, directives, exchange)
                return
        document: object = complaint
        if complaint is None:
            document = style.page(request.method, path, request.body, self._models())
        if isinstance(document, Complaint):
            reply = error_reply(style, identity, document)
        else:
            reply = page(style, identity, 200, "application/json", style.encode(document))
        exchange.record.status = reply.status
        play(connection, request, reply, None, exchange)

    def _complete(
        self, connection: Connection, request: HttpRequest, turn: Turn, directives: Directives, exchange: Exchange
    ) -> None:
        asked, style = turn.request, turn.style
        fault = self._faults.take_for_request(model=asked.model, style=style.name, is_stream=asked.is_stream)
        telling = Telling(is_usage_wanted=asked.is_usage_wanted)
        if fault is not None:
            spoil_telling(fault, telling, style)
        reply = _completion(turn, telling, directives)
        if fault is not None:
            reply = spoil_reply(fault, turn, reply)
            prepare(fault, reply)
        record = exchange.record
        record.model, record.is_stream, record.status = asked.model, asked.is_stream, reply.status
        record.fault = fault.kind if fault is not None else ""
        record.answer_id = style.answer_id(turn.identity)
        if reply.is_billable:
            cancel_stops_billing = self.options.cancel_stops_billing
            now_ns = self._clock.unix_ns()
            exchange.charge(turn.answer, style.name, cancel_stops_billing=cancel_stops_billing, now_ns=now_ns)
        play(connection, request, reply, fault, exchange)

    def is_authorized(self, credential: str) -> bool:
        return bool(credential) and (not self.options.accepted_keys or credential in self.options.accepted_keys)

    def _unauthorized(self, credential: str) -> Complaint | None:
        if not credential:
            return Complaint(401, "You didn't provide an API key.")
        if not self.is_authorized(credential):
            return Complaint(401, "Incorrect API key provided.")
        return None

    def _models(self) -> list[str]:
        return list(dict.fromkeys((*self._bill.models, *_MODELS)))


class Exchange:
    """One request from its arrival to its end: keeps the record and the bill while the answer plays."""

    def __init__(self, record: Record, bill: Bill, on_change: Callable[[], None]) -> None:
        self.record = record
        self._bill = bill
        self._on_change = on_change
        self._answer: Answer | None = None
        self._style = ""
        self._cancel_stops_billing = True
        self._line: Line | None = None
        self._asked_at = ""

    def charge(self, answer: Answer, style: str, *, cancel_stops_billing: bool, now_ns: int) -> None:
        """The answer costs something from its first output on."""
        self._asked_at = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).isoformat()
        self._answer = answer
        self._style = style
        self._cancel_stops_billing = cancel_stops_billing

    def on_write(self, write: Write) -> None:
        if write.data and not self.record.first_byte_s:
            self.record.first_byte_s = time.monotonic()
        # An answer without any output is billed too, once it is complete.
        if self._answer is not None and (write.output_tokens or write.stage >= Stage.USAGE):
            if self._line is None:
                self._line = self._bill.open(
                    answer_id=self.record.answer_id,
                    style=self._style,
                    model=self.record.model,
                    tokens=self._answer.tokens,
                    at=self._asked_at,
                )
            self._line.output_tokens += write.output_tokens

    def on_closed(self, *, is_early: bool) -> None:
        self.record.closed_s = time.monotonic()
        self.record.is_closed_early = is_early
        if self._line is not None:
            if is_early and not self._cancel_stops_billing and self._answer is not None:
                self._line.output_tokens = self._answer.tokens.output
            self._bill.close(self._line)
        self._on_change()


def style_of(method: str, path: str) -> Style | None:
    """Who answers a request: of the styles that its path belongs to, the one that takes it, else the first."""
    known = [style for style in STYLES if path.startswith(style.prefix + "/")]
    taking = (style for style in known if style.takes(method, path.removeprefix(style.prefix)))
    return next(taking, known[0] if known else None)


def _completion(turn: Turn, telling: Telling, directives: Directives) -> Reply:
    style, answer = turn.style, turn.answer
    first_s, delay_s = directives.first_ms / 1000, directives.delay_ms / 1000
    if turn.request.is_stream:
        return Reply(
            status=200,
            headers=style.headers(turn.identity, "text/event-stream"),
            events=style.events(answer, turn.identity, telling, first_s=first_s, delay_s=delay_s),
            is_billable=True,
            group=style.group,
            split=style.split,
            is_hex_upper=style.is_hex_upper,
        )
    return Reply(
        status=200,
        headers=style.headers(turn.identity, "application/json"),
        document=style.document(answer, turn.identity, telling),
        framing=Framing.LENGTH,
        is_billable=True,
        thinking=_thinking(answer.tokens.output, first_s=first_s, delay_s=delay_s),
    )


def _thinking(tokens: int, *, first_s: float, delay_s: float) -> Iterator[Piece]:
    """Output that nobody sees yet."""
    if not delay_s:
        if tokens:
            yield Piece(b"", Stage.THINKING, tokens, first_s)
        return
    for at in range(tokens):
        yield Piece(b"", Stage.THINKING, 1, delay_s if at else first_s)


def play(connection: Connection, request: HttpRequest, reply: Reply, fault: Fault | None, exchange: Exchange) -> None:
    """Send a reply with the fault that it suffers."""
    ending = reply.ending
    if ending is Ending.KEEP_ALIVE and (not request.is_kept_alive or reply.framing is Framing.UNTIL_CLOSE):
        ending = Ending.CLOSE
    sent = writes(reply, request.is_kept_alive)
    connection.play(sent if fault is None else spoil_writes(fault, sent), ending, exchange)
