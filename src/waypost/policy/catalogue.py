"""The catalogue: providers, models, deployments, prices. One validated document, kept in versions."""

from __future__ import annotations

from enum import Enum

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.metering.price import PriceRow
from waypost.providers.job import JobDescription

MODES = ("sync", "stream", "poll", "callback")
"""How an execution is carried out: one call, a streamed call, a job that is asked about, a job that calls back."""
INPUT_DELIVERIES = ("url", "base64", "passthrough")
"""How files of a request reach the provider: by a signed address of ours, inside the request, or by the
provider's own upload."""
COST_BASES = ("output", "metered")
"""What a job's cost is counted by: what came out, or what the provider says that it metered, as seconds."""
IMAGE_TOKENS_MAX = 6_144  # where a model does not say: a large image in tiles of today's models


THINKING = "thinking"  # among the features of such a model


class CancelBilling(Enum):
    """Whether a provider stops billing when we close the connection."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class ErrorRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[providers.error_map]]`: every given part must match."""

    code: ErrorCode
    status: int | None = None
    provider_code: str | None = None
    provider_type: str | None = None
    message_contains: str | None = None


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    connect_s: float = 3.0
    first_byte_s: float = 60.0  # streamed calls only
    thinking_first_byte_s: float = 300.0  # the same of models that think before they say anything
    idle_s: float = 60.0
    stream_total_s: float = 900.0
    total_s: float = 600.0


class Bulkhead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    in_flight: int = 200
    queue: int = 50
    wait_s: float = 0.5


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    window_s: float = 10.0
    min_calls: int = 20
    failure_ratio: float = 0.5
    consecutive: int = 5
    open_s: float = 5.0


class JobSettings(msgspec.Struct, frozen=True):
    """What a provider of jobs has beside what every provider has."""

    webhook_secrets: tuple[str, ...] = ()  # references
    keys_url: str = ""
    output_hosts: tuple[str, ...] = ()
    description: JobDescription | None = None


class Provider(msgspec.Struct, frozen=True):
    id: str
    kind: str
    base_url: str
    api_keys: tuple[str, ...]  # references: env:NAME or file:PATH, never secrets
    headers: dict[str, str] = {}
    region: str | None = None
    training: bool | None = None
    retention_days: int | None = None
    cancel_stops_billing: CancelBilling = CancelBilling.UNKNOWN
    usage_in_stream: str = "final"
    credential_header: str = ""  # that carries the key, instead of `authorization: Bearer`
    api_version: str = ""  # `?api-version=` of every call
    timeouts: Timeouts = Timeouts()
    bulkhead: Bulkhead = Bulkhead()
    breaker: Breaker = Breaker()
    error_map: tuple[ErrorRule, ...] = ()
    jobs: JobSettings = JobSettings()


class RequestChanges(msgspec.Struct, frozen=True):
    """Small adjustments of the request for one deployment, on top-level fields: rename, then drop, then set.
    `set` values are JSON text."""

    set: dict[str, msgspec.Raw] = {}
    rename: dict[str, str] = {}
    drop: tuple[str, ...] = ()


class Deployment(msgspec.Struct, frozen=True):
    id: str  # "<provider>/<upstream model>"; with "#2" … where a model lists the same pair again
    provider: str
    upstream_model: str
    cost: PriceRow
    priority: int = 1
    weight: int = 1
    request: RequestChanges = RequestChanges()
    expose: tuple[str, ...] = ()
    mode: str = "sync"  # one of MODES
    input_delivery: str = "base64"  # one of INPUT_DELIVERIES
    cost_by: str = "output"  # one of COST_BASES


class Model(msgspec.Struct, frozen=True):
    slug: str
    modality: str
    context_window: int
    max_output: int
    price: PriceRow
    deployments: tuple[Deployment, ...]
    aliases: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    image_tokens_max: int = IMAGE_TOKENS_MAX  # of input, that one image comes to at most
    input_schema: str = ""  # JSON schema of an execution's input, as JSON text; "" = the one of its modality
    deadline_s: int = 0  # of an execution, from its acceptance on; 0 = the usual one of its modality
    created_s: int = 0  # Unix seconds shown as `created` in model lists


class Catalogue(msgspec.Struct, frozen=True):
    providers: tuple[Provider, ...] = ()
    models: tuple[Model, ...] = ()
