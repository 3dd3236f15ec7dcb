"""MixRoute's video tasks in terms of executions: the input that a task is, and the words for its states.

Its pages know two generations of the request: fields at the top (`prompt`, `seconds`, `size`, `image`, …), and
`metadata.input` with `metadata.parameters`. Both become an execution's input by our names; what we have no name for
goes on as it is, for models whose own schema knows it. An answer has the fields of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from waypost.kit.errors import Fault, InvalidFields, invalid

# Our name of a field, by what tasks call it.
_NAMES = {
    "seconds": "duration",
    "durationSeconds": "duration",
    "duration_seconds": "duration",
    "aspectRatio": "aspect_ratio",
    "ratio": "aspect_ratio",
    "generateAudio": "generate_audio",
    "audio": "generate_audio",
    "negativePrompt": "negative_prompt",
    "lastFrame": "last_frame",
    "firstFrame": "first_frame",
    "input_reference": "image",
    "reference_image": "image",
}
_MEDIA = {"first_frame": "first_frame", "last_frame": "last_frame", "reference_video": "source_video"}
_REFERENCE = "reference_image"
_AUTOMATIC = ("adaptive", "auto", "", -1, "-1")  # values that say nothing
_INPUT = "input."  # of an execution
_OF_THE_TASK = ("model", "metadata", "webhook_url")
_ANYWAY = ("prompt_extend", "watermark", "style")  # wishes of some models, left out where the model does not know them

_STATUSES = {
    "PENDING": ("queued", "QUEUED", "0%"),
    "PROCESSING": ("in_progress", "IN_PROGRESS", "50%"),
    "AWAITING_WEBHOOK": ("in_progress", "IN_PROGRESS", "50%"),
    "COMPLETED": ("succeeded", "SUCCESS", "100%"),
    "FAILED": ("failed", "FAILURE", "100%"),
    "CANCELLED": ("failed", "CANCELED", "100%"),
    "EXPIRED": ("failed", "EXPIRED", "100%"),
}


def task_statuses(public_status: str) -> tuple[str, str, str]:
    """(status of the first generation, of the second, progress) of an execution's public status."""
    return _STATUSES[public_status]


def input_of_task(body: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The input of an execution. `known` are the fields that the model's schema names. Raises Refusal 400."""
    sent = dict(body)
    for name in _OF_THE_TASK:
        sent.pop(name, None)
    metadata = body.get("metadata")
    if metadata is not None:
        sent |= _nested(metadata)
    found: dict[str, Any] = {}
    for name, value in sent.items():
        ours = name if name in known else _NAMES.get(name, name)
        if value is None or (isinstance(value, str | int) and value in _AUTOMATIC and ours != "prompt"):
            continue
        if name in _ANYWAY and name not in known:
            continue
        is_digits = isinstance(value, str) and value.isascii() and value.isdigit()
        found[ours] = int(value) if ours == "duration" and is_digits else value
    if "size" in found and "size" not in known:
        found |= _measures(found.pop("size"))
    return found


def in_words_of_task(wrong: InvalidFields, task: Mapping[str, Any]) -> InvalidFields:
    """The same faults, by the names that the task itself has for what is wrong."""
    sent = dict(task)
    if isinstance(task.get("metadata"), dict):
        sent |= _nested(task["metadata"])
    theirs = {_NAMES[name]: name for name in sent if name in _NAMES and _NAMES[name] not in sent}
    return InvalidFields([_renamed(fault, theirs) for fault in wrong.faults])


def _renamed(fault: Fault, theirs: Mapping[str, str]) -> Fault:
    if not fault.field.startswith(_INPUT):
        return fault
    ours = fault.field.removeprefix(_INPUT)
    name = theirs.get(ours, ours)
    return Fault(name, fault.code, fault.message.replace(f"'{fault.field}'", f"'{name}'"))


def _nested(metadata: object) -> dict[str, Any]:
    """`{input: {prompt, media: [{type, url}]}, parameters: {…}}`."""
    if not isinstance(metadata, dict):
        raise invalid("metadata", "'metadata' is an object.")
    inner, parameters = metadata.get("input", {}), metadata.get("parameters", {})
    if not isinstance(inner, dict) or not isinstance(parameters, dict):
        raise invalid("metadata", "'metadata.input' and 'metadata.parameters' are objects.")
    found = {name: value for name, value in inner.items() if name != "media"} | parameters
    media = inner.get("media", [])
    if not isinstance(media, list):
        raise invalid("metadata.input.media", "'media' is an array of {type, url}.")
    for each in media:
        kind, url = (each.get("type"), each.get("url")) if isinstance(each, dict) else (None, None)
        if not isinstance(url, str) or (kind not in _MEDIA and kind != _REFERENCE):
            told = f"An element of 'media' is an object with 'type' ({', '.join((*_MEDIA, _REFERENCE))}) and 'url'."
            raise invalid("metadata.input.media", told)
        if kind == _REFERENCE:
            found.setdefault("reference_images", []).append(url)
        else:
            found[_MEDIA[kind]] = url
    return found


def _measures(size: object) -> dict[str, Any]:
    """`1280x720` and `16:9`."""
    if isinstance(size, str):
        width, by, height = size.partition("x")
        if by and width.isascii() and width.isdigit() and height.isascii() and height.isdigit():
            return {"width": int(width[:6]), "height": int(height[:6])}
        if ":" in size:
            return {"aspect_ratio": size}
    raise invalid("size", "'size' is of the form 1280x720 or 16:9.")
