"""`waypost demo`, put together from the settings."""

from __future__ import annotations

from waypost.app.operator import CommandRefused
from waypost.app.secrets import open_secrets
from waypost.app.settings import Settings
from waypost.app.up import up_options
from waypost.app.vault import refuse_unfit
from waypost.demo.session import run_demo
from waypost.demo.weights import DemoUnavailable, WeightsDamaged


def serve_demo(
    settings: Settings, *, host: str, port: int, metrics_port: int, is_simulated: bool, has_embeddings: bool
) -> int:
    """Run everything with a model of its own until told to stop; the exit code."""
    refuse_unfit(settings)
    options = up_options(settings, host=host, port=port, metrics_port=metrics_port)
    try:
        pepper = open_secrets(settings.secrets_dir).peppers.newest
        return run_demo(options, is_simulated=is_simulated, has_embeddings=has_embeddings, pepper=pepper)
    except (DemoUnavailable, WeightsDamaged) as error:
        raise CommandRefused(str(error)) from None
