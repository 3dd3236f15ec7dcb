"""Commands that start something, and the doctor."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from waypost.app.settings import check_listening
from waypost.cli.words import Config, DatabaseUrl, DataDir, Host, Port, settings_of
from waypost.kit.clock import SystemClock

WORKERS_MAX = 64
MetricsPort = Annotated[int, typer.Option(min=0, max=65535, help="Port of the metrics; 0 takes a free one.")]


def up(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    metrics_port: MetricsPort = 9464,
    workers: Annotated[
        int, typer.Option(min=1, max=WORKERS_MAX, help="Gateway processes: one for each core that callers may take.")
    ] = 1,
) -> None:
    """Start everything, and print one line when it is ready: waypost ready http://HOST:PORT.

    Logs are JSON lines on stderr. SIGTERM lets running requests finish, then ends. SIGHUP looks at the configuration
    file now, SIGUSR2 replaces the gateway processes one after the other (`waypost restart`).
    """
    from waypost.app.up import serve

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    check_listening(settings, host)
    raise typer.Exit(serve(settings, host=host, port=port, metrics_port=metrics_port, workers=workers))


def demo(
    simulated: Annotated[bool, typer.Option("--simulated", help="A simulated model instead of a real one.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="An embedding model beside it.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    metrics_port: MetricsPort = 9464,
) -> None:
    """Start everything with a real model on this machine, an organisation, a key and 5 USD of credit.

    Prints lines to paste into a terminal and into Python. A second run finds the same key again.
    """
    from waypost.app.demo import serve_demo

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    check_listening(settings, host)
    code = serve_demo(
        settings, host=host, port=port, metrics_port=metrics_port, is_simulated=simulated, has_embeddings=embeddings
    )
    raise typer.Exit(code)


def gateway(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the metrics. Default: no such port.")
    ] = None,
) -> None:
    """Start one gateway alone: for a cluster, where the database is elsewhere.

    Each has a data directory of its own, and all have the same secrets and database. The catalogue is what was
    applied by command, or by an `up` on the same database.
    """
    from waypost.app.gateway import serve_gateway

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    check_listening(settings, host)
    raise typer.Exit(serve_gateway(settings, host=host, port=port, metrics_port=metrics_port))


def control(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    socket: Annotated[
        Path | None, typer.Option(help="Unix socket to serve on; default run/control.sock in the data directory.")
    ] = None,
) -> None:
    """Start the control process alone: for a cluster, beside each gateway whose `control_socket` names its socket."""
    from waypost.app.control import serve_control

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    raise typer.Exit(serve_control(settings, socket or settings.data_dir / "run" / "control.sock"))


def vault(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    socket: Annotated[
        Path | None, typer.Option(help="Unix socket to serve on; default run/vault.sock in the data directory.")
    ] = None,
) -> None:
    """Start the vault alone: payloads of executions, in memory only. `up` starts one by itself."""
    from waypost.app.vault import serve_vault, vault_socket

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    raise typer.Exit(serve_vault(settings, socket or vault_socket(settings)))


def restart(config: Config = None, data_dir: DataDir = None) -> None:
    """Replace the gateway processes of the `up` on this data directory, one after the other, without losing a request.

    New processes run the code that is installed now, and take every setting anew. `up` itself stays.
    """
    from waypost.app.up import ask_for_replacement

    pid = ask_for_replacement(settings_of(data_dir, None, config, may_be_new=True))
    typer.echo(f"process {pid} replaces its gateways; its log has a line WorkerReplaced for each")


def sim(port: Port = 9100, host: Host = "127.0.0.1") -> None:
    """Start the provider simulator: the whole product can be tried on it without any provider's key.

    GET /_sim/bill is its own bill, POST /_sim/faults arms faults, GET /_sim/requests tells what it saw.
    """
    from waypost import simulator

    simulator.run(port, host)


def doctor(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Check settings, secrets, disk, journal, database, clock and providers; print the settings, secrets masked.

    Exit code 1 when something is wrong that keeps requests from being answered. It makes no deployment.
    """
    from waypost.app.doctor import examine
    from waypost.app.finding import Verdict

    settings = settings_of(data_dir, database_url, config)
    for name, value in settings.shown():
        typer.echo(f"      {name:<20} {value}")
    is_bad = False
    for finding in examine(settings, SystemClock()):
        is_bad = is_bad or finding.verdict is Verdict.BAD
        typer.echo(f"{finding.verdict.value:<5} {finding.subject:<20} {finding.sentence}")
    raise typer.Exit(1 if is_bad else 0)
