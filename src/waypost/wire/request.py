"""A caller's request in whichever chat format: what we act on, and the checks that all formats share.

The fields that route and bill are read strictly; every other field stays as it was received and reaches a provider of
the same format unchanged.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec

from waypost.kit.codec import has_more_values_than, is_deeper_than, repeated_key
from waypost.kit.errors import Refusal, invalid
from waypost.wire.canonical import Signature
from waypost.wire.conversation import Conversation
from waypost.wire.preferences import Preferences

DEPTH_MAX = 64
MESSAGES_MAX = 2_000
OUTPUT_TOKENS_MAX = 2**31 - 1  # far over every model; keeps products of tokens and prices within reason
VALUES_MAX = 65_536  # objects, arrays and strings of a body, names included; read, each takes up to 120 bytes
ELEMENTS_MAX = 327_680  # and what else is listed, some 40 bytes each: OpenAI takes 300,000 tokens to embed at once
COUNTED_FROM_BYTES = 196_608  # a smaller body cannot take more than 14 MiB when it is read
MORE_THAN_A_CONTEXT = 1 << 20  # images; no context holds so many

# A model's name may stand in a path at some providers: nothing that could climb out of it.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_ESCAPED_ASCII = re.compile(rb"\\u00[4-7]")
_PATH = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(\w{1,64})`", re.ASCII)
_BYTE = re.compile(r"\(byte \d+\)")
_ENUM = "Invalid enum value "
# Of the decoder's texts, by the first that is found: what is wrong, as a word for programs.
_DETAILS = (
    (re.compile(r", got `"), "INVALID_TYPE"),
    (re.compile(r" of length |` [<>]=? |multiple of"), "OUT_OF_RANGE"),
    (re.compile(r"matching regex|^Invalid (?!enum)"), "INVALID_FORMAT"),
)

_PIECE_BYTES = 1 << 16
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

_ASCII = bytes(byte if byte < 128 else ord("?") for byte in range(256))

_Known = TypeVar("_Known")
_NOTHING = msgspec.Raw(b"")
_decode_any = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _nobody(user: str) -> str:  # noqa: ARG001
    return ""


class Around(msgspec.Struct, frozen=True, gc=False):
    """What stands around a body: Gemini names model and streaming in the path; `open_sealed` opens the envelopes that
    the caller's organisation was given (`wire.envelope`); `pseudonym` is what a provider may know a user of theirs by,
    "" for nothing."""

    open_sealed: Callable[[str], Signature | None]
    path_model: str = ""
    is_stream: bool = False
    headers: Mapping[bytes, bytes] = {}
    query: str = ""  # as received, percent-encoded
    pseudonym: Callable[[str], str] = _nobody


def _sealed_for_nobody(sealed: str) -> Signature | None:  # noqa: ARG001
    return None


_NOTHING_AROUND = Around(_sealed_for_nobody)


class ChatRequest(msgspec.Struct, gc=False):
    """A valid request. Token bounds are None when the caller gave none."""

    format: str  # a name in wire.formats
    model: str
    is_stream: bool
    include_usage: bool
    n: int
    output_tokens_max: int | None  # per choice
    fields: dict[str, msgspec.Raw]  # every top-level field as it was received
    text_bytes: int  # no text of the request has more tokens than this; base64 of images left out
    image_count: int
    wants_logprobs: bool
    uses_functions: bool  # asked with the legacy `functions`, so calls are answered as `function_call`
    around: Around
    upstream_headers: bytes = b""  # header lines, each ending in CRLF, for a provider of the same format
    preferences: Preferences | None = None  # about who may answer
    conversation: Conversation | None = None  # made when first needed: see wire.formats.conversation_of
    shows_reasoning: bool = True  # False: the caller did not ask to read what the model thought
    modality: str = "chat"  # of the models that can answer it
    is_array: bool = False  # a stream is written as the elements of one JSON array


def let_go_of_call(request: ChatRequest) -> None:
    """No call will be built from it any more: what only that needs may go. Its fields stay, by which it is counted."""
    request.around = _NOTHING_AROUND
    request.conversation = None
    request.upstream_headers = b""


def contexts(request: ChatRequest) -> int:
    """How many contexts the input may fill: of embeddings, each input has one to itself."""
    return request.n if request.modality == "embedding" else 1


def read_fields(
    body: bytes, decode_known: Callable[[bytes], _Known], *, turns: str, single: tuple[str, ...]
) -> tuple[dict[str, msgspec.Raw], _Known, bool, bool]:
    """Every field raw, the known ones decoded, whether there are arrays beside that of the turns, and whether ASCII
    stands escaped somewhere. `turns` names the field that holds the conversation; of the `single` fields none may
    stand twice. Raises Refusal: 400 naming the field at fault."""
    # Two decoders and some scans: `find` skips through a kilobyte in 40 ns, where `count` takes 400.
    find, count = body.find, body.count
    if not body.isascii():
        check_utf8(body)
    if len(body) > COUNTED_FROM_BYTES:
        _check_values(body)
    try:
        fields = _decode_fields(body)
        array = find(b"[")  # of the turns, in most bodies the only one
        has_more_arrays = find(b"[", array + 1) >= 0
        if count(b"{") + (count(b"[") if has_more_arrays else 1) > DEPTH_MAX and is_deeper_than(body, DEPTH_MAX):
            raise invalid(None, f"The body nests more than {DEPTH_MAX} levels.")
        known = decode_known(body)
    except msgspec.ValidationError as error:
        refuse_value(error)
    except ValueError as malformed:
        where = _BYTE.search(str(malformed))
        raise invalid(None, f"The body is not valid JSON{' ' + where[0] if where else ''}.") from None
    except RecursionError:
        raise invalid(None, f"The body nests more than {DEPTH_MAX} levels.") from None
    has_escapes = find(b"\\") >= 0 and _ESCAPED_ASCII.search(body) is not None
    # The turns are most of the body and none of its keys: what stands around them has a colon for each field, unless a
    # key stands twice, or a value is more than a word.
    value = fields.get(turns, _NOTHING)
    begin = find(b"[", find(f'"{turns}"'.encode())) if has_more_arrays else array
    end = begin + len(value)
    if has_escapes or not body.startswith(value, begin) or count(b":", 0, begin) + count(b":", end) != len(fields):
        _check_single_keys(body, value, begin, single)
    return fields, known, has_more_arrays, has_escapes


def decode_for_media(turns: Any) -> Any:  # a msgspec.Raw is no bytes, whatever mypy is told
    """The turns of a conversation, for who looks for media in it: of those all words are ASCII. In a long body, other
    characters are question marks, a byte each: as text, one of them would make every other take four bytes.
    Raises ValueError for a number that is out of range."""
    return _decode_any(bytes(turns).translate(_ASCII) if len(turns) > COUNTED_FROM_BYTES else turns)


def check_model_name(model: str) -> None:
    if not is_model_name(model):
        raise invalid("model", "'model' is not the name of a model.")


def check_utf8(body: bytes) -> None:
    """Piece by piece: as text, a long body would take four times its size for one character."""
    try:
        if len(body) <= _PIECE_BYTES:
            body.decode()
            return
        decode = _Utf8Decoder().decode
        for at in range(0, len(body), _PIECE_BYTES):
            decode(body[at : at + _PIECE_BYTES], at + _PIECE_BYTES >= len(body))
    except UnicodeDecodeError:
        raise invalid(None, "The body is not valid UTF-8.") from None


def _check_values(body: bytes) -> None:
    if has_more_values_than(body, VALUES_MAX, others_max=ELEMENTS_MAX):
        bound = f"{VALUES_MAX:,} objects, arrays and strings, or {ELEMENTS_MAX:,} elements in all"
        raise invalid(None, f"The body holds more than {bound}.")


def refuse_value(error: msgspec.ValidationError) -> NoReturn:
    """400 for a value of the wrong type or out of bounds, naming its field."""
    raise refusal_of_value(error) from None


def refusal_of_value(error: msgspec.ValidationError, allowed: Callable[[str], Sequence[str]] | None = None) -> Refusal:
    """400 for a value of the wrong type or out of bounds, naming its field; `allowed` tells the values of a field that
    has few, none where it does not know."""
    found = _PATH.match(str(error))
    assert found is not None
    text, param = found[1], found[2] or ""
    missing = _MISSING.fullmatch(text)
    if missing is not None:
        param = f"{param}.{missing[1]}" if param else missing[1]
        return invalid(param, f"'{param}' is missing.", "REQUIRED")
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        param = f"{param}.{unknown[1]}" if param else unknown[1]
        return invalid(param, f"'{param}' means nothing here.", "UNKNOWN_FIELD")
    if not param:
        return invalid(None, "The body must be a JSON object.")
    if text.startswith(_ENUM):  # the one text of the decoder's that quotes the value
        values = ", ".join(allowed(param)) if allowed is not None else ""
        return invalid(param, f"'{param}' is one of {values}." if values else f"'{param}' has no such value.")
    detail = next((detail for pattern, detail in _DETAILS if pattern.search(text)), "INVALID_VALUE")
    return invalid(param, f"'{param}' is not valid: {text[:1].lower()}{text[1:]}.", detail)


def _check_single_keys(body: bytes, turns: msgspec.Raw, begin: int, single: tuple[str, ...]) -> None:
    """`turns` stand at `begin`, or elsewhere where their name stands first in another place."""
    rest = body
    if len(turns) and begin >= 0 and body.startswith(turns, begin):
        rest = b"%b0%b" % (body[:begin], body[begin + len(turns) :])
    name = repeated_key(rest, single)
    if name is not None:
        raise invalid(name, f"'{name}' stands twice in the body.")


@lru_cache(maxsize=1024)  # a process sees the same few names all day, and the pattern costs a microsecond
def is_model_name(model: str) -> bool:
    return _MODEL.fullmatch(model) is not None and ".." not in model
