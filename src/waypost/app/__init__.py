"""The composition root: settings, secrets, and the only place that sees ports and adapters together."""
