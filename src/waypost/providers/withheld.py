"""What of a caller's request no provider is given, whichever format both of them speak."""

from __future__ import annotations

import msgspec

from waypost.wire.request import Around

# A tier changes what the provider bills; every call runs in the tier that the catalogue has the price of.
_PRICED = ("service_tier", "serviceTier", "speed")
# What would be kept at the provider, or names what is.
_STORED = (*("metadata", "labels", "cachedContent", "background", "previous_response_id", "conversation"),)
_NOT_FORWARDED = frozenset((*_PRICED, *_STORED))
# The last one says whose prompts may find each other in a provider's cache: two organisations that choose the same word
# are not to learn from a fast answer what the other one asked.
_NAMES = frozenset(("user", "safety_identifier", "prompt_cache_key"))
_LOOKED_AT = _NOT_FORWARDED | _NAMES | {"store"}
_FALSE = msgspec.Raw(b"false")

_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


def withhold(fields: dict[str, msgspec.Raw], around: Around) -> None:
    """Take out of the fields of a call what changes prices or is stored; a name becomes a pseudonym of its
    organisation, and `store` false, since accounts may store what does not say so."""
    for name in _LOOKED_AT.intersection(fields):
        pseudonym = _pseudonym(fields[name], around) if name in _NAMES else ""
        if name == "store":
            fields[name] = _FALSE
        elif pseudonym:
            fields[name] = msgspec.Raw(_encode(pseudonym))
        else:
            del fields[name]


def _pseudonym(sent: msgspec.Raw, around: Around) -> str:
    try:
        user = _decode_text(sent)
        return around.pseudonym(user) if user else ""
    except ValueError:  # no text, or half a surrogate pair
        return ""
