"""The gemini kind's styles: Zeta is like Gemini, Eta like those who are nearly like it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar
from urllib.parse import unquote

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Answer, Choice, DeltaKind, Run, Tokens
from waypost.simulator.directive import Directives
from waypost.simulator.picture import picture
from waypost.simulator.reply import Piece, Stage
from waypost.simulator.request import ChatRequest, InvalidRequest, prompt_tokens
from waypost.simulator.request_gemini import read_counted, read_generate, thought_signature
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling, stage_of
from waypost.simulator.words import alternatives, logprob

_ERROR_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_VERBS = {"generateContent": False, "streamGenerateContent": True}
_CALL = re.compile(r"/v1(?:beta)?/models/(.+):(\w+)")
_MODELS = re.compile(r"/v1(?:beta)?/models(?:/(.+))?")


class Piecemeal(msgspec.Struct, frozen=True):
    """One part, or a stretch of one, and the output tokens that it is. None: output that nobody sees."""

    part: JsonObject | None
    tokens: int
    logprobs: JsonObject | None = None


class GeminiStyle(Style):
    """Shared rules of generateContent."""

    answers_field = "candidates"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:promptTokenCount|totalTokenCount)":\s*\d+')
    count_fields = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")

    def takes(self, method: str, path: str) -> bool:
        called = _CALL.fullmatch(path)
        return method == "POST" and called is not None and called[2] in _VERBS

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:
        called = _CALL.fullmatch(path)
        assert called is not None, "taken"
        return read_generate(unquote(called[1]), body, is_stream=_VERBS[called[2]])

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        called = _CALL.fullmatch(path)
        if method == "POST" and called is not None and called[2] == "countTokens":
            try:
                return {"totalTokens": prompt_tokens(read_counted(unquote(called[1]), body))}
            except InvalidRequest as error:
                return Complaint(400, str(error))
        listed = _MODELS.fullmatch(path)
        if method != "GET" or listed is None:
            return Complaint(404, "Requested entity was not found.")
        shown: dict[str, JsonObject] = {name: {"name": f"models/{name}", "version": "001"} for name in models}
        if listed[1] is None:
            return {"models": list(shown.values())}
        return shown.get(unquote(listed[1]), Complaint(404, "Requested entity was not found."))

    def credential(self, fields: Mapping[str, str]) -> str:
        return fields.get("x-goog-api-key", "") or super().credential(fields)

    def error_type(self, status: int) -> tuple[str, str | None]:
        return _ERROR_STATUS.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION"), None

    # Spelling

    @abstractmethod
    def call(self, identity: Identity, name: str, arguments: object, tool_index: int) -> JsonObject:
        """A function call."""

    @abstractmethod
    def response(self, identity: Identity, candidates: object, usage: object) -> JsonObject:
        """A whole answer or an event; `usage` is UNSET where it tells none."""

    has_usage_everywhere: ClassVar[bool] = True
    finish_is_own: ClassVar[bool] = True

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:  # noqa: ARG002  tells no ids
        return "application/json; charset=UTF-8", self.encode_document(self._error(complaint))

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:  # noqa: ARG002
        return self.frame(self.encode(self._error(complaint)))

    def usage_event(self, identity: Identity, usage: object) -> bytes:
        return self.frame(self.encode(self.response(identity, [], usage)))

    def late_event(self, identity: Identity) -> bytes:
        candidate = self._candidate(0, [{"text": " late"}], None)
        return self.frame(self.encode(self.response(identity, [candidate], msgspec.UNSET)))

    def end_events(self) -> bytes:
        return self.frame(self.encode({"candidates": []}))

    # Putting it together

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        candidates = [
            self._candidate(
                at, [{"inlineData": {"mimeType": "image/png", "data": picture(identity.model, at)}}], "STOP", None
            )
            for at in range(answer.tokens.images)
        ]
        for choice in answer.choices:
            parts: list[JsonObject] = []
            tokens: list[JsonObject] = []
            for piece in self._pieces(choice, answer, identity, is_whole=True):
                parts += [piece.part] if piece.part is not None else []
                tokens += [piece.logprobs] if piece.logprobs is not None else []
            reason = _finish_reason(choice) if telling.has_finish_reason else None
            candidates.append(self._candidate(choice.index, parts, reason, _joined(tokens)))
        return self.encode_document(self.response(identity, candidates, self.told_usage(answer.tokens, telling)))

    def events(
        self, answer: Answer, identity: Identity, telling: Telling, *, first_s: float, delay_s: float
    ) -> Iterator[Piece]:
        total, position = answer.tokens.output, 0
        for choice in answer.choices:
            pieces = list(self._pieces(choice, answer, identity, is_whole=False))
            is_last_choice = choice is answer.choices[-1]
            reason = _finish_reason(choice) if telling.has_finish_reason else None
            for at, piece in enumerate(pieces):
                is_end = at + 1 == len(pieces) and not self.finish_is_own
                pause_s = (delay_s if position else first_s) if piece.tokens else 0.0
                stage = stage_of(position, total) if total else Stage.FIRST
                position += piece.tokens
                if piece.part is None and not is_end:
                    yield Piece(b"", stage, piece.tokens, pause_s)
                    continue
                parts = [] if piece.part is None else [piece.part]
                candidate = self._candidate(choice.index, parts, reason if is_end else None, piece.logprobs)
                is_told = (is_end and is_last_choice) or self.has_usage_everywhere
                usage = self._usage_so_far(answer.tokens, position, telling) if is_told else msgspec.UNSET
                data = self.frame(self.encode(self.response(identity, [candidate], usage)))
                yield Piece(data, Stage.USAGE if is_end and is_last_choice else stage, piece.tokens, pause_s)
            if self.finish_is_own or not pieces:
                candidate = self._candidate(choice.index, [{"text": ""}], reason)
                usage = self.told_usage(answer.tokens, telling) if is_last_choice else msgspec.UNSET
                data = self.frame(self.encode(self.response(identity, [candidate], usage)))
                yield Piece(data, Stage.USAGE if is_last_choice else stage_of(max(position, 1), total or 1))

    def _usage_so_far(self, tokens: Tokens, position: int, telling: Telling) -> object:
        so_far = replace(tokens, output=position, reasoning=min(tokens.reasoning, position))
        return self.told_usage(so_far, telling)

    def _candidate(
        self, index: int, parts: list[JsonObject], reason: str | None, logprobs: JsonObject | None = None
    ) -> JsonObject:
        candidate: JsonObject = {"content": {"parts": parts, "role": "model"}}
        if reason is not None:
            candidate["finishReason"] = reason
        if index:  # proto3 leaves out what is zero
            candidate["index"] = index
        if logprobs is not None:
            candidate["logprobsResult"] = logprobs
        return candidate

    def _pieces(self, choice: Choice, answer: Answer, identity: Identity, *, is_whole: bool) -> Iterator[Piecemeal]:
        """The parts of a choice, text in one piece or a token at a time. What was thought is signed at the first call,
        or else after the last text."""
        thought = choice.text(DeltaKind.REASONING)
        signature = None if thought is None else thought_signature(thought)
        runs = [run for run in choice.runs if run.deltas]
        for at, run in enumerate(runs):
            if run.kind is DeltaKind.TOOL_NAME:
                following = runs[at + 1] if at + 1 < len(runs) else None
                is_called = following is not None and following.kind is DeltaKind.TOOL_ARGUMENTS
                yield self._function_call(run, following if is_called else None, identity, signature)
                signature = None
            elif run.kind is DeltaKind.REASONING and answer.is_redacted:
                yield Piecemeal(None, len(run.deltas))
            elif run.kind is not DeltaKind.TOOL_ARGUMENTS:  # which stand with their name
                yield from _texts(run, answer.top_logprobs, is_whole=is_whole)
        if signature is not None:
            yield Piecemeal({"text": "", "thoughtSignature": signature}, 0)

    def _function_call(self, name: Run, arguments: Run | None, identity: Identity, signature: str | None) -> Piecemeal:
        tokens = len(name.deltas) + (0 if arguments is None else len(arguments.deltas))
        try:
            sent = msgspec.json.decode("{}" if arguments is None else arguments.text)
        except msgspec.DecodeError:
            return Piecemeal(None, tokens)  # cut off by the maximum
        part: JsonObject = {"functionCall": self.call(identity, name.text, sent, name.tool_index)}
        if signature is not None:
            part["thoughtSignature"] = signature
        return Piecemeal(part, tokens)

    def _error(self, complaint: Complaint) -> JsonObject:
        status = complaint.type or self.error_type(complaint.status)[0]
        error: JsonObject = {"code": complaint.status, "message": complaint.message, "status": status}
        if complaint.code:
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": complaint.code}
            error["details"] = [info]
        return {"error": error}


def usage_of(tokens: Tokens) -> JsonObject:
    return {
        "promptTokenCount": tokens.prompt,
        "cachedContentTokenCount": tokens.cached,
        "candidatesTokenCount": tokens.output - tokens.reasoning,
        "thoughtsTokenCount": tokens.reasoning,
        "totalTokenCount": tokens.prompt + tokens.output,
    }


def _finish_reason(choice: Choice) -> str:
    return _FINISH_REASONS.get(choice.finish_reason, "STOP")


def _texts(run: Run, top_logprobs: int | None, *, is_whole: bool) -> Iterator[Piecemeal]:
    is_thought = run.kind is DeltaKind.REASONING
    for text in (run.text,) if is_whole else run.deltas:
        part: JsonObject = {"text": text, "thought": True} if is_thought else {"text": text}
        deltas = run.deltas if is_whole else (text,)
        has_logprobs = top_logprobs is not None and run.kind is DeltaKind.TEXT
        yield Piecemeal(part, len(deltas), _logprobs(deltas, top_logprobs or 0) if has_logprobs else None)


def _logprobs(deltas: Sequence[str], top: int) -> JsonObject:
    return {
        "chosenCandidates": [{"token": token, "logProbability": logprob(token)} for token in deltas],
        "topCandidates": [
            {"candidates": [{"token": each, "logProbability": logprob(each)} for each in alternatives(token, top)]}
            for token in deltas
        ],
    }


def _joined(results: Sequence[JsonObject]) -> JsonObject | None:
    return results[0] if results else None
