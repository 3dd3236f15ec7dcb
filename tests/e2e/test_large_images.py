"""Bodies that images make longer than others may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Answer, Stack, ask

MIB = 1 << 20
PICTURE = "iVBORw0KGgo" + "A" * (20 * MIB + 1)
URL = f"data:image/png;base64,{PICTURE}"
CONTENTS: list[dict[str, Any]] = [
    {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": PICTURE}}]}
]
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
WITH_IMAGE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "swift-1",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}],
    },
    "/v1/responses": {
        "model": "swift-1",
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}],
    },
    "/v1/messages": {
        "model": "swift-1",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}],
    },
    "/v1beta/models/swift-1:generateContent": {"contents": CONTENTS},
}


async def test_an_image_of_twenty_mebibytes_reaches_the_model_in_every_format(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        for path, body in WITH_IMAGE.items():
            answer = await stack.request("POST", path, body)
            assert answer.status == 200, (path, answer.body[:300])
            asked = stack.sim.requests[-1]
            assert int(dict(asked.headers)["content-length"]) > 20 * MIB
        await stack.at_rest()


@pytest.mark.parametrize(
    "body",
    [ask("a" * (16 * MIB)), ask("a", metadata={"url": URL})],
    ids=["text", "an image where none is read"],
)
async def test_what_is_long_without_images_is_refused(database: str, tmp_path: Path, body: dict[str, Any]) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(body)
        refused_for(answer, "Beside the images in it, it may have 16,777,216 bytes.")
        await stack.at_rest()
        assert not stack.sim.requests


async def test_what_is_too_long_for_its_path_is_refused_unread(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        for path in ("/v1/embeddings", "/v1/executions", "/v1/messages/count_tokens", "/v1beta/models/m:embedContent"):
            answer = await stack.request("POST", path, headers={"content-length": str(16 * MIB + 1)})
            refused_for(answer, "It may have 16,777,216 bytes, with images in it 33,554,432")
        for path in WITH_IMAGE:
            answer = await stack.request("POST", path, headers={"content-length": str(32 * MIB + 1)})
            refused_for(answer, "with images in it 33,554,432")


def refused_for(answer: Answer, words: str) -> None:
    assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE"), answer.body[:300]
    assert words in answer.json["error"]["message"]
