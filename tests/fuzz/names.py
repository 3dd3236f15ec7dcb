"""What can be fuzzed, and the modules of each parser: those whose branches the fuzzer follows."""

from __future__ import annotations

MODULES = {
    "requests": ("waypost.transport.http1_request",),
    "answers": ("waypost.transport.http1_response",),
    "events": ("waypost.wire.sse",),
    "journal": ("waypost.ledger.journal_format",),
    "keys": ("waypost.tenancy.api_key",),
    "usage": (
        "waypost.metering.usage",
        "waypost.providers.openai_fields",
        "waypost.providers.anthropic_fields",
        "waypost.providers.gemini_fields",
    ),
    "proxy": ("waypost.transport.proxy_header",),
}

# Bytes of a case, where much shorter ones than usual can hold everything: the fuzzer tries more of them in its time.
LENGTHS = {"journal": 384, "events": 256}
LENGTH = 1024
