"""What the doctor says of certificates, of a full disk, and of gateways that miss something."""

from __future__ import annotations

import datetime
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest
import trustme

from tests.transport.loopback import serving
from waypost.app import doctor, doctor_processes
from waypost.app.doctor_tls import certificates
from waypost.app.finding import Verdict
from waypost.app.live_settings import LiveSettings, TlsFiles
from waypost.kit.clock import SystemClock
from waypost.storage.job_queue import QueueState
from waypost.storage.webhook_deliveries import Counts

AUTHORITY = trustme.CA()


def test_a_certificate_is_fine_ends_soon_has_ended_or_cannot_be_served(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    files = TlsFiles(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"))
    found = []
    for days in (60, 3, -1):
        made = AUTHORITY.issue_cert("a", not_after=now + datetime.timedelta(days=days))
        made.cert_chain_pems[0].write_to_path(files.certificate)
        made.private_key_pem.write_to_path(files.private_key)
        (finding,) = certificates(LiveSettings(tls=files), SystemClock())
        found.append(finding.verdict)
    Path(files.private_key).write_text("x")
    (finding,) = certificates(LiveSettings(tls=files), SystemClock())

    assert [*found, finding.verdict] == [Verdict.FINE, Verdict.DOUBTFUL, Verdict.BAD, Verdict.BAD]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
    finding = doctor._disk(tmp_path)
    assert finding.verdict is Verdict.BAD
    assert "too little to write the journal; make room" in finding.sentence


async def test_a_gateway_that_misses_something_says_what_and_where_to_look(tmp_path: Path) -> None:
    path = tmp_path / "gateway-0.sock"
    body = b'{"degraded":["database","journal"]}'
    async with serving(lambda exchange: exchange.respond(200, b"", body), unix_path=str(path)):
        findings = await doctor_processes._gateways([path])
    assert [finding.verdict for finding in findings] == [Verdict.DOUBTFUL] * 2
    assert "see `database` here" in findings[0].sentence
    assert "the disk is full" in findings[1].sentence


async def test_a_gateway_that_drains_or_is_gone_is_told(tmp_path: Path) -> None:
    path, gone = tmp_path / "gateway-0.sock", tmp_path / "gateway-1.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(gone))
    async with serving(lambda exchange: exchange.respond(503, b"", b"{}"), unix_path=str(path)):
        findings = await doctor_processes._gateways([path, gone])
    assert [(finding.subject, finding.verdict) for finding in findings] == [
        ("gateway-0", Verdict.DOUBTFUL),
        ("gateway-1", Verdict.BAD),
    ]


def test_jobs_that_nobody_works_off_are_named() -> None:
    moving = doctor._queue(QueueState(waiting=900, running=64, oldest_s=3, open_executions={"RECEIVED": 964}))
    assert (moving.verdict, moving.sentence) == (Verdict.FINE, "900 wait, 64 run; 964 executions have not ended")
    stuck = doctor._queue(QueueState(waiting=1, oldest_s=61))
    assert stuck.verdict is Verdict.BAD
    assert "no control process works them off" in stuck.sentence


def test_webhooks_that_nobody_sends_and_endpoints_that_failed_are_named() -> None:
    well = doctor._webhooks(Counts(3, 1, 20.0, 12, 0))
    assert (well.verdict, well.sentence) == (Verdict.FINE, "12 endpoints, 3 deliveries pending, 1 dead letters")
    late, failing = doctor._webhooks(Counts(3, 0, 601.0, 12, 0)), doctor._webhooks(Counts(0, 9, 0.0, 11, 1))
    assert (late.verdict, failing.verdict) == (Verdict.DOUBTFUL, Verdict.DOUBTFUL)
    assert "due for 601 s" in late.sentence
    assert "1 more are deactivated" in failing.sentence
