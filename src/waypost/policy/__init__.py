"""Decisions over one frozen view: the validated catalogue, routing, failover, limits. Pure."""
