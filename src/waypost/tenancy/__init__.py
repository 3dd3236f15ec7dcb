"""Who calls, and what they may do: organisations and API keys."""
