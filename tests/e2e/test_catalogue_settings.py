"""Each setting of a provider, a model and a deployment is in force from the next call on, without a restart and without
anybody else noticing: one test per setting, under load, with the effect looked for before and after the change."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import PRICE, Answer, Stack, ask, deployment, model, provider
from waypost.policy.catalogue import Breaker, Bulkhead, Timeouts

NEVER = 1_000_000
PATIENT_S = 1.0  # how long a test waits for what must not come


class Tried:
    """The provider, model and deployment whose setting is changed, as one test sees them."""

    def __init__(self, stack: Stack, setting: str) -> None:
        self.stack = stack
        self.slug = setting.replace(".", "-").replace("_", "-")
        self.upstream = f"up-{self.slug}"

    async def ask(self, text: str = "Say something.", **fields: Any) -> Answer:
        return await self.stack.chat({"model": self.slug, **ask(text, **fields)} | {"model": self.slug})

    async def at_once(self, count: int = 2) -> list[int]:
        answers = await asyncio.gather(*(self.ask("Wait\nsim: first_ms=400") for _ in range(count)))
        return [answer.status for answer in answers]

    @contextmanager
    def fault(self, kind: str, **fields: Any) -> Iterator[None]:
        self.stack.sim.arm(kind, model=self.upstream, count=0, **fields)
        try:
            yield
        finally:
            self.stack.sim.disarm()

    def requests(self) -> list[Any]:
        return [record for record in self.stack.sim.requests if record.model.startswith(self.upstream)]

    async def circuits_opened(self) -> float:
        metrics = await self.stack.metrics()
        return sum(
            value
            for name, value in metrics.items()
            if name.startswith(f'waypost_circuits_opened_total{{deployment="tried/{self.upstream}"')
        )


# What shows that the new value is in force: false before the change, true after it.


async def first_byte_is_late(tried: Tried) -> bool:
    with tried.fault("silence", for_s=0.6):
        return (await tried.ask(stream=True)).status == 504


async def silence_between_words_is_too_long(tried: Tried) -> bool:
    with tried.fault("silence", phase="mid", for_s=0.6):
        return "error" in (await tried.ask(stream=True)).chunks[-1]


async def stream_is_too_long(tried: Tried) -> bool:
    return "error" in (await tried.ask("Tell\nsim: words=20 delay_ms=40", stream=True)).chunks[-1]


async def call_is_too_long(tried: Tried) -> bool:
    return (await tried.ask("Tell\nsim: first_ms=800")).status == 504


async def connecting_is_too_long(tried: Tried) -> bool:
    try:
        async with asyncio.timeout(PATIENT_S):
            return (await tried.ask()).status == 503
    except TimeoutError:
        return False


async def one_of_two_at_once_is_refused(tried: Tried) -> bool:
    return 503 in await tried.at_once()


async def circuit_opens(tried: Tried) -> bool:
    before = await tried.circuits_opened()
    with tried.fault("status", status=500, retry_after="11"):  # too long for a second attempt
        for _ in range(4):
            await tried.ask()
            await asyncio.sleep(0.11)  # longer than the short window
    return await tried.circuits_opened() > before


async def circuit_opens_although_half_succeeds(tried: Tried) -> bool:
    before = await tried.circuits_opened()
    with tried.fault("status", status=500, every=2):
        for _ in range(4):
            await tried.ask()
    return await tried.circuits_opened() > before


async def circuit_closes_soon(tried: Tried) -> bool:
    with tried.fault("status", status=500, retry_after="11"):
        await tried.ask()
    await asyncio.sleep(0.5)
    return (await tried.ask()).status == 200


async def a_500_is_called_overload(tried: Tried) -> bool:
    with tried.fault("status", status=500):
        return bool((await tried.ask()).json["error"]["code"] == "MODEL_OVERLOADED")


async def the_header_is_sent(tried: Tried) -> bool:
    await tried.ask()
    return bool(tried.requests()[-1].header("x-team") == "blue")


async def the_second_key_is_sent(tried: Tried) -> bool:
    await tried.ask()
    return bool(tried.requests()[-1].header("authorization") == "Bearer pk-second")


async def the_other_place_is_asked(tried: Tried) -> bool:
    await tried.ask()
    return bool(tried.requests()[-1].style == "gamma")


async def the_call_is_broken_off(tried: Tried) -> bool:
    body = {**ask("Tell\nsim: words=40 delay_ms=10", stream=True), "model": tried.slug}
    reader, writer = await tried.stack.connect("POST", "/v1/chat/completions", body)
    await reader.readuntil(b"data: ")
    writer.transport.abort()
    await tried.stack.sim.until(lambda: bool(tried.requests()[-1].closed_s))
    return bool(tried.requests()[-1].is_closed_early)


async def the_alias_is_known(tried: Tried) -> bool:
    return (await tried.stack.chat({**ask(), "model": f"also-{tried.slug}"})).status == 200


async def the_provider_is_asked_for_less(tried: Tried) -> bool:
    await tried.ask()
    body = json.loads(tried.requests()[-1].body)
    return bool(body.get("max_tokens", body.get("max_completion_tokens")) == 50)


async def the_window_is_too_small(tried: Tried) -> bool:
    shown = (await tried.stack.request("GET", f"/v1/models/{tried.slug}")).json
    return bool(shown["context_window"] == 5000)


async def the_feature_is_shown(tried: Tried) -> bool:
    return "fast" in (await tried.stack.request("GET", f"/v1/models/{tried.slug}")).json["features"]


async def it_is_dearer(tried: Tried) -> bool:
    return float((await tried.ask()).json["usage"]["cost"]) > 0.01


async def the_second_is_asked(tried: Tried) -> bool:
    await tried.ask()
    return bool(tried.requests()[-1].model == f"{tried.upstream}-b")


async def the_temperature_is_set(tried: Tried) -> bool:
    await tried.ask()
    return bool(json.loads(tried.requests()[-1].body).get("temperature") == 0.5)


async def the_field_is_left_out(tried: Tried) -> bool:
    await tried.ask(seed=7)
    return "seed" not in json.loads(tried.requests()[-1].body)


async def the_field_has_its_other_name(tried: Tried) -> bool:
    await tried.ask(seed=7)
    return bool(json.loads(tried.requests()[-1].body).get("random_seed") == 7)


NARROW = {"in_flight": 1, "queue": 50, "wait_s": 20}
NO_CIRCUIT = {"consecutive": NEVER, "min_calls": NEVER}
Fields = dict[str, Any]
Effect = Callable[[Tried], Awaitable[bool]]
# setting → of the provider before and after it is changed, and what shows it
PROVIDER: dict[str, tuple[Fields, Fields, Effect]] = {
    "timeouts.connect_s": ({"connect_s": 60}, {"connect_s": 0.05}, connecting_is_too_long),
    "timeouts.first_byte_s": ({"first_byte_s": 30}, {"first_byte_s": 0.1}, first_byte_is_late),
    "timeouts.thinking_first_byte_s": (
        {"first_byte_s": 0.1, "thinking_first_byte_s": 30},
        {"first_byte_s": 30, "thinking_first_byte_s": 0.1},
        first_byte_is_late,
    ),
    "timeouts.idle_s": ({"idle_s": 30}, {"idle_s": 0.1}, silence_between_words_is_too_long),
    "timeouts.stream_total_s": ({"stream_total_s": 30}, {"stream_total_s": 0.2}, stream_is_too_long),
    "timeouts.total_s": ({"total_s": 30}, {"total_s": 0.1}, call_is_too_long),
    "bulkhead.in_flight": ({"in_flight": 9, "queue": 0}, {"in_flight": 1, "queue": 0}, one_of_two_at_once_is_refused),
    "bulkhead.queue": (NARROW, {**NARROW, "queue": 0}, one_of_two_at_once_is_refused),
    "bulkhead.wait_s": (NARROW, {**NARROW, "wait_s": 0.01}, one_of_two_at_once_is_refused),
    "breaker.consecutive": (NO_CIRCUIT, {**NO_CIRCUIT, "consecutive": 2}, circuit_opens),
    "breaker.min_calls": (NO_CIRCUIT, {**NO_CIRCUIT, "min_calls": 2}, circuit_opens),
    "breaker.window_s": (
        {"consecutive": NEVER, "min_calls": 4, "window_s": 0.1},
        {"consecutive": NEVER, "min_calls": 4, "window_s": 60},
        circuit_opens,
    ),
    "breaker.failure_ratio": (
        {"consecutive": NEVER, "min_calls": 4, "failure_ratio": 1},
        {"consecutive": NEVER, "min_calls": 4, "failure_ratio": 0.3},
        circuit_opens_although_half_succeeds,
    ),
    "breaker.open_s": ({"consecutive": 1, "open_s": 100}, {"consecutive": 1, "open_s": 0.1}, circuit_closes_soon),
    "error_map": (
        {},
        {"error_map": [{"match": {"status": 500}, "code": "MODEL_OVERLOADED"}]},
        a_500_is_called_overload,
    ),
    "headers": ({}, {"headers": {"x-team": "blue"}}, the_header_is_sent),
    "api_keys": ({}, {"api_keys": ["env:TEST_SECOND_KEY"]}, the_second_key_is_sent),
    "base_url": ({}, {"base_url": "gamma"}, the_other_place_is_asked),
    "cancel_stops_billing": (
        {"cancel_stops_billing": "no"},
        {"cancel_stops_billing": "yes"},
        the_call_is_broken_off,
    ),
}
MODEL: dict[str, tuple[Fields, Fields, Effect]] = {
    "aliases": ({}, {"aliases": ["also-aliases"]}, the_alias_is_known),
    "max_output": ({}, {"max_output": 50}, the_provider_is_asked_for_less),
    "context_window": ({}, {"context_window": 5000}, the_window_is_too_small),
    "features": ({}, {"features": ["fast"]}, the_feature_is_shown),
    "price": ({}, {"price": {"input": "1000", "output": "1000"}}, it_is_dearer),
}
# of two deployments, the changes to both
DEPLOYMENT: dict[str, tuple[tuple[Fields, Fields], tuple[Fields, Fields], Effect]] = {
    "priority": (({"priority": 1}, {"priority": 2}), ({"priority": 2}, {"priority": 1}), the_second_is_asked),
    "weight": (
        ({"priority": 1, "weight": NEVER}, {"priority": 1, "weight": 1}),
        ({"priority": 1, "weight": 1}, {"priority": 1, "weight": NEVER}),
        the_second_is_asked,
    ),
    "request.set": (({}, {}), ({"request": {"set": {"temperature": 0.5}}}, {}), the_temperature_is_set),
    "request.drop": (({}, {}), ({"request": {"drop": ["seed"]}}, {}), the_field_is_left_out),
    "request.rename": (({}, {}), ({"request": {"rename": {"seed": "random_seed"}}}, {}), the_field_has_its_other_name),
}


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    second = {"TEST_SECOND_KEY": "pk-second"}
    with hosted(postgres, tmp_path_factory.mktemp("live"), credit_usd=1000, environment=second) as stack:
        yield stack


async def check(stack: Stack, tried: Tried, before: Fields, after: Fields, effect: Effect) -> None:
    """`before` and `after` are documents without the provider and model that others use meanwhile."""
    await stack.adopt(with_load(stack, before))
    stop, statuses = asyncio.Event(), list[int]()

    async def keep_asking() -> None:
        while not stop.is_set():
            statuses.append((await stack.chat({**ask(stream=len(statuses) % 2 == 0), "model": "load"})).status)
            await asyncio.sleep(0.02)

    load = [asyncio.ensure_future(keep_asking()) for _ in range(2)]
    try:
        assert not await effect(tried), "it is not in force yet"
        await stack.adopt(with_load(stack, after))
        assert await effect(tried)
        answered = len(statuses)
        async with asyncio.timeout(30):
            while len(statuses) < answered + 2:  # the load goes on under the new settings  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await asyncio.gather(*load)
    assert set(statuses) == {200}


def with_load(stack: Stack, document: Fields) -> Fields:
    return {
        "providers": [provider(stack.sim, "load", "beta"), *document["providers"]],
        "models": [model("load", deployment("load", "load")), *document["models"]],
    }


def document(
    tried: Tried, provider_fields: Fields, model_fields: Fields, deployments: tuple[Fields, ...] = ({},)
) -> Fields:
    fields = {name: value for name, value in provider_fields.items() if name != "base_url"}
    if "base_url" in provider_fields:
        place = provider_fields["base_url"]
        fields["base_url"] = tried.stack.sim.base_url(place) if "://" not in place else place
    names = (tried.upstream, f"{tried.upstream}-b")
    tables = [deployment("tried", name, **each) for name, each in zip(names, deployments, strict=False)]
    base: Fields = {"price": PRICE, "features": ["tools"]}
    return {
        "providers": [{**provider(tried.stack.sim, "tried"), **fields}],
        "models": [model(tried.slug, *tables, **(base | model_fields))],
    }


@pytest.mark.parametrize("setting", PROVIDER)
def test_each_setting_of_a_provider(stack: HostedStack, setting: str) -> None:
    tried = Tried(stack.stack, setting)
    table = setting.partition(".")[0] if "." in setting else ""
    before, after, effect = PROVIDER[setting]
    if table:
        before, after = {table: before}, {table: after}
    with full_backlog() as deaf_url:
        if setting == "timeouts.connect_s":
            before, after = {**before, "base_url": deaf_url}, {**after, "base_url": deaf_url}
        of_model = {"features": ["thinking"]} if "thinking" in setting else {}
        olds, news = document(tried, before, of_model), document(tried, after, of_model)
        if setting == "breaker.open_s":  # what is open stays open as long as it was to: another one shows it
            news["models"][0]["deployments"][0]["upstream_model"] = tried.upstream + "-b"
        stack.run(check(stack.stack, tried, olds, news, effect))


@pytest.mark.parametrize("setting", MODEL)
def test_each_setting_of_a_model(stack: HostedStack, setting: str) -> None:
    tried = Tried(stack.stack, setting)
    before, after, effect = MODEL[setting]
    stack.run(check(stack.stack, tried, document(tried, {}, before), document(tried, {}, after), effect))


@pytest.mark.parametrize("setting", DEPLOYMENT)
def test_each_setting_of_a_deployment(stack: HostedStack, setting: str) -> None:
    tried = Tried(stack.stack, setting)
    before, after, effect = DEPLOYMENT[setting]
    stack.run(check(stack.stack, tried, document(tried, {}, {}, before), document(tried, {}, {}, after), effect))


def test_no_setting_of_timeouts_bulkhead_and_breaker_is_left_out() -> None:
    for table, defaults in (("timeouts", Timeouts()), ("bulkhead", Bulkhead()), ("breaker", Breaker())):
        assert {f"{table}.{name}" for name in msgspec.structs.asdict(defaults)} <= PROVIDER.keys()


@contextmanager
def full_backlog() -> Iterator[str]:
    """The address of a port where connections are neither taken nor refused."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        callers = []
        try:
            for _ in range(4):
                caller = socket.socket()
                caller.setblocking(False)
                caller.connect_ex(address)
                callers.append(caller)
            yield f"http://127.0.0.1:{address[1]}/v1"
        finally:
            for caller in callers:
                caller.close()
