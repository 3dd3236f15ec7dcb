"""The data plane: read, authenticate, parse, admit, hold, attempt, relay, settle."""
