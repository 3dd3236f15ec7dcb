"""Asynchronous executions, thought out: their states, their inputs, and what they may cost."""
