"""What providers that speak Gemini's format send, and how each oddity is read.

Known from the wild: calls without ids and without arguments, signatures beside empty texts, thoughts counted within the
candidates, counts that are left out when they are zero, finish reasons by the dozen, an empty candidate beside one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import ProviderError, decode_error, failure_of
from waypost.providers.gemini_build import ORIGIN
from waypost.providers.kind import ErrorRule, Failure, UpstreamError
from waypost.wire.canonical import Citation, Signature, Usage
from waypost.wire.logprobs import Logprobs, TokenLogprob, TopLogprob

ABSENT = msgspec.Raw(b"")
UNREADABLE = -1
"""Stands for a count that is no whole number; metering refuses it as it does any negative one."""
CITATION_KIND = "web_search_result_location"


class Blob(msgspec.Struct, rename="camel", gc=False):
    mime_type: str | None = None
    data: str | None = None


class FunctionCall(msgspec.Struct, gc=False):
    name: str | None = None
    id: str | None = None
    args: dict[str, object] | None = None


class Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    inline_data: Blob | None = None
    function_call: FunctionCall | None = None


class Content(msgspec.Struct, gc=False):
    parts: list[Part] | None = None


class _CitationSource(msgspec.Struct, rename="camel", gc=False):
    start_index: int | None = None
    end_index: int | None = None
    uri: str | None = None
    title: str | None = None


class _Citations(msgspec.Struct, rename="camel", gc=False):
    citation_sources: list[_CitationSource] | None = None
    citations: list[_CitationSource] | None = None  # as Vertex says


class _Web(msgspec.Struct, gc=False):
    uri: str | None = None
    title: str | None = None


class _GroundingChunk(msgspec.Struct, gc=False):
    web: _Web | None = None


class _Segment(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None


class _GroundingSupport(msgspec.Struct, rename="camel", gc=False):
    segment: _Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class _Grounding(msgspec.Struct, rename="camel", gc=False):
    grounding_chunks: list[_GroundingChunk] | None = None
    grounding_supports: list[_GroundingSupport] | None = None


class _Likely(msgspec.Struct, rename="camel", gc=False):
    token: str = ""
    log_probability: float = 0.0


class _Top(msgspec.Struct, gc=False):
    candidates: list[_Likely] | None = None


class _LogprobsResult(msgspec.Struct, rename="camel", gc=False):
    chosen_candidates: list[_Likely] | None = None
    top_candidates: list[_Top] | None = None


class Candidate(msgspec.Struct, rename="camel", gc=False):
    content: Content | None = None
    index: int | None = None
    finish_reason: str | None = None
    citation_metadata: _Citations | None = None
    grounding_metadata: _Grounding | None = None
    logprobs_result: _LogprobsResult | None = None


class _PromptFeedback(msgspec.Struct, rename="camel", gc=False):
    block_reason: str | None = None


class Answer(msgspec.Struct, rename="camel", gc=False):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    usage_metadata: msgspec.Raw = ABSENT
    prompt_feedback: _PromptFeedback | None = None
    response_id: str | None = None
    error: msgspec.Raw = ABSENT


PART_FIELDS = frozenset(Part.__struct_encode_fields__)
CANDIDATE_FIELDS = frozenset((*Candidate.__struct_encode_fields__, "avgLogprobs", "safetyRatings", "tokenCount"))
ANSWER_FIELDS = frozenset((*Answer.__struct_encode_fields__, "modelVersion", "responseId", "createTime"))

decode_answer = msgspec.json.Decoder(Answer).decode
encode = msgspec.json.Encoder().encode

_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        ),
        "content_filter",
    ),
}


def finish_reason_of(sent: str, *, has_calls: bool) -> str:
    """Ours for the provider's. Raises UpstreamError for one that says that the model broke down (a call that cannot be
    parsed, a signature that is missing), and for one that nobody knows: taking it for an end would invent a success.
    """
    if sent.upper() == "PUP_LIMITED_DISABLED":
        raise UpstreamError(Failure(ErrorCode.MODEL_UNAVAILABLE, is_our_credential=True))
    ours = _FINISH_REASONS.get(sent.upper())
    if ours is None:
        raise UpstreamError(Failure(ErrorCode.GENERATION_FAILED))
    return "tool_calls" if has_calls and ours == "stop" else ours


def indexes_of(candidates: Sequence[Candidate]) -> list[int]:
    """Which choice each of them is: the first index is zero and so may be left out."""
    given = {each.index for each in candidates}
    free = (index for index in range(len(candidates)) if index not in given)
    return [next(free) if each.index is None else each.index for each in candidates]


def check_answer(answer: Answer, rules: Sequence[ErrorRule]) -> None:
    """Raises UpstreamError for an error or a prompt that was blocked."""
    if len(answer.error) and bytes(answer.error) != b"null":
        raise UpstreamError(failure_of_document(200, {"error": decode_error(answer.error)}, rules))
    feedback = answer.prompt_feedback
    if feedback is not None and feedback.block_reason and not answer.candidates:
        raise UpstreamError(Failure(ErrorCode.CONTENT_MODERATION_REJECTED))


def arguments_of(call: FunctionCall) -> str:
    return encode(call.args or {}).decode()


def signature_of(part: Part) -> Signature | None:
    return Signature(ORIGIN, part.thought_signature) if part.thought_signature else None


def citations_of(candidate: Candidate) -> list[Citation]:
    """Places in the answer's text are left out: the format counts them in bytes of one part."""
    found: list[Citation] = []
    if candidate.citation_metadata is not None:
        metadata = candidate.citation_metadata
        sources = metadata.citation_sources or metadata.citations or ()
        found += [Citation(CITATION_KIND, url=each.uri or "", title=each.title or "") for each in sources]
    grounding = candidate.grounding_metadata
    if grounding is not None:
        chunks = grounding.grounding_chunks or ()
        for support in grounding.grounding_supports or ():
            cited = support.segment.text if support.segment is not None else None
            for at in support.grounding_chunk_indices or ():
                web = chunks[at].web if 0 <= at < len(chunks) else None
                if web is not None:
                    found.append(Citation(CITATION_KIND, cited or "", web.uri or "", web.title or ""))
    return found


def logprobs_of(candidate: Candidate) -> Logprobs | None:
    sent = candidate.logprobs_result
    if sent is None or not sent.chosen_candidates:
        return None
    tops = sent.top_candidates or ()
    tokens = []
    for at, chosen in enumerate(sent.chosen_candidates):
        top = tops[at].candidates or () if at < len(tops) else ()
        likely = [TopLogprob(each.token, each.log_probability, list(each.token.encode())) for each in top]
        tokens.append(TokenLogprob(chosen.token, chosen.log_probability, list(chosen.token.encode()), likely))
    return Logprobs(tokens)


# ── usage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _ModalityCount(msgspec.Struct, rename="camel", gc=False):
    modality: str = ""
    token_count: int | None = None


class _Counts(msgspec.Struct, rename="camel", gc=False):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    total_token_count: int | None = None
    prompt_tokens_details: list[_ModalityCount] | None = None
    cache_tokens_details: list[_ModalityCount] | None = None
    candidates_tokens_details: list[_ModalityCount] | None = None


_decode_counts = msgspec.json.Decoder(_Counts, strict=False).decode


def usage_of(sent: msgspec.Raw) -> Usage | None:
    """The usage in disjoint classes; None when absent or without any count. A count that is left out is zero, but for
    the output's, which the total tells."""
    if not len(sent) or bytes(sent) in (b"null", b"{}"):
        return None
    try:
        counts = _decode_counts(sent)
    except (ValueError, RecursionError):
        return Usage(UNREADABLE)
    if counts.prompt_token_count is None and counts.total_token_count is None:
        return None
    input_tokens = (counts.prompt_token_count or 0) + (counts.tool_use_prompt_token_count or 0)
    cached, thoughts = counts.cached_content_token_count or 0, counts.thoughts_token_count or 0
    total = counts.total_token_count
    if counts.candidates_token_count is None:
        output_tokens = thoughts if total is None else max(total - input_tokens, thoughts)
    else:
        output_tokens = counts.candidates_token_count + thoughts
        # A few relatives count thoughts within the candidates; their total gives them away.
        if thoughts and total == input_tokens + counts.candidates_token_count:
            output_tokens = counts.candidates_token_count
    if min(input_tokens, cached, thoughts, output_tokens) < 0:
        return Usage(UNREADABLE)
    audio_in = _of(counts.prompt_tokens_details, "AUDIO") - _of(counts.cache_tokens_details, "AUDIO")
    audio_out = _of(counts.candidates_tokens_details, "AUDIO")
    audio_in = min(max(audio_in, 0), max(input_tokens - cached, 0))
    audio_out = min(max(audio_out, 0), output_tokens - thoughts)
    return Usage(
        input_tokens=input_tokens - cached - audio_in,
        cache_read_tokens=cached,
        output_tokens=output_tokens - audio_out,
        reasoning_tokens=thoughts,
        audio_input_tokens=audio_in,
        audio_output_tokens=audio_out,
    )


def _of(details: Sequence[_ModalityCount] | None, modality: str) -> int:
    return sum(each.token_count or 0 for each in details or () if each.modality.upper() == modality)


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_OUR_REASONS = frozenset(
    (
        *("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "API_KEY_HTTP_REFERRER_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED"),
        *("CONSUMER_SUSPENDED", "SERVICE_DISABLED", "BILLING_DISABLED", "ACCESS_TOKEN_EXPIRED", "CONSUMER_INVALID"),
    )
)
_BY_STATUS_NAME = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
}


def failure_of_document(
    status: int, document: object, rules: Sequence[ErrorRule], wait_s: float | None = None
) -> Failure:
    """What a `google.rpc.Status` means, alone or as the one element of an array. In a stream it says itself what the
    HTTP status could no longer say. Never raises."""
    if isinstance(document, list) and document:
        document = document[0]
    inner = document.get("error") if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        return failure_of(ProviderError(status), rules, wait_s)
    name, code = _text(inner.get("status")), inner.get("code")
    if status == 200:
        status = code if isinstance(code, int) and 400 <= code < 600 else _BY_STATUS_NAME.get(name, 200)
    reason = ""
    details = inner.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            reason = reason or _text(detail.get("reason"))
            wait_s = wait_s if wait_s is not None else _seconds(detail.get("retryDelay"))
    # FAILED_PRECONDITION is the account's or its country's fault, told as a 400.
    is_ours = reason in _OUR_REASONS or name == "FAILED_PRECONDITION"
    error = ProviderError(
        403 if is_ours and status == 400 else status, reason or name, name, _text(inner.get("message"))
    )
    return failure_of(error, rules, wait_s)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(delay: object) -> float | None:
    """`"34.07s"` → 34.07."""
    try:
        seconds = float(_text(delay).removesuffix("s"))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 3_600 else None
