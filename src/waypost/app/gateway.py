"""`waypost gateway`, put together from the settings: under a supervisor, or alone."""

from __future__ import annotations

import os

from waypost.app.database import embedded_postgres, open_database
from waypost.app.settings import Settings
from waypost.app.wiring import GatewayOptions, run_gateway
from waypost.supervisor.inheritance import read_inheritance


def serve_gateway(settings: Settings, *, host: str, port: int, metrics_port: int | None = None) -> int:
    """Run one gateway until told to stop; the exit code. Under `up` the database is running and migrated already."""
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = GatewayOptions(host=host, port=port, internal_path=run_dir / "gateway.sock", metrics_port=metrics_port)
    if read_inheritance(os.environ) is not None:
        return run_gateway(settings, settings.database_url or embedded_postgres(settings).conninfo(), options)
    with open_database(settings) as conninfo:
        return run_gateway(settings, conninfo, options)
