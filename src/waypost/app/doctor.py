"""`waypost doctor`: everything that a deployment needs, looked at once, with what to do where something is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psycopg

from waypost import compiled
from waypost.app.catalogue_file import read_catalogue_file, read_document, unreadable_credentials
from waypost.app.database import no_secrets, open_database
from waypost.app.doctor_files import file_store
from waypost.app.doctor_peppers import peppers
from waypost.app.doctor_processes import processes
from waypost.app.doctor_standby import standby
from waypost.app.doctor_tls import certificates
from waypost.app.finding import Finding, Verdict
from waypost.app.secrets import CredentialReader, SecretsError, has_secrets, open_secrets
from waypost.app.settings import Settings, SettingsError
from waypost.dispatch.status import FleetStatus
from waypost.gateway.segment import segment_paths
from waypost.kit.clock import Clock
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.catalogue import Catalogue, Provider
from waypost.policy.document import CatalogueError
from waypost.storage.catalogues import newest_catalogue
from waypost.storage.database import DatabaseUnfit
from waypost.storage.embedded import EmbeddedPostgresError
from waypost.storage.health import Health, health
from waypost.storage.job_queue import QueueState, queue_state
from waypost.storage.pool import Pool
from waypost.storage.roles import Role, RolesMissing
from waypost.storage.webhook_deliveries import Counts, count_deliveries
from waypost.supervisor.internal_http import get
from waypost.supervisor.up import running_pid

DISK_FREE_BYTES_MIN = 256 * 1024 * 1024  # a journal segment is 64 MiB and the next one is made ahead
DISK_FREE_BYTES_LOW = 2 * 1024 * 1024 * 1024
CLOCK_OFFSET_S_MAX = 2.0
CONNECT_S = 3.0
WEBHOOK_OVERDUE_S_MAX = 600.0  # twice the longest rest of a receiver
JOB_WAITS_S_MAX = 60
_decode_status = msgspec.json.Decoder(FleetStatus).decode


def examine(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Look at everything, one finding after the other. Where the secrets are missing or cannot be used nothing is
    made, neither they nor a folder nor a schema: the place may be mistyped, or they may be lost."""
    yield _modules(compiled.running)
    secrets = _secrets(settings)
    yield secrets
    is_sound = secrets.verdict is Verdict.FINE
    yield _disk(settings.data_dir)
    yield _journal(settings.data_dir / "journal")
    yield file_store(settings, may_make=is_sound)
    if settings.config_path is not None:
        yield from _configuration(settings, settings.config_path, is_sound=is_sound)
    yield from certificates(settings.live, clock)
    yield from processes(settings)
    try:
        with open_database(settings, may_migrate=is_sound) as conninfo:
            found, catalogue, queue, counted = asyncio.run(_ask(conninfo))
            yield _database(settings, found)
            if is_sound:
                yield from peppers(conninfo, settings.secrets_dir)
            if is_sound and settings.database_url is not None:
                yield from standby(conninfo)
            yield _clock(found, clock)
            yield _queue(queue)
            yield _webhooks(counted)
    except (psycopg.OperationalError, LedgerUnavailable):
        yield Finding("database", Verdict.BAD, "does not answer: check --database-url (WAYPOST_DATABASE_URL)")
        return
    except (DatabaseUnfit, EmbeddedPostgresError, RolesMissing) as error:
        yield Finding("database", Verdict.BAD, str(error))
        return
    if catalogue is None:
        yield Finding("catalogue", Verdict.DOUBTFUL, "none yet: `waypost catalog apply FILE`, or `up --config FILE`")
        return
    yield Finding(
        "catalogue",
        Verdict.FINE,
        f"version {catalogue[1]}: {len(catalogue[0].models)} models, {len(catalogue[0].providers)} providers",
    )
    yield from _credentials(catalogue[0])
    yield from asyncio.run(ask_gateways(sorted((settings.data_dir / "run").glob("*.sock"))))
    yield from asyncio.run(_reach(catalogue[0].providers))


def _modules(running: compiled.Modules) -> Finding:
    """Of this command: what a process runs that starts now."""
    return Finding("modules", Verdict.DOUBTFUL if running.is_stale else Verdict.FINE, str(running))


def _configuration(settings: Settings, path: Path, *, is_sound: bool) -> Iterator[Finding]:
    """What `up` would say of the file; the version before it serves on while it is refused. `is_sound`: the secrets
    can be used."""
    try:
        catalogue = read_catalogue_file(settings, path) if is_sound else read_document(path)
    except (CatalogueError, SettingsError) as error:
        for mistake in error.mistakes:
            yield Finding("configuration", Verdict.BAD, mistake)
        return
    missing = unreadable_credentials(catalogue, path)
    runs = running_pid(settings.data_dir) is not None
    for mistake in missing:
        if runs:  # with an environment of its own, which may well be another than this terminal's
            sentence = f"{mistake}: so it is for this command; the `up` that runs here reads its own environment"
            yield Finding("configuration", Verdict.DOUBTFUL, sentence)
        else:
            yield Finding("configuration", Verdict.BAD, f"{mistake}; set it, and start again")
    if not missing:
        yield Finding("configuration", Verdict.FINE, str(path))


def _secrets(settings: Settings) -> Finding:
    if not has_secrets(settings.secrets_dir):
        return Finding("secrets", Verdict.BAD, no_secrets(settings))
    try:
        open_secrets(settings.secrets_dir)
    except SecretsError as error:
        return Finding("secrets", Verdict.BAD, str(error))
    except OSError as error:
        return Finding("secrets", Verdict.BAD, f"{settings.secrets_dir}: {error.strerror}")
    return Finding("secrets", Verdict.FINE, f"{settings.secrets_dir}, for the owner only; back it up")


def _disk(data_dir: Path) -> Finding:
    try:
        free_bytes = shutil.disk_usage(data_dir).free
    except OSError as error:
        return Finding("disk", Verdict.BAD, f"{data_dir}: {error.strerror}")
    sentence = f"{free_bytes // 2**20:,} MiB free at {data_dir}"
    if free_bytes < DISK_FREE_BYTES_MIN:
        return Finding("disk", Verdict.BAD, f"{sentence}: too little to write the journal; make room")
    if free_bytes < DISK_FREE_BYTES_LOW:
        return Finding("disk", Verdict.DOUBTFUL, f"{sentence}: make room soon")
    return Finding("disk", Verdict.FINE, sentence)


def _journal(directory: Path) -> Finding:
    """Segments of a gateway that runs are in use; without one they wait for its next start."""
    damaged = sorted(directory.glob("*/*.damaged"))
    if damaged:
        return Finding("journal", Verdict.DOUBTFUL, f"{damaged[0]} could not be read whole: keep it, and report it")
    gateways = sorted(path for path in directory.glob("*") if path.is_dir())
    segments = [segment for gateway in gateways for segment in segment_paths(gateway)]
    size_bytes = sum(segment.stat().st_size for segment in segments)
    return Finding("journal", Verdict.FINE, f"{len(segments)} segments, {size_bytes // 2**20} MiB, none damaged")


async def _ask(conninfo: str) -> tuple[Health, tuple[Catalogue, int] | None, QueueState, Counts]:
    pool = Pool(conninfo, Role.APP, size=1)
    try:
        database, catalogue = await health(pool), await newest_catalogue(pool)
        return database, catalogue, await queue_state(pool), await count_deliveries(pool)
    finally:
        await pool.close()


def _database(settings: Settings, found: Health) -> Finding:
    kind = "embedded PostgreSQL" if settings.database_url is None else "PostgreSQL"
    return Finding("database", Verdict.FINE, f"{kind} {found.server_version}")


def _clock(found: Health, clock: Clock) -> Finding:
    ours = datetime.fromtimestamp(clock.unix_ns() / 1e9, UTC)
    offset_s = abs((found.now - ours).total_seconds())
    if offset_s > CLOCK_OFFSET_S_MAX:
        sentence = f"{offset_s:.1f} s apart from the database's: set both by NTP"
        return Finding("clock", Verdict.DOUBTFUL, sentence)
    return Finding("clock", Verdict.FINE, f"{ours:%Y-%m-%d %H:%M:%S} UTC, as the database's")


def _queue(found: QueueState) -> Finding:
    executions = sum(found.open_executions.values())
    sentence = f"{found.waiting} wait, {found.running} run; {executions} executions have not ended"
    if found.oldest_s > JOB_WAITS_S_MAX:
        hint = f"the first has waited for {found.oldest_s} s: no control process works them off, or too few do"
        return Finding("jobs", Verdict.BAD, f"{sentence}; {hint}")
    return Finding("jobs", Verdict.FINE, sentence)


def _webhooks(found: Counts) -> Finding:
    sentence = f"{found.active_endpoints} endpoints, {found.pending} deliveries pending, {found.dead} dead letters"
    if found.overdue_s > WEBHOOK_OVERDUE_S_MAX:
        hint = f"one has been due for {found.overdue_s:.0f} s: no control process sends them, or its receiver rests"
        return Finding("webhooks", Verdict.DOUBTFUL, f"{sentence}; {hint}")
    if found.deactivated_endpoints:
        hint = f"{found.deactivated_endpoints} more are deactivated, as their receivers failed: their owners see why"
        return Finding("webhooks", Verdict.DOUBTFUL, f"{sentence}; {hint}")
    return Finding("webhooks", Verdict.FINE, sentence)


def _credentials(catalogue: Catalogue) -> Iterator[Finding]:
    read_credential = CredentialReader(os.environ)
    for provider in catalogue.providers:
        named = [("credential", "the gateway", each) for each in provider.api_keys]
        named += [("webhook secret", "the control process", each) for each in provider.jobs.webhook_secrets]
        for what, who, reference in named:
            try:
                read_credential(reference)
            except LookupError as error:
                sentence = f"{error.args[0]} for this command; {who} needs it"
                yield Finding(f"{what} of {provider.id}", Verdict.DOUBTFUL, sentence)
            else:
                yield Finding(f"{what} of {provider.id}", Verdict.FINE, f"{reference.partition(':')[0]} is readable")


async def ask_gateways(sockets: Iterable[Path]) -> list[Finding]:
    """What the gateways that run here say of the providers."""
    findings: list[Finding] = []
    answering = 0
    for socket in sockets:
        try:
            status, page = await get(socket, "/providers", timeout_s=CONNECT_S)
            found = _decode_status(page) if status == 200 else None
        except (OSError, msgspec.DecodeError):
            continue  # left by one that is gone, or of another process
        if found is not None:
            answering += 1
            findings += _fleet(socket.stem, found)
    if not answering:
        findings.append(Finding("gateway", Verdict.FINE, "none runs here"))
    return findings


def _fleet(gateway: str, status: FleetStatus) -> Iterator[Finding]:
    """What is not as it should be; one line when everything is."""
    not_ready = [each for each in status.credentials if not each.is_ready]
    for each in not_ready:
        subject = f"{each.deployment}, credential {each.position}"
        if each.rests_s:
            yield Finding(subject, Verdict.DOUBTFUL, f"{gateway}: rests for {each.rests_s:g} s after a refusal")
        if each.circuit != "closed":
            sentence = f"{gateway}: circuit {each.circuit}, next try in {each.blocked_s:g} s: it kept failing"
            yield Finding(subject, Verdict.DOUBTFUL, sentence)
    full = [each for each in status.providers if each.in_flight >= each.in_flight_max]
    for provider in full:
        sentence = f"{gateway}: all {provider.in_flight_max} places taken, {provider.waiting} requests wait"
        yield Finding(f"places of {provider.provider}", Verdict.DOUBTFUL, sentence)
    if not not_ready and not full:
        in_flight = sum(each.in_flight for each in status.providers)
        sentence = f"{len(status.credentials)} credentials ready, {in_flight} calls under way"
        yield Finding(gateway, Verdict.FINE, sentence)


async def _reach(providers: tuple[Provider, ...]) -> list[Finding]:
    return list(await asyncio.gather(*(_reach_one(provider) for provider in providers)))


async def _reach_one(provider: Provider) -> Finding:
    """A TCP connection and nothing more: a provider is not to be billed or alarmed by a doctor."""
    address = urlsplit(provider.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    subject = f"provider {provider.id}"
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(address.hostname, port)
    except TimeoutError:
        return Finding(subject, Verdict.BAD, f"{address.hostname}:{port} does not answer within {CONNECT_S:.0f} s")
    except OSError as error:
        reason = error.strerror or "the name does not resolve"
        return Finding(subject, Verdict.BAD, f"{address.hostname}:{port} cannot be reached ({reason})")
    writer.close()
    return Finding(subject, Verdict.FINE, f"{address.hostname}:{port} takes connections")
