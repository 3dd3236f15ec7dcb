"""`waypost demo`, top to bottom: weights, model, account, `up`, and the card."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from waypost.demo import embedding_model, local_model, simulated_model
from waypost.demo.account import Account, keep_account, open_account, read_account
from waypost.demo.card import render_card, set_aside_note
from waypost.demo.offer import LOCAL, LOCAL_VECTORS, SIMULATED, SIMULATED_VECTORS, Offer, catalogue_of
from waypost.demo.weights import TERMS_URL, assemble_weights, check_embeddings
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.supervisor.child import ChildPlan
from waypost.supervisor.up import Deployment, UpOptions, run_up
from waypost.tenancy.pepper import Pepper

_ACCOUNT_FILE = "demo.json"


def run_demo(options: UpOptions, *, is_simulated: bool, has_embeddings: bool, pepper: Pepper) -> int:
    """Run until SIGTERM or SIGINT; the exit code. `pepper` keys the digests of API keys.

    Raises DemoUnavailable without extra `demo` (or `embeddings`), WeightsDamaged, and UpRefused."""
    console = Console(stderr=True)
    options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if has_embeddings and not is_simulated:
        check_embeddings()
    vectors = (SIMULATED_VECTORS if is_simulated else LOCAL_VECTORS) if has_embeddings else None
    demo = _Demo(options, SIMULATED if is_simulated else LOCAL, vectors, pepper)
    if is_simulated:
        command = _module("waypost.demo.simulated_model", str(demo.account.upstream_port))
        notes = []
        health_path = simulated_model.HEALTH_PATH
    else:
        weights = _assemble_aloud(console, options.data_dir / "models")
        command = _module("waypost.demo.local_model", str(weights), str(demo.account.upstream_port))
        notes = [f"terms    {TERMS_URL} (Gemma's, for the model's use)"]
        health_path = local_model.HEALTH_PATH
    if vectors is not None:
        notes.append(f"vectors  {vectors.slug}: {vectors.title}")
    console.print("Starting PostgreSQL, the model and the gateway …", highlight=False)
    model = ChildPlan(
        name="model",
        command=command,
        environment={local_model.API_KEY_VARIABLE: demo.account.upstream_key},
        address=demo.account.upstream_port,
        ready_path=health_path,
    )
    companions = [model]
    if has_embeddings and not is_simulated:
        companions.append(
            ChildPlan(
                name="embeddings",
                command=_module("waypost.demo.embedding_model", str(demo.account.embeddings_port)),
                environment={local_model.API_KEY_VARIABLE: demo.account.upstream_key},
                address=demo.account.embeddings_port,
                ready_path=embedding_model.HEALTH_PATH,
            )
        )
    return run_up(options, None, companions=companions, prepare=demo.prepare, on_ready=demo.card_printer(notes))


class _Demo:
    """The account on its way from the file to the card."""

    def __init__(self, options: UpOptions, offer: Offer, vectors: Offer | None, pepper: Pepper) -> None:
        self._path = options.data_dir / _ACCOUNT_FILE
        self._offer = offer
        self._vectors = vectors
        self._pepper = pepper
        self._balance: Nanos = 0
        self._notes: list[str] = []
        kept = read_account(self._path)
        port = _free_port(kept.upstream_port)
        embeddings_port = _free_port(kept.embeddings_port) if vectors is LOCAL_VECTORS else port
        self.account: Account = replace(kept, upstream_port=port, embeddings_port=embeddings_port)
        # The gateways are children of this process, and read the credential where the catalogue says.
        os.environ[local_model.API_KEY_VARIABLE] = kept.upstream_key

    def prepare(self, conninfo: str) -> None:
        account = self.account
        catalogue = catalogue_of(self._offer, account.upstream_port, self._vectors, account.embeddings_port)
        opened = open_account(conninfo, account, catalogue, pepper=self._pepper)
        self.account, self._balance = opened.account, opened.balance.available_nanos
        if opened.set_aside is not None:
            self._notes.append(set_aside_note(opened.set_aside, self._path.parent))
        keep_account(self._path, self.account)

    def card_printer(self, notes: list[str]) -> Callable[[Deployment], None]:
        def print_card(deployment: Deployment) -> None:
            told = [*notes, *self._notes]
            sys.stdout.write(render_card(deployment, self.account, self._offer, self._balance, told))
            sys.stdout.flush()

        return print_card


def _assemble_aloud(console: Console, directory: Path) -> Path:
    columns = TextColumn("Putting the model together"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        return assemble_weights(directory, lambda done, total: progress.update(task, completed=done, total=total))


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", name, *arguments)


def _free_port(preferred: int) -> int:
    """The loopback port of the last run if it is free, so that the catalogue stays what it was; else any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("the kernel has no free port")
