"""The files that an input names, looked at before anything is done for it: whether they are there, and whether any
deployment of the model could be given them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from waypost.control.file_store import INLINE_BYTES_MAX, INLINED_BYTES_MAX, Files
from waypost.executions.call import CALLED
from waypost.executions.lifecycle import Mode
from waypost.executions.validation import place_of_file
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.catalogue import Deployment, Model


async def check_files(
    files: Files, org_id: bytes, model: Model, body_input: Mapping[str, Any], file_ids: Collection[bytes]
) -> None:
    """Raises Refusal: 400 FILE_NOT_FOUND, 413 for what is too large. It names the place in the input."""
    if not file_ids:
        return
    sizes = await files.sizes(org_id, file_ids)
    for file_id in file_ids:
        if file_id not in sizes:
            at = place_of_file(body_input, file_id)
            raise Refusal(ErrorCode.FILE_NOT_FOUND, f"'{at}' names a file that does not exist.", param=at)
    if not all(_is_inlined(each, model, files) for each in model.deployments):
        return
    largest = max(sizes, key=lambda each: sizes[each])
    if sizes[largest] > INLINE_BYTES_MAX:
        at = place_of_file(body_input, largest)
        told = (
            f"'{at}' names a file of {sizes[largest]:,} bytes: this model takes files of at most "
            f"{INLINE_BYTES_MAX:,} bytes here."
        )
        raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told, param=at)
    if sum(sizes.values()) > INLINED_BYTES_MAX:
        told = f"The files of one request to this model have at most {INLINED_BYTES_MAX:,} bytes together here."
        raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told, param="input")


def _is_inlined(deployment: Deployment, model: Model, files: Files) -> bool:
    """Whether it gets files inside of what is sent to it, by us or as its upload, rather than an address."""
    is_called = model.modality in CALLED and not Mode(deployment.mode).is_job
    return is_called or deployment.input_delivery != "url" or files.urls.public_url is None
