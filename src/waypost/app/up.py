"""`waypost up`, put together from the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from waypost.app import part
from waypost.app.catalogue_file import apply_first, apply_watched_file
from waypost.app.database import embedded_postgres
from waypost.app.settings import Settings, SettingsError, read_settings
from waypost.app.vault import refuse_unfit, status_socket, vault_socket
from waypost.supervisor.child import ChildPlan
from waypost.supervisor.up import UpOptions, UpRefused, roll_running, run_up


def up_options(settings: Settings, *, host: str, port: int, metrics_port: int, workers: int = 1) -> UpOptions:
    """What the supervisor is told."""
    control_socket = settings.data_dir / "run" / "control.sock"
    vault = vault_socket(settings)
    if settings.database_url is not None:
        os.environ["WAYPOST_DATABASE_URL"] = settings.database_url
    return UpOptions(
        data_dir=settings.data_dir,
        database=embedded_postgres(settings) if settings.database_url is None else None,
        conninfo=settings.database_url or "",
        host=host,
        port=port,
        metrics_port=metrics_port,
        workers=workers,
        drain_s=lambda: _drain_s_of(settings),
        is_tls=settings.live.tls is not None,
        config_path=settings.config_path,
        gateway_command=part.command("gateway", settings),
        control=ChildPlan(
            name="control",
            command=part.command("control", settings, socket=control_socket),
            address=control_socket,
            ready_path="/readyz",
            drain_s=lambda: _drain_s_of(settings),
        ),
        vault=None
        if settings.valkey_url is not None
        else ChildPlan(
            name="vault",
            command=part.command("vault", settings, socket=vault),
            address=status_socket(vault),
            ready_path="/readyz",
        ),
    )


def _drain_s_of(settings: Settings) -> float:
    """As the file says now; as it said at the start while it cannot be read."""
    try:
        return read_settings(environment={}, data_dir=settings.data_dir, config_path=settings.config_path).live.drain_s
    except SettingsError:
        return settings.live.drain_s


def serve(settings: Settings, *, host: str, port: int, metrics_port: int, workers: int = 1) -> int:
    """Run everything until told to stop; the exit code."""
    refuse_unfit(settings)
    options = up_options(settings, host=host, port=port, metrics_port=metrics_port, workers=workers)
    applies = iter((apply_first,))  # and the same file from then on

    def apply_catalogue(conninfo: str) -> Sequence[str]:
        return next(applies, apply_watched_file)(settings, conninfo)

    return run_up(options, apply_catalogue)


def ask_for_replacement(settings: Settings) -> int:
    """Have the `up` of this data directory replace its gateways; its pid. Raises UpRefused when none runs."""
    pid = roll_running(settings.data_dir)
    if pid is None:
        raise UpRefused(f"no `waypost up` runs on {settings.data_dir}: start it, or give its --data-dir.")
    return pid
