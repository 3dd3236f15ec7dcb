"""What a caller asks of a simulated provider: the fields of a chat completion request that change the answer.

Unknown fields are accepted and ignored, as the real providers mostly do.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from waypost.simulator.directive import Directives, read_directives

_MESSAGE_TOKENS = 4  # what the chat template adds around a message
_PROMPT_TOKENS = 3  # what it adds in front of the answer
_BYTES_PER_TOKEN = 4
_LOW_DETAIL_TOKENS = 85
_IMAGE_TOKENS = 765
_CACHE_MIN_TOKENS = 1024  # shorter prompts are never served from the cache
_CACHE_STEP_TOKENS = 128

Count = Annotated[int, msgspec.Meta(ge=1)]


class ImageUrl(msgspec.Struct):
    url: str
    detail: str = "auto"


class Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: ImageUrl | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or part.refusal for part in self.content)
        return self.content or ""

    @property
    def images(self) -> list[ImageUrl]:
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url for part in parts if part.image_url is not None]


class Function(msgspec.Struct):
    name: str
    description: str = ""
    parameters: dict[str, object] = {}


class Tool(msgspec.Struct):
    type: str
    function: Function | None = None


class NamedFunction(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    type: str
    function: NamedFunction


class JsonSchema(msgspec.Struct):
    name: str = ""
    schema: dict[str, object] = {}


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    images: int = 0  # to be generated, instead of words
    vectors: int = 0  # dimensions of the vectors to be made of each message, instead of words
    is_base64: bool = False  # vectors are wanted so
    is_batch: bool = False  # vectors are wanted in a list

    @property
    def is_stream(self) -> bool:
        return bool(self.stream)

    @property
    def is_usage_wanted(self) -> bool:
        return not self.stream or (self.stream_options is not None and self.stream_options.include_usage)

    @property
    def output_tokens_max(self) -> int | None:
        """Tokens that one choice may have at most, under either name of the field."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def last_user_text(self) -> str:
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")


class InvalidRequest(Exception):
    """The provider refuses the request with status 400; the text is the provider's message."""


_DECODER = msgspec.json.Decoder(ChatRequest)


def read_request(body: bytes) -> tuple[ChatRequest, Directives]:
    """Raises InvalidRequest for anything that is not a chat completion request, or for an unknown directive."""
    try:
        request = _DECODER.decode(body)
        return request, read_directives(request.last_user_text, request.model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error


def conversation_seed(request: ChatRequest) -> bytes:
    """Equal for equal conversations, whatever the model is called and however the JSON is written."""
    said = [(message.role, message.text) for message in request.messages]
    names = [tool.function.name for tool in request.tools or [] if tool.function is not None]
    return hashlib.sha256(msgspec.json.encode((said, names))).digest()


def prompt_tokens(request: ChatRequest) -> int:
    """Tokens of the whole prompt: a quarter of its bytes, what a template adds, and the images."""
    total = _PROMPT_TOKENS
    for message in request.messages:
        bytes_count = len(message.text.encode()) + sum(map(len, message.tool_calls or ()))
        total += _MESSAGE_TOKENS - (-bytes_count // _BYTES_PER_TOKEN) + image_tokens(message)
    for described in (request.tools, request.response_format):
        if described is not None:
            total += len(msgspec.json.encode(described)) // _BYTES_PER_TOKEN
    return total


def image_tokens(message: Message) -> int:
    """85 tokens for an image in low detail, 765 for any other."""
    return sum(_LOW_DETAIL_TOKENS if image.detail == "low" else _IMAGE_TOKENS for image in message.images)


def cached_prompt_tokens(request: ChatRequest, all_tokens: int) -> int:
    """What a provider with a warm cache reads from it: everything before the last message, in steps of 128 tokens."""
    last = request.messages[-1]
    fresh = _MESSAGE_TOKENS - (-len(last.text.encode()) // _BYTES_PER_TOKEN) + image_tokens(last)
    cached = (all_tokens - fresh) // _CACHE_STEP_TOKENS * _CACHE_STEP_TOKENS
    return cached if cached >= _CACHE_MIN_TOKENS else 0
