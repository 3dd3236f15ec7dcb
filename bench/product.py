"""Waypost as it is measured: `waypost up` with everything on.

That is a key with limits, an organisation with credit, two providers with two deployments each, the
embedded PostgreSQL, every execution and settlement written.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from bench.baseline import Ports
from bench.books import INPUT_USD, OUTPUT_USD
from bench.exchange import stream_model
from bench.process import BenchError, Child, wait_until
from bench.scenario import HELD_CHUNKS, HELD_PACE_MS, PLAIN_MODEL, Shape
from bench.system import WAYPOST, Place, System, require_free
from waypost.app.database import EMBEDDED_DIR
from waypost.storage.embedded import EmbeddedPostgres

CREDIT_USD = 1_000_000
REQUESTS_PER_MINUTE = 1_000_000_000  # limits that count every call and refuse none
TOKENS_PER_MINUTE = 1_000_000_000_000
START_S = 90.0


class Product(msgspec.Struct, frozen=True):
    """A running deployment and where its books are."""

    system: System
    conninfo: str


@contextlib.contextmanager
def product(
    place: Place,
    shape: Shape,
    *,
    is_dumpable: bool,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
    workers: int = 1,
    cores: tuple[int, ...] | None = None,
) -> Iterator[Product]:
    """Start `waypost up`, of the checkout that `python` belongs to; make an organisation with credit and a key with
    limits; end all of it afterwards. It has the proxy's core unless others are named."""
    ports = place.ports
    require_free((ports.waypost, ports.waypost_metrics))
    folder = place.folder / "waypost"
    folder.mkdir(mode=0o700)
    config = folder / "waypost.toml"
    config.write_text(configuration(ports, shape))
    data_dir = folder / "data"
    command = [python, "-m", "waypost", "up", "--config", str(config), "--data-dir", str(data_dir)]
    command += ["--workers", str(workers), "--port", str(ports.waypost), "--metrics-port", str(ports.waypost_metrics)]
    env = {"BENCH_API_KEY": "bench-upstream", **({"WAYPOST_DUMPABLE": "1"} if is_dumpable else {}), **(env or {})}
    postgres = EmbeddedPostgres(data_dir / EMBEDDED_DIR)
    log = folder / "waypost.log"
    try:
        with Child(command, cores=cores or (place.cores.proxy,), log=log, env=env) as child:

            def is_ready() -> bool:
                child.require_alive()
                return answers(f"http://127.0.0.1:{ports.waypost}/readyz")

            wait_until(is_ready, "waypost getting ready", timeout_s=START_S)
            api_key = make_account(data_dir, python, env)
            authorization = f"Bearer {api_key}"
            models = f"http://127.0.0.1:{ports.waypost}/v1/models"
            wait_until(lambda: answers(models, authorization), "the gateway accepting the new key", timeout_s=10)

            def roots() -> list[int]:
                return [pid for pid in (child.pid, postgres.pid) if pid is not None]

            yield Product(System(WAYPOST, ports.waypost, ports.waypost, roots, authorization), postgres.conninfo())
    finally:
        # Whoever was killed could not stop the database; without effect otherwise.
        if postgres.is_running:
            postgres.start()
        postgres.stop()


def configuration(ports: Ports, shape: Shape) -> str:
    """A `waypost.toml`: each model at two providers with two deployments each."""
    plain = [f"plain-{name}" for name in "ab"]
    stream = [f"stream-{name}" for name in "ab"]
    pairs = zip([*plain, *stream], [*ports.plain_mocks, *ports.stream_mocks], strict=True)
    parts = ["[server]\norganisation_in_flight = 1000000\nkey_in_flight = 1000000\n"]
    parts += [_provider(name, port) for name, port in pairs]
    parts.append(_model(PLAIN_MODEL, plain))
    slugs = {stream_model(shape.chunks, shape.pace_ms), stream_model(HELD_CHUNKS, HELD_PACE_MS)}
    parts += [_model(slug, stream) for slug in sorted(slugs)]
    return "\n".join(parts)


def _provider(name: str, port: int) -> str:
    return f"""
[[providers]]
id = "{name}"
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_keys = ["env:BENCH_API_KEY"]
cancel_stops_billing = "yes"
bulkhead = {{ in_flight = 20000, queue = 1000, wait_s = 5.0 }}
"""


def _model(slug: str, providers: Iterable[str]) -> str:
    price = f'{{ input = "{INPUT_USD}", output = "{OUTPUT_USD}" }}'
    text = f"""
[[models]]
slug = "{slug}"
modality = "chat"
context_window = 128000
max_output = 8192
price = {price}
"""
    for provider in providers:
        for size in ("large", "small"):
            text += f"""
[[models.deployments]]
provider = "{provider}"
upstream_model = "{slug}-{size}"
cost = {{ input = "2.00", output = "8.00" }}
"""
    return text


def make_account(data_dir: Path, python: str, env: Mapping[str, str]) -> str:
    """An organisation with credit and a key with limits; returns the key."""
    org = _command(data_dir, python, env, "org", "create", "bench")
    _command(data_dir, python, env, "credit", "add", "--org", org, "--usd", str(CREDIT_USD), "--reference", "bench")
    limits = ["--requests-per-minute", str(REQUESTS_PER_MINUTE), "--tokens-per-minute", str(TOKENS_PER_MINUTE)]
    return _command(data_dir, python, env, "key", "create", "--org", org, *limits)


def _command(data_dir: Path, python: str, more: Mapping[str, str], *words: str) -> str:
    env = {**os.environ, **more, "WAYPOST_DATA_DIR": str(data_dir)}
    command = [python, "-m", "waypost", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise BenchError(f"`waypost {' '.join(words)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def answers(url: str, authorization: str = "") -> bool:
    request = urllib.request.Request(url, headers={"authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
