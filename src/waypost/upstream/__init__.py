"""Calls to addresses that customers or providers have given us: where they may go, and the sessions that see to it."""
