"""What only providers of jobs have in their `[[providers]]` table: how callbacks are verified, where outputs may come
from, and for kind `http-job` the `[providers.job]` table that describes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from waypost.policy.catalogue import JobSettings
from waypost.policy.table import Table, did_you_mean
from waypost.providers import JOB_KINDS
from waypost.providers.job import JobDescription, JobState

HTTP_JOB = "http-job"
FAL_KEYS_URL = "https://rest.fal.ai/.well-known/jwks.json"
OUTPUT_HOSTS: Mapping[str, tuple[str, ...]] = {
    "replicate": ("replicate.delivery", ".replicate.delivery"),
    "fal": ("fal.media", ".fal.media", ".fal.ai"),
    HTTP_JOB: (),
}
"""Where providers of a kind serve what they made, unless told otherwise; the base URL's own host always may."""

_SECRET = re.compile(r"(?:env|file|plain):[^\r\n\0]{1,4096}")
_URL = re.compile(r"https?://[!-~]{1,2048}")
_HOST = re.compile(r"\.?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?::[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](?::[0-9]{1,5})?")
_PATH = re.compile(r"(?!.*\.\.)/[A-Za-z0-9._~%@:+/{}?=&,-]{0,1024}")
_PLACE_NAMES = re.compile(r"\{([^{}]*)\}")
_PLACE = re.compile(r"[A-Za-z0-9_$-]+(?:\.[A-Za-z0-9_$-]+)*")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PREFIX = re.compile(r"[!-~]{0,64}")
_WORD = re.compile(r"[!-~]{1,64}")
_METHODS = ("POST", "PUT", "DELETE", "GET")
_ENCODINGS = ("hex", "base64")
_PLACES = ("id", "state", "outputs", "error_code", "error_message", "jobs", "images", "seconds", "metered")
_STATES = tuple(state.value for state in JobState if state is not JobState.GONE)
_OURS = frozenset(("authorization", "content-length", "content-type", "host", "connection", "transfer-encoding"))


def read_job_settings(table: Table, kind: str) -> JobSettings:
    """Of a provider of any kind; a setting that the kind has no use for is a mistake."""
    is_job = kind in JOB_KINDS
    for name, kinds in _FOR_KINDS.items():
        if table.has(name) and kind not in kinds:
            table.note(name, f"only for kind{'s' if len(kinds) > 1 else ''} {' and '.join(kinds)}")
    hint = "env:NAME, file:PATH or plain:VALUE"
    secrets = table.texts("webhook_secrets", form=_SECRET, hint=hint)
    default_url = FAL_KEYS_URL if kind == "fal" else ""
    keys_url = table.text("jwks_url", default_url, form=_URL, hint='an address such as "https://…/jwks.json"')
    hosts = table.texts("output_hosts", form=_HOST, hint="a host, or .example.org for all below it")
    description = _read_description(table.table("job")) if kind == HTTP_JOB else None
    if is_job and not table.raw("output_hosts"):
        hosts = OUTPUT_HOSTS[kind]
    return JobSettings(secrets, keys_url, hosts, description) if is_job else JobSettings()


def job_settings_document(settings: JobSettings, kind: str) -> dict[str, object]:
    """The fields again; what equals its default is left out. Raises ValueError for a secret that is no reference."""
    if any(reference.startswith("plain:") for reference in settings.webhook_secrets):
        raise ValueError("a catalogue version holds references to secrets, never a secret")
    document: dict[str, object] = {"webhook_secrets": list(settings.webhook_secrets)}
    if settings.keys_url and (kind, settings.keys_url) != ("fal", FAL_KEYS_URL):
        document["jwks_url"] = settings.keys_url
    if settings.output_hosts != OUTPUT_HOSTS.get(kind, ()):
        document["output_hosts"] = list(settings.output_hosts)
    if settings.description is not None:
        document["job"] = _description_document(settings.description)
    return document


def may_serve_outputs(settings: JobSettings, base_url: str, address: str) -> bool:
    """Whether an output at this address is fetched: from the base URL's own host, or one of `output_hosts`."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.username is not None or parts.password is not None or not host:
        return False
    if host == (urlsplit(base_url).hostname or "").lower():
        return True
    return any(_is_host(allowed.lower(), host, port) for allowed in settings.output_hosts)


_FOR_KINDS = {
    "webhook_secrets": ("replicate", HTTP_JOB),
    "jwks_url": ("fal",),
    "output_hosts": tuple(JOB_KINDS),
    "job": (HTTP_JOB,),
}


def _is_host(allowed: str, host: str, port: int | None) -> bool:
    name, _, wanted = allowed.partition(":") if not allowed.startswith("[") else (allowed.strip("[]"), "", "")
    if wanted and wanted != str(port):
        return False
    return host.endswith(name) if name.startswith(".") else host == name


def _read_description(table: Table) -> JobDescription:
    default = JobDescription(submit_path="", status_path="")
    description = JobDescription(
        submit_path=_read_path(table, "submit_path", None, ("model", "token")),
        status_path=_read_path(table, "status_path", None, ("id", "model"), needed="id"),
        result_path=_read_path(table, "result_path", "", ("id", "model"), needed="id"),
        cancel_path=_read_path(table, "cancel_path", "", ("id", "model"), needed="id"),
        cancel_method=table.one_of("cancel_method", _METHODS, default.cancel_method),
        look_up_path=_read_path(table, "look_up_path", "", ("token", "model"), needed="token"),
        model_field=_read_field(table, "model_field", default.model_field),
        input_field=_read_field(table, "input_field", default.input_field),
        token_field=_read_field(table, "token_field", default.token_field),
        callback_field=_read_field(table, "callback_field", default.callback_field),
        idempotency_header=_read_header(table, "idempotency_header"),
        **{name: _read_place(table, name, getattr(default, name)) for name in _PLACES},
        states=_read_states(table.table("states")),
        signature_header=_read_header(table, "signature_header"),
        signature_prefix=table.text("signature_prefix", "", form=_PREFIX, hint="what stands before the digits"),
        signature_encoding=table.one_of("signature_encoding", _ENCODINGS, default.signature_encoding),
        timestamp_header=_read_header(table, "timestamp_header"),
        event_header=_read_header(table, "event_header"),
    )
    table.close()
    return description


def _read_path(table: Table, name: str, default: str | None, names: tuple[str, ...], *, needed: str = "") -> str:
    text = table.text(name, default, form=_PATH, hint='a path such as "/v1/jobs/{id}"')
    for place in _PLACE_NAMES.findall(text):
        if place not in names:
            table.note(name, f"'{{{place}}}' stands for nothing here{did_you_mean(place, names)}")
    if text and needed and f"{{{needed}}}" not in text:
        table.note(name, f"expected '{{{needed}}}' in it")
    return text


def _read_field(table: Table, name: str, default: str) -> str:
    if table.raw(name) == "":
        return ""
    return table.text(name, default, form=_FIELD, hint='the name of a field, or "" for none')


def _read_place(table: Table, name: str, default: str) -> str:
    if table.raw(name) == "" and name not in ("id", "state"):
        return ""
    return table.text(name, default, form=_PLACE, hint='a place in the answer, such as "data.0.id"')


def _read_header(table: Table, name: str) -> str:
    text = table.text(name, "", form=_HEADER, hint="the name of a header") if table.raw(name) != "" else ""
    if text.lower() in _OURS:
        table.note(name, "this header is set by Waypost itself")
    return text


def _read_states(table: Table) -> dict[str, tuple[str, ...]]:
    states = {}
    for name in _STATES:
        if table.has(name):
            states[name] = table.texts(name, form=_WORD, hint="a word of the provider's")
    table.close()
    return states


def _description_document(description: JobDescription) -> dict[str, object]:
    default = JobDescription(submit_path="", status_path="")
    document: dict[str, object] = {}
    for name in JobDescription.__struct_fields__:
        value = getattr(description, name)
        if name == "states":
            if value:
                document[name] = {state: list(words) for state, words in value.items()}
        elif value != getattr(default, name):
            document[name] = value
    return document
