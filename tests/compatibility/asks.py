"""Every feature of a request as each caller's format writes it. What is looked for afterwards is marked: a word, or a
number that nothing else has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

JsonObject = dict[str, Any]

PNG, PDF, WAV = "iVBORw0KGgo=", "JVBERi0xLjQ=", "UklGRiQAAABXQVZF"
URL = "https://example.org/marked.png"
MARK = "marked"
SCHEMA = {
    "type": "object",
    "properties": {"marked_city": {"type": "string"}},
    "required": ["marked_city"],
    "additionalProperties": False,
}
ARGUMENTS = '{"marked_city":"Oslo"}'

OPENAI, RESPONSES, ANTHROPIC, GEMINI = "openai_chat", "openai_responses", "anthropic_messages", "gemini_generate"


def _chat(*messages: JsonObject, **fields: Any) -> JsonObject:
    return {"model": "swift-1", "messages": list(messages) or [{"role": "user", "content": "hi"}], **fields}


def _responses(*items: JsonObject, **fields: Any) -> JsonObject:
    return {"model": "swift-1", "input": list(items) or "hi", "store": False, **fields}


def _messages(*messages: JsonObject, **fields: Any) -> JsonObject:
    said = list(messages) or [{"role": "user", "content": "hi"}]
    return {"model": "swift-1", "max_tokens": 1000, "messages": said, **fields}


def _generate(*contents: JsonObject, **fields: Any) -> JsonObject:
    return {"contents": list(contents) or [{"role": "user", "parts": [{"text": "hi"}]}], **fields}


def _user(*parts: JsonObject) -> JsonObject:
    return {"role": "user", "content": list(parts)}


def _config(**fields: Any) -> JsonObject:
    return _generate(generationConfig=fields)


CHAT_TOOL = {"type": "function", "function": {"name": "marked_tool", "description": "d", "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "marked_tool", "description": "d", "parameters": SCHEMA, "strict": False}
MESSAGES_TOOL = {"name": "marked_tool", "description": "d", "input_schema": SCHEMA}
GENERATE_TOOL = {"functionDeclarations": [{"name": "marked_tool", "description": "d", "parametersJsonSchema": SCHEMA}]}

CHAT_CALL = {"id": "call_1", "type": "function", "function": {"name": "marked_tool", "arguments": ARGUMENTS}}
RESPONSES_CALL = {"type": "function_call", "call_id": "call_1", "name": "marked_tool", "arguments": ARGUMENTS}
MESSAGES_CALL = {"type": "tool_use", "id": "toolu_1", "name": "marked_tool", "input": {"marked_city": "Oslo"}}
GENERATE_CALL = {"functionCall": {"id": "c1", "name": "marked_tool", "args": {"marked_city": "Oslo"}}}
QUESTION = {"role": "user", "content": "hi"}


def _after_call(result: JsonObject, wanted: str) -> JsonObject:
    """A conversation with a call and this result."""
    match wanted:
        case "chat":
            return _chat(QUESTION, {"role": "assistant", "tool_calls": [CHAT_CALL]}, result, tools=[CHAT_TOOL])
        case "responses":
            return _responses(QUESTION, RESPONSES_CALL, result, tools=[RESPONSES_TOOL])
        case "messages":
            called = {"role": "assistant", "content": [MESSAGES_CALL]}
            return _messages(QUESTION, called, {"role": "user", "content": [result]}, tools=[MESSAGES_TOOL])
    called = {"role": "model", "parts": [GENERATE_CALL]}
    asked = {"role": "user", "parts": [{"text": "hi"}]}
    return _generate(asked, called, {"role": "user", "parts": [result]}, tools=[GENERATE_TOOL])


def _image(**source: Any) -> JsonObject:
    return {"type": "image", "source": source}


_CHAT_RESULT = {"role": "tool", "tool_call_id": "call_1"}
_RESPONSES_RESULT = {"type": "function_call_output", "call_id": "call_1"}
_MESSAGES_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
_PDF = {"type": "base64", "media_type": "application/pdf", "data": PDF}
_CHAT_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
_RESPONSES_SCHEMA = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
_MESSAGES_SCHEMA = {"format": {"type": "json_schema", "schema": SCHEMA}}
_GENERATE_RESPONSE: JsonObject = {"name": "marked_tool", "id": "c1", "response": {"output": MARK}}

# feature → format → body. A format that is not named has no words for it.
ASKS: Mapping[str, Mapping[str, JsonObject]] = {
    "system prompt": {
        OPENAI: _chat({"role": "system", "content": MARK}, QUESTION),
        RESPONSES: _responses(instructions=MARK),
        ANTHROPIC: _messages(system=MARK),
        GEMINI: _generate(systemInstruction={"parts": [{"text": MARK}]}),
    },
    "image, inline": {
        OPENAI: _chat(_user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}})),
        RESPONSES: _responses(_user({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})),
        ANTHROPIC: _messages(_user(_image(type="base64", media_type="image/png", data=PNG))),
        GEMINI: _generate({"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}),
    },
    "image, by URL": {
        OPENAI: _chat(_user({"type": "image_url", "image_url": {"url": URL}})),
        RESPONSES: _responses(_user({"type": "input_image", "image_url": URL})),
        ANTHROPIC: _messages(_user(_image(type="url", url=URL))),
        GEMINI: _generate({"role": "user", "parts": [{"fileData": {"mimeType": "image/png", "fileUri": URL}}]}),
    },
    "document, inline": {
        OPENAI: _chat(
            _user({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}})
        ),
        RESPONSES: _responses(
            _user({"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"})
        ),
        ANTHROPIC: _messages(_user({"type": "document", "source": _PDF})),
        GEMINI: _generate({"role": "user", "parts": [{"inlineData": {"mimeType": "application/pdf", "data": PDF}}]}),
    },
    "audio, inline": {
        OPENAI: _chat(_user({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}})),
        GEMINI: _generate({"role": "user", "parts": [{"inlineData": {"mimeType": "audio/wav", "data": WAV}}]}),
    },
    "tools": {
        OPENAI: _chat(tools=[CHAT_TOOL]),
        RESPONSES: _responses(tools=[RESPONSES_TOOL]),
        ANTHROPIC: _messages(tools=[MESSAGES_TOOL]),
        GEMINI: _generate(tools=[GENERATE_TOOL]),
    },
    "tool choice: any": {
        OPENAI: _chat(tools=[CHAT_TOOL], tool_choice="required"),
        RESPONSES: _responses(tools=[RESPONSES_TOOL], tool_choice="required"),
        ANTHROPIC: _messages(tools=[MESSAGES_TOOL], tool_choice={"type": "any"}),
        GEMINI: _generate(tools=[GENERATE_TOOL], toolConfig={"functionCallingConfig": {"mode": "ANY"}}),
    },
    "tool choice: none": {
        OPENAI: _chat(tools=[CHAT_TOOL], tool_choice="none"),
        RESPONSES: _responses(tools=[RESPONSES_TOOL], tool_choice="none"),
        ANTHROPIC: _messages(tools=[MESSAGES_TOOL], tool_choice={"type": "none"}),
        GEMINI: _generate(tools=[GENERATE_TOOL], toolConfig={"functionCallingConfig": {"mode": "NONE"}}),
    },
    "tool choice: a named one": {
        OPENAI: _chat(tools=[CHAT_TOOL], tool_choice={"type": "function", "function": {"name": "marked_tool"}}),
        RESPONSES: _responses(tools=[RESPONSES_TOOL], tool_choice={"type": "function", "name": "marked_tool"}),
        ANTHROPIC: _messages(tools=[MESSAGES_TOOL], tool_choice={"type": "tool", "name": "marked_tool"}),
        GEMINI: _generate(
            tools=[GENERATE_TOOL],
            toolConfig={"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["marked_tool"]}},
        ),
    },
    "one tool call at a time": {
        OPENAI: _chat(tools=[CHAT_TOOL], parallel_tool_calls=False),
        RESPONSES: _responses(tools=[RESPONSES_TOOL], parallel_tool_calls=False),
        ANTHROPIC: _messages(tools=[MESSAGES_TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
    },
    "earlier tool calls": {
        OPENAI: _after_call({**_CHAT_RESULT, "content": "1"}, "chat"),
        RESPONSES: _after_call({**_RESPONSES_RESULT, "output": "1"}, "responses"),
        ANTHROPIC: _after_call({**_MESSAGES_RESULT, "content": "1"}, "messages"),
        GEMINI: _after_call({"functionResponse": {**_GENERATE_RESPONSE, "response": {"output": "1"}}}, "generate"),
    },
    "tool result": {
        OPENAI: _after_call({**_CHAT_RESULT, "content": MARK}, "chat"),
        RESPONSES: _after_call({**_RESPONSES_RESULT, "output": MARK}, "responses"),
        ANTHROPIC: _after_call({**_MESSAGES_RESULT, "content": MARK}, "messages"),
        GEMINI: _after_call({"functionResponse": _GENERATE_RESPONSE}, "generate"),
    },
    "tool result that is an error": {
        ANTHROPIC: _after_call({**_MESSAGES_RESULT, "content": MARK, "is_error": True}, "messages"),
        GEMINI: _after_call({"functionResponse": {**_GENERATE_RESPONSE, "response": {"error": MARK}}}, "generate"),
    },
    "tool result with an image": {
        RESPONSES: _after_call(
            {**_RESPONSES_RESULT, "output": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]},
            "responses",
        ),
        ANTHROPIC: _after_call(
            {**_MESSAGES_RESULT, "content": [_image(type="base64", media_type="image/png", data=PNG)]}, "messages"
        ),
    },
    "answer by a JSON schema": {
        OPENAI: _chat(response_format=_CHAT_SCHEMA),
        RESPONSES: _responses(text=_RESPONSES_SCHEMA),
        ANTHROPIC: _messages(output_config=_MESSAGES_SCHEMA),
        GEMINI: _config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
    },
    "answer as any JSON object": {
        OPENAI: _chat(response_format={"type": "json_object"}),
        RESPONSES: _responses(text={"format": {"type": "json_object"}}),
        GEMINI: _config(responseMimeType="application/json"),
    },
    "stop sequences": {
        OPENAI: _chat(stop=[MARK]),
        ANTHROPIC: _messages(stop_sequences=[MARK]),
        GEMINI: _config(stopSequences=[MARK]),
    },
    "temperature": {
        OPENAI: _chat(temperature=0.125),
        RESPONSES: _responses(temperature=0.125),
        ANTHROPIC: _messages(temperature=0.125),
        GEMINI: _config(temperature=0.125),
    },
    "top_p": {
        OPENAI: _chat(top_p=0.375),
        RESPONSES: _responses(top_p=0.375),
        ANTHROPIC: _messages(top_p=0.375),
        GEMINI: _config(topP=0.375),
    },
    "top_k": {ANTHROPIC: _messages(top_k=17), GEMINI: _config(topK=17)},
    "penalties": {
        OPENAI: _chat(presence_penalty=0.625, frequency_penalty=0.625),
        GEMINI: _config(presencePenalty=0.625, frequencyPenalty=0.625),
    },
    "seed": {OPENAI: _chat(seed=4242), GEMINI: _config(seed=4242)},
    "several choices": {OPENAI: _chat(n=3), GEMINI: _config(candidateCount=3)},
    "log probabilities": {
        OPENAI: _chat(logprobs=True, top_logprobs=5),
        RESPONSES: _responses(include=["message.output_text.logprobs"], top_logprobs=5),
        GEMINI: _config(responseLogprobs=True, logprobs=5),
    },
    "reasoning, by effort": {
        OPENAI: _chat(reasoning_effort="low"),
        RESPONSES: _responses(reasoning={"effort": "low"}),
        ANTHROPIC: _messages(thinking={"type": "adaptive"}, output_config={"effort": "low"}),
        GEMINI: _config(thinkingConfig={"thinkingLevel": "LOW"}),
    },
    "reasoning, by budget": {
        ANTHROPIC: _messages(max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2048}),
        GEMINI: _config(thinkingConfig={"thinkingBudget": 2048}),
    },
    "prompt cache marks": {
        OPENAI: _chat(_user({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}})),
        ANTHROPIC: _messages(_user({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}})),
    },
    "citations of documents": {
        ANTHROPIC: _messages(_user({"type": "document", "source": _PDF, "citations": {"enabled": True}})),
    },
    "verbosity": {OPENAI: _chat(verbosity="low"), RESPONSES: _responses(text={"verbosity": "low"})},
    "a field nobody knows": {
        OPENAI: _chat(surprise=MARK),
        RESPONSES: _responses(surprise=MARK),
        ANTHROPIC: _messages(surprise=MARK),
        GEMINI: _generate(surprise=MARK),
    },
}


def has(value: object) -> Callable[[object], bool]:
    """Whether a scalar stands anywhere in a document: as it is, or within a text."""

    def look(document: object) -> bool:
        if isinstance(document, dict):
            return any(look(each) for each in (*document.keys(), *document.values()))
        if isinstance(document, list):
            return any(look(each) for each in document)
        if isinstance(value, str):
            return isinstance(document, str) and value in document
        return type(document) is type(value) and document == value

    return look
