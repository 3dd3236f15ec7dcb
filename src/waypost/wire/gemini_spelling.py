"""Gemini's JSON takes each of its fields in two spellings, `generationConfig` and `generation_config`: read as one.

Only fields of the format are respelled. What stands under them and is the caller's own (arguments of a function, names
of a schema's properties) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from waypost.kit.errors import invalid

_CAPITAL = re.compile(r"[A-Z]")


class Shape:
    """The fields of an object of the format, and the shapes of the objects and lists of objects under them."""

    __slots__ = ("_aliases", "_inner", "names")

    def __init__(self, *names: str, **inner: Shape) -> None:
        self._inner = inner
        self.names = frozenset((*names, *inner))
        self._aliases = {snake: name for name in (*names, *inner) if (snake := snake_case(name)) != name}

    def name_of(self, name: str) -> str:
        """The field's first spelling."""
        return self._aliases.get(name, name)

    def respell(self, value: object, where: str = "") -> object:
        """The value with every field in its first spelling. Raises Refusal when a field stands there in both."""
        if isinstance(value, list):
            return [self.respell(each, f"{where}[{at}]") for at, each in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        respelled: dict[str, object] = {}
        for sent, each in value.items():
            name = self.name_of(sent)
            place = f"{where}.{name}" if where else name
            if name in respelled:
                raise invalid(place, f"'{place}' stands there in two spellings.")
            inner = self._inner.get(name)
            respelled[name] = each if inner is None else inner.respell(each, place)
        return respelled


def snake_case(name: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[0].lower()}", name)


def respell_names(fields: Mapping[str, bytes], shape: Shape, where: str = "") -> dict[str, bytes]:
    """The same, of one object only whose values stay raw."""
    respelled: dict[str, bytes] = {}
    for sent, value in fields.items():
        name = shape.name_of(sent)
        if name in respelled:
            raise invalid(where + name, f"'{where}{name}' stands there in two spellings.")
        respelled[name] = value
    return respelled


_BLOB = Shape("mimeType", "data", "displayName")
_FILE = Shape("mimeType", "fileUri", "displayName")
_RESULT_PART = Shape("mediaResolution", inlineData=_BLOB, fileData=_FILE)
_PART = Shape(
    *("text", "thought", "thoughtSignature", "executableCode", "codeExecutionResult", "videoMetadata"),
    *("mediaResolution", "partMetadata", "toolCall", "toolResponse"),
    inlineData=_BLOB,
    fileData=_FILE,
    functionCall=Shape("id", "name", "args"),
    functionResponse=Shape("id", "name", "response", "willContinue", "scheduling", parts=_RESULT_PART),
)
CONTENT = Shape("role", parts=_PART)
TOOL = Shape(
    *("googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "computerUse", "fileSearch"),
    *("googleMaps", "mcpServers"),
    functionDeclarations=Shape(
        *("name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior"),
    ),
)
TOOL_CONFIG = Shape(
    "retrievalConfig",
    functionCallingConfig=Shape("mode", "allowedFunctionNames", "streamFunctionCallArguments"),
)
GENERATION_CONFIG = Shape(
    *("temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "seed", "presencePenalty"),
    *("frequencyPenalty", "responseMimeType", "responseSchema", "responseJsonSchema", "responseLogprobs", "logprobs"),
    *("responseModalities", "speechConfig", "mediaResolution", "imageConfig", "audioTimestamp"),
    *("enableEnhancedCivicAnswers", "responseFormat"),
    thinkingConfig=Shape("includeThoughts", "thinkingBudget", "thinkingLevel"),
)
SAFETY_SETTING = Shape("category", "threshold", "method")
REQUEST = Shape(
    *("model", "labels", "cachedContent", "serviceTier", "store"),
    contents=CONTENT,
    systemInstruction=CONTENT,
    tools=TOOL,
    toolConfig=TOOL_CONFIG,
    generationConfig=GENERATION_CONFIG,
    safetySettings=SAFETY_SETTING,
)
