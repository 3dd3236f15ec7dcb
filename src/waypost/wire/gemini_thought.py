"""Thinking that the caller did not ask to read, on its way through the caller's hands.

Some providers take their signature back only beside the text that it signs. Where that is not shown, it travels in the
envelope too.
"""

from __future__ import annotations

from waypost.wire.canonical import Signature
from waypost.wire.conversation import Thinking

_BEFORE_TEXT = "\0"


def hide(text: str, signature: Signature) -> Signature:
    """What is sealed instead of the signature alone."""
    return Signature(signature.origin, f"{signature.value}{_BEFORE_TEXT}{text}") if text else signature


def unhide(sealed: Signature) -> Thinking:
    """The thinking again; its text is "" where it was shown, or never known."""
    value, _, text = sealed.value.partition(_BEFORE_TEXT)
    return Thinking(text, Signature(sealed.origin, value))
