"""What the `input` of an execution may be, by modality: JSON schemas (draft 2020-12) for models that have none of their
own in the catalogue. `format: "waypost-file"` is the id of a stored file, and the only way to name one.
"""

from __future__ import annotations

from typing import Any

import msgspec

FILE_FORMAT = "waypost-file"
IMAGES_MAX = 10  # of one request, as OpenAI has it
REFERENCES_MAX = 16
DURATION_S_MAX = 60
MESSAGES_MAX = 2_000
PARTS_MAX = 2_000  # of one message
TOOLS_MAX = 1_024
STOPS_MAX = 16
INPUTS_MAX = 2_048

Schema = dict[str, Any]

_FILE: Schema = {"type": "string", "format": FILE_FORMAT}
_TEXT: Schema = {"type": "string"}
_PROMPT: Schema = {"type": "string", "minLength": 1, "maxLength": 32_000}
_PIXELS: Schema = {"type": "integer", "minimum": 16, "maximum": 16_384}
_SEED: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_ASPECT: Schema = {"type": "string", "pattern": "^[0-9]{1,2}:[0-9]{1,2}$"}
_REFERENCES: Schema = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": REFERENCES_MAX}


def _object(required: tuple[str, ...], properties: Schema, *, is_open: bool = False) -> Schema:
    schema: Schema = {"type": "object", "required": list(required), "properties": properties}
    return schema if is_open else schema | {"additionalProperties": False}


_PART = _object(
    ("type",),
    {
        "type": {"enum": ["text", "image_url", "input_audio", "refusal"]},
        "text": _TEXT,
        "refusal": _TEXT,
        "image_url": _object(("url",), {"url": _FILE, "detail": _TEXT}),
        "input_audio": _object(("data", "format"), {"data": _TEXT, "format": _TEXT}),
        "cache_control": {"type": "object"},
    },
)
_MESSAGE = _object(
    ("role",),
    {
        "role": {"enum": ["developer", "system", "user", "assistant", "tool", "function"]},
        "content": {"type": ["string", "array", "null"], "items": _PART, "maxItems": PARTS_MAX},
    },
    is_open=True,
)
# OpenAI's body without what an execution says elsewhere. What it does not name here reaches the model as it does in
# /v1/chat/completions.
_CHAT = _object(
    ("messages",),
    {
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MESSAGES_MAX},
        "model": False,
        "stream": False,
        "stream_options": False,
        "max_tokens": {"type": "integer", "minimum": 1},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "n": {"type": "integer", "minimum": 1, "maximum": 128},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
        "tools": {"type": "array", "items": {"type": "object"}, "maxItems": TOOLS_MAX},
        "response_format": {"type": "object"},
        "stop": {"type": ["string", "array", "null"], "items": _TEXT, "maxItems": STOPS_MAX},
        "seed": {"type": "integer"},
    },
    is_open=True,
)
_EMBEDDING = _object(
    ("input",),
    {
        "input": {"type": ["string", "array"], "minItems": 1, "maxItems": INPUTS_MAX},
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": {"type": "integer", "minimum": 1, "maximum": 65_536},
        "user": _TEXT,
    },
)
_IMAGE = _object(
    ("prompt",),
    {
        "prompt": _PROMPT,
        "n": {"type": "integer", "minimum": 1, "maximum": IMAGES_MAX},
        "width": _PIXELS,
        "height": _PIXELS,
        "size": {"type": "string", "pattern": "^(auto|[0-9]{2,5}x[0-9]{2,5}|[0-9]{1,2}:[0-9]{1,2})$"},
        "aspect_ratio": _ASPECT,
        "quality": _TEXT,
        "output_format": {"enum": ["png", "jpeg", "webp"]},
        "background": _TEXT,
        "negative_prompt": _TEXT,
        "seed": _SEED,
        "image": _FILE,
        "source_image": _FILE,
        "images": _REFERENCES,
        "user": _TEXT,
    },
)
_VIDEO = _object(
    ("prompt",),
    {
        "prompt": _PROMPT,
        "n": {"type": "integer", "minimum": 1, "maximum": 4},
        "duration": {"type": "integer", "minimum": 1, "maximum": DURATION_S_MAX},
        "resolution": {"type": "string", "pattern": "^[0-9]{3,4}[pP]$"},
        "aspect_ratio": _ASPECT,
        "width": _PIXELS,
        "height": _PIXELS,
        "fps": {"type": "integer", "minimum": 1, "maximum": 120},
        "generate_audio": {"type": "boolean"},
        "negative_prompt": _TEXT,
        "seed": _SEED,
        "image": _FILE,
        "source_image": _FILE,
        "first_frame": _FILE,
        "last_frame": _FILE,
        "source_video": _FILE,
        "reference_images": _REFERENCES,
    },
)
_AUDIO = _object(
    (),
    {
        "prompt": _PROMPT,
        "text": _PROMPT,
        "voice": _TEXT,
        "duration": {"type": "integer", "minimum": 1, "maximum": 600},
        "audio": _FILE,
        "source_audio": _FILE,
        "seed": _SEED,
    },
)

BUILT_IN: dict[str, Schema] = {
    "chat": _CHAT,
    "embedding": _EMBEDDING,
    "image": _IMAGE,
    "video": _VIDEO,
    "audio": _AUDIO,
}


def schema_of(modality: str, input_schema: str) -> Schema:
    """A model's own schema (JSON text), or the one built in for its modality."""
    if input_schema:
        own: Schema = msgspec.json.decode(input_schema)
        return own
    return BUILT_IN.get(modality, {"type": "object"})


def body_schema(input_schema: Schema) -> Schema:
    """Of a whole request to create an execution."""
    properties: Schema = {
        "model": {"type": "string", "minLength": 1, "maxLength": 128},
        "input": {"type": "object"} | input_schema,
        "webhook_url": {"type": ["string", "null"], "maxLength": 2_048},
        "metadata": {"type": ["object", "null"]},
    }
    return _object(("model", "input"), properties)
