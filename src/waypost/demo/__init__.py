"""The newcomer's first minute: `up` with a local model or the simulator, an organisation, a key and some credit."""
