"""Before a 402 the input is counted: what its bytes bounded too high may be affordable."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from tests.policy.samples import catalogue_of, minimal_model
from tests.wire.samples import AROUND
from waypost.dispatch.counting import BEFORE_CALLS_MAX, Counting
from waypost.dispatch.ports import Admission, Candidate, Offer
from waypost.gateway.recount import recounted
from waypost.metering.ceiling import Ceiling
from waypost.metering.estimate import upper_bound
from waypost.metering.price import price_row
from waypost.metering.tokens import TokenCounter
from waypost.wire.formats import FORMATS

pytestmark = pytest.mark.interpreted_only("a candidate without a route, which a compiled one refuses to be")

PRICES = price_row({"input": 2_000_000_000, "output": 8_000_000_000})
MODEL = catalogue_of(minimal_model("m")).models[0]
PROSE = "All the world's a stage, and all the men and women merely players. " * 100


def admission_of(text: Any) -> Admission:
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})
    request = FORMATS[next(iter(FORMATS))].read(body, AROUND)
    ceiling = Ceiling(request.text_bytes, 100)
    nothing: Any = None
    offer = Offer(model=MODEL, prices=PRICES, ceiling=ceiling, output_tokens_max=100, input_estimate=1)
    return Admission(
        request=request,
        price_version=1,
        first=Candidate(nothing, offer),
        offers=(offer,),
        ranked=lambda _, __: [],
        hold_nanos=upper_bound(ceiling, PRICES),
    )


async def test_prose_takes_a_third_of_what_its_bytes_would() -> None:
    before = admission_of(PROSE)
    after = await recounted(before, Counting())
    tokens = TokenCounter().count([PROSE])
    assert tokens < after.offers[0].ceiling.input_tokens_max < before.offers[0].ceiling.input_tokens_max // 2
    assert after.first.offer is after.offers[0]
    assert after.hold_nanos == upper_bound(after.offers[0].ceiling, PRICES) < before.hold_nanos


async def test_a_short_request_is_not_counted() -> None:
    counting = Counting()
    before = admission_of("Hello")
    assert await recounted(before, counting) is before
    assert not counting.counter.is_loaded


SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 8_000, "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:text/plain;base64," + "A" * 8_000}}


@pytest.mark.parametrize("part", [SOUND, FILE], ids=["a sound", "an inline file"])
async def test_what_is_no_text_keeps_counting_as_bytes(part: dict[str, Any]) -> None:
    before = admission_of([{"type": "text", "text": PROSE}, part])
    after = await recounted(before, Counting())
    tokens = TokenCounter().count([PROSE])
    assert 8_000 + tokens < after.offers[0].ceiling.input_tokens_max < before.offers[0].ceiling.input_tokens_max


async def test_counts_that_nobody_pays_keep_neither_each_other_nor_bills_waiting() -> None:
    counting, go_on = Counting(), threading.Event()
    running = [asyncio.ensure_future(counting.before_call(lambda _: go_on.wait(30))) for _ in range(BEFORE_CALLS_MAX)]
    await asyncio.sleep(0)
    before = admission_of(PROSE)
    billed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    try:
        assert await recounted(before, counting) is before
        counting.run(lambda counter: counter.count([PROSE]), billed.set_result, text_bytes=len(PROSE))
        assert await asyncio.wait_for(billed, 20)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: True), 20)
    finally:
        go_on.set()
    assert await asyncio.gather(*running) == [True] * BEFORE_CALLS_MAX
    assert (await recounted(before, counting)).hold_nanos < before.hold_nanos
