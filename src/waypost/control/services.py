"""What the control plane's actions share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from waypost.control.callbacks import Callbacks
from waypost.control.file_store import Files
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.policy.snapshot import View
from waypost.storage.asynchronous_executions import Executions
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.pool import Pool
from waypost.stores.vault import Vault
from waypost.tenancy.api_key import ApiKey, Scope
from waypost.tenancy.keyring import Keyring
from waypost.upstream.guard import Allowed
from waypost.webhooks.schedule import Attempt
from waypost.webhooks.sealed import Sealed


class WebhookServices:
    """What the actions on webhooks need. `allowed` tells what is exempt from the rules on URLs at the moment, `test`
    sends one at once and gives the delivery's id and how it went: it raises LookupError for an unknown endpoint, and
    Refusal when too many are under way."""

    def __init__(
        self,
        *,
        sealed: Sealed,
        allowed: Callable[[], Allowed],
        endpoints_max: Callable[[], int],
        expires_s: Callable[[], float],
        test: Callable[[bytes, bytes], Awaitable[tuple[bytes, Attempt]]],
    ) -> None:
        self.sealed = sealed
        self.allowed = allowed
        self.endpoints_max = endpoints_max
        self.expires_s = expires_s
        self.test = test


class Services:
    """One process's; `pool` is the app role's, that of `executions` the settling role's. `ids_key` is the secret that
    claims of idempotency keys are made under."""

    def __init__(
        self,
        *,
        pool: Pool,
        executions: Executions,
        news: ExecutionNews,
        vault: Vault,
        keyring: Keyring,
        ids_key: bytes,
        view: Callable[[], View],
        clock: Clock,
        ids: Ids,
        api_keys_max: int,
        is_ready: Callable[[], bool],
        files: Files,
        callbacks: Callbacks,
        metrics: Callable[[], bytes],
        webhooks: WebhookServices,
    ) -> None:
        self.pool = pool
        self.executions = executions
        self.news = news
        self.vault = vault
        self.keyring = keyring
        self.ids_key = ids_key
        self.view = view
        self.clock = clock
        self.ids = ids
        self.api_keys_max = api_keys_max
        self.files = files
        self.callbacks = callbacks
        self.is_ready = is_ready
        self.metrics = metrics
        self.webhooks = webhooks

    def principal(self, request: Request) -> ApiKey:
        """Whose request it is. Raises Refusal: 401, or 400 for two keys."""
        headers = {name.lower(): value for name, value in request.scope["headers"]}
        return self.keyring.authenticate(headers, self.clock.unix_ns() // 1_000_000)

    def administrator(self, request: Request) -> ApiKey:
        """The same, of a key with full access. Raises Refusal 403 for one that may only call models."""
        api_key = self.principal(request)
        if api_key.scope is not Scope.FULL:
            raise Refusal(ErrorCode.PERMISSION_DENIED, "This takes a key with full access; this one may call models.")
        return api_key
