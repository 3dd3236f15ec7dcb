"""The most that a call can use."""

from __future__ import annotations

import msgspec


class Ceiling(msgspec.Struct, frozen=True, gc=False):
    """What a call cannot exceed. `has_audio`: whether tokens of either side may be audio, which is dearer."""

    input_tokens_max: int  # of all classes together
    output_tokens_max: int  # over all choices
    has_audio: bool = False
    has_images: bool = False  # whether input may be images
    images_max: int = 0  # to be generated
    duration_ms_max: int = 0
    characters_max: int = 0
    may_speak: bool = False  # whether output may be sound, which nobody here can count while it is streamed
