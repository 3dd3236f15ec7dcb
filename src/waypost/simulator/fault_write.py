"""Faults on the wire: an answer that is cut off, goes silent, trickles, or breaks HTTP's own framing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, takewhile

from waypost.simulator.fault import Fault
from waypost.simulator.reply import Ending, Framing, Reply, Stage, Write

# How the connection goes on after a cut.
_CUTS = {
    "reset": Ending.RESET,
    "half_close": Ending.HALF_CLOSE,
    "silence": Ending.HANG,
    "truncated_chunk": Ending.CLOSE,
    "bad_chunk_size": Ending.CLOSE,
}
_BROKEN_FRAMING = {
    "truncated_chunk": b'ff\r\n{"cut":',
    "bad_chunk_size": b'0xzz\r\n{"bad":1}\r\n',
}


def prepare(fault: Fault, reply: Reply) -> None:
    """What has to be known before the reply is put into HTTP: its framing, and what follows the last write."""
    if fault.kind in _BROKEN_FRAMING:
        reply.framing = Framing.CHUNKED
    if fault.kind in _CUTS and not fault.for_s:
        reply.ending = _CUTS[fault.kind]


def spoil_writes(fault: Fault, writes: Iterator[Write]) -> Iterator[Write]:
    """The writes after the fault; the same ones when the fault lies elsewhere."""
    match fault.kind:
        case "silence" if fault.for_s:
            return _delayed(writes, fault.stage, fault.for_s)
        case "slow":
            return _slowed(writes, fault.stage, 1 / fault.bytes_per_s)
        case "continue_100":
            interim = b"HTTP/1.1 100 Continue\r\n\r\n" * (fault.count_of or 1)
            return chain([Write(interim, Stage.HEAD)], writes)
        case kind if kind in _CUTS:
            kept = takewhile(lambda write: write.stage < fault.stage, writes)
            broken = _BROKEN_FRAMING.get(kind)
            return chain(kept, [Write(broken, fault.stage)] if broken is not None else [])
    return writes


def _delayed(writes: Iterator[Write], stage: Stage, for_s: float) -> Iterator[Write]:
    is_due = True
    for write in writes:
        if is_due and write.stage >= stage:
            write.pause_s += for_s
            is_due = False
        yield write


def _slowed(writes: Iterator[Write], stage: Stage, pause_s: float) -> Iterator[Write]:
    for write in writes:
        if write.stage < stage or not write.data:
            yield write
            continue
        for at in range(len(write.data)):
            yield Write(write.data[at : at + 1], write.stage, write.output_tokens if at == 0 else 0, pause_s)
