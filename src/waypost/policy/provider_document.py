"""One `[[providers]]` table of the catalogue document, read and written."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.policy.catalogue import Breaker, Bulkhead, CancelBilling, ErrorRule, Provider, Timeouts
from waypost.policy.job_document import HTTP_JOB, job_settings_document, read_job_settings
from waypost.policy.table import Table
from waypost.providers import JOB_KINDS, KINDS

WAIT_S_MAX = 86_400.0
PLAIN = "plain:"  # before a credential that stands in the document itself
REFERENCES = ("env:", "file:")  # before the name of the place where a credential stands

_OPENAI_KINDS = ("openai", "openai-responses")
_API_VERSION = re.compile(r"[A-Za-z0-9.-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_URL_PATH = re.compile(r"(?!.*\.\.)(?:/[A-Za-z0-9._~%@:+-]{1,256}){0,16}/?")
_REFERENCE = re.compile(r"(?:env|file|plain):[^\r\n\0]{1,4096}")
_REFERENCE_HINT = "env:NAME, file:PATH or plain:VALUE"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # a token, RFC 9110 §5.6.2
_HEADER_VALUE = re.compile(r"[\t -~]{0,8192}")
_HOP_HEADERS = frozenset(
    {"connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_OUR_HEADERS = _HOP_HEADERS | {
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
}
_SECRET_HEADERS = frozenset(
    {"api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key"}
)
# What a failed call can be to a caller: nothing about their own key or balance.
_FAILURE_CODES = tuple(
    code.name
    for code in (
        ErrorCode.INPUT_VALIDATION_ERROR,
        ErrorCode.CONTENT_MODERATION_REJECTED,
        ErrorCode.FILE_NOT_FOUND,
        ErrorCode.FILE_FORMAT_UNSUPPORTED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.MODEL_OVERLOADED,
        ErrorCode.MODEL_UNAVAILABLE,
        ErrorCode.GENERATION_TIMEOUT,
        ErrorCode.GENERATION_FAILED,
        ErrorCode.SERVICE_UNAVAILABLE,
    )
)
_USAGE_IN_STREAM = ("final", "each", "none")


def read_provider(table: Table) -> Provider:
    """A provider; mistakes are noted in the table."""
    kind = table.one_of("kind", (*KINDS, *JOB_KINDS))
    provider = Provider(
        id=table.text("id", form=_ID, hint="an id of at most 64 letters, digits and . _ -"),
        kind=kind,
        base_url=_read_base_url(table),
        api_keys=_read_references(table),
        headers=_read_headers(table.table("headers")),
        region=table.text("region", form=_ID, hint='a region such as "US"') if table.has("region") else None,
        training=table.boolean("training") if table.has("training") else None,
        retention_days=table.integer("retention_days", least=0, most=36_500) if table.has("retention_days") else None,
        cancel_stops_billing=CancelBilling(
            table.one_of("cancel_stops_billing", [each.value for each in CancelBilling], CancelBilling.UNKNOWN.value)
        ),
        usage_in_stream=table.one_of("usage_in_stream", _USAGE_IN_STREAM, "final"),
        credential_header=_read_of_kinds(
            table, "credential_header", _HEADER_NAME, "the name of a header", (*_OPENAI_KINDS, HTTP_JOB)
        ).lower(),
        api_version=_read_of_kinds(
            table, "api_version", _API_VERSION, 'a version such as "2025-04-01-preview"', _OPENAI_KINDS
        ),
        timeouts=_read_timeouts(table.table("timeouts")),
        bulkhead=_read_bulkhead(table.table("bulkhead")),
        breaker=_read_breaker(table.table("breaker")),
        error_map=tuple(_read_rule(each) for each in table.tables("error_map")),
        jobs=read_job_settings(table, kind),
    )
    table.close()
    return provider


def provider_document(provider: Provider) -> dict[str, object]:
    """The table of a provider; what equals its default is left out. Raises ValueError for a `plain:` credential."""
    if any(not reference.startswith(REFERENCES) for reference in provider.api_keys):
        raise ValueError("a catalogue version holds references to credentials, never a credential")
    document: dict[str, object] = {
        "id": provider.id,
        "kind": provider.kind,
        "base_url": provider.base_url,
        "api_keys": list(provider.api_keys),
        "headers": provider.headers,
        "region": provider.region,
        "training": provider.training,
        "retention_days": provider.retention_days,
        "cancel_stops_billing": provider.cancel_stops_billing.value,
        "usage_in_stream": provider.usage_in_stream,
        "credential_header": provider.credential_header or None,
        "api_version": provider.api_version or None,
        "timeouts": msgspec.structs.asdict(provider.timeouts),
        "bulkhead": msgspec.structs.asdict(provider.bulkhead),
        "breaker": msgspec.structs.asdict(provider.breaker),
        "error_map": [_rule_document(rule) for rule in provider.error_map],
        **job_settings_document(provider.jobs, provider.kind),
    }
    return {name: value for name, value in document.items() if value not in (None, {}, [])}


def _read_base_url(table: Table) -> str:
    """Without its last slash. Userinfo, query and fragment are refused: they would be secrets, or be lost."""
    hint = 'an address such as "https://api.example.org/v1"'
    text = table.text("base_url", hint=hint)
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        table.note("base_url", f"expected {hint}")
        return ""
    if any(not "!" <= each <= "~" for each in text) or port == 0:
        table.note("base_url", f"expected {hint}")
    elif parts.scheme not in ("http", "https"):
        table.note("base_url", "expected an address that begins with http:// or https://")
    elif parts.username is not None or parts.password is not None:
        table.note("base_url", "no user name or password here; credentials belong into api_keys")
    elif "?" in text or "#" in text:
        table.note("base_url", "no query and no fragment here")
    elif _HOST.fullmatch(parts.hostname or "") is None or _URL_PATH.fullmatch(parts.path) is None:
        table.note("base_url", f"expected {hint}")
    return text.rstrip("/")


def _read_of_kinds(table: Table, name: str, form: re.Pattern[str], hint: str, kinds: tuple[str, ...]) -> str:
    """What only providers of these kinds have; "" where it is not given."""
    if not table.has(name):
        return ""
    text = table.text(name, form=form, hint=hint)
    kind = table.raw("kind")
    if isinstance(kind, str) and kind in (*KINDS, *JOB_KINDS) and kind not in kinds:
        table.note(name, f"only for the kinds {' and '.join(kinds)}")
    elif text.lower() in _OUR_HEADERS:
        table.note(name, "this header is set by Waypost itself")
    return text


def _read_references(table: Table) -> tuple[str, ...]:
    references = table.texts("api_keys", form=_REFERENCE, hint=_REFERENCE_HINT)
    if table.raw("api_keys") in (None, []):
        table.note("api_keys", f'expected at least one of {_REFERENCE_HINT}; where no key is needed, "plain:none"')
    return references


def _read_headers(table: Table) -> dict[str, str]:
    headers = {}
    for name in table.names():
        headers[name] = table.text(name, form=_HEADER_VALUE, hint="one line of printable ASCII")
        if _HEADER_NAME.fullmatch(name) is None:
            table.note(name, "not a header name")
        elif name.lower() in _OUR_HEADERS:
            table.note(name, "this header is set by Waypost itself")
        elif name.lower() in _SECRET_HEADERS:
            table.note(name, "credentials belong into api_keys")
    return headers


def _read_timeouts(table: Table) -> Timeouts:
    default = Timeouts()
    timeouts = Timeouts(
        connect_s=table.number("connect_s", default.connect_s, least=0.001, most=WAIT_S_MAX),
        first_byte_s=table.number("first_byte_s", default.first_byte_s, least=0.001, most=WAIT_S_MAX),
        thinking_first_byte_s=table.number(
            "thinking_first_byte_s", default.thinking_first_byte_s, least=0.001, most=WAIT_S_MAX
        ),
        idle_s=table.number("idle_s", default.idle_s, least=0.001, most=WAIT_S_MAX),
        stream_total_s=table.number("stream_total_s", default.stream_total_s, least=0.001, most=WAIT_S_MAX),
        total_s=table.number("total_s", default.total_s, least=0.001, most=WAIT_S_MAX),
    )
    table.close()
    return timeouts


def _read_bulkhead(table: Table) -> Bulkhead:
    default = Bulkhead()
    bulkhead = Bulkhead(
        in_flight=table.integer("in_flight", default.in_flight, least=1, most=1_000_000),
        queue=table.integer("queue", default.queue, least=0, most=1_000_000),
        wait_s=table.number("wait_s", default.wait_s, least=0, most=WAIT_S_MAX),
    )
    table.close()
    return bulkhead


def _read_breaker(table: Table) -> Breaker:
    default = Breaker()
    breaker = Breaker(
        window_s=table.number("window_s", default.window_s, least=0.1, most=3600),
        min_calls=table.integer("min_calls", default.min_calls, least=1, most=1_000_000),
        failure_ratio=table.number("failure_ratio", default.failure_ratio, least=0.01, most=1),
        consecutive=table.integer("consecutive", default.consecutive, least=1, most=1_000_000),
        open_s=table.number("open_s", default.open_s, least=0.1, most=3600),
    )
    table.close()
    return breaker


def _read_rule(table: Table) -> ErrorRule:
    match = table.table("match")
    parts = {name: match.text(name) if match.has(name) else None for name in ("code", "type", "message_contains")}
    status = match.integer("status", least=100, most=599) if match.has("status") else None
    match.close()
    if status is None and not any(parts.values()):
        table.note("match", "expected at least one of status, code, type, message_contains")
    rule = ErrorRule(
        code=ErrorCode[table.one_of("code", _FAILURE_CODES)],
        status=status,
        provider_code=parts["code"],
        provider_type=parts["type"],
        message_contains=parts["message_contains"],
    )
    table.close()
    return rule


def _rule_document(rule: ErrorRule) -> dict[str, object]:
    match = {
        "status": rule.status,
        "code": rule.provider_code,
        "type": rule.provider_type,
        "message_contains": rule.message_contains,
    }
    return {"match": {name: value for name, value in match.items() if value is not None}, "code": rule.code.name}
