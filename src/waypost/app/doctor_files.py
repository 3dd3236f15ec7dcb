"""What the doctor finds of the file store: whether it takes, gives and erases objects, and how much room it has."""

from __future__ import annotations

import asyncio

from waypost.app.file_wiring import FILES_DIR, open_objects
from waypost.app.finding import Finding, Verdict
from waypost.app.settings import Settings
from waypost.stores.objects import LocalObjects, StoreUnavailable, examine

SUBJECT = "files"
ANSWER_S = 20.0  # a write, a read and an erasure
FREE_BYTES_LOW = 2 * 1024 * 1024 * 1024  # one output may be as large


def file_store(settings: Settings, *, may_make: bool = True) -> Finding:
    """Of the store that `[files]` names. A folder that is not there is made, if it may be."""
    files = settings.files
    place = "the folder" if files.store == "local" else f"the bucket {files.bucket}"
    if files.store == "local" and not may_make and not (settings.data_dir / FILES_DIR).is_dir():
        return Finding(SUBJECT, Verdict.DOUBTFUL, f"{place} is not there: it is made once the secrets are")
    try:
        objects = open_objects(settings)
        asyncio.run(asyncio.wait_for(examine(objects), ANSWER_S))
        free_bytes = objects.free_bytes() if isinstance(objects, LocalObjects) else None
    except LookupError as error:
        return Finding(SUBJECT, Verdict.DOUBTFUL, f"{error.args[0]} for this command; the control process needs it")
    except (StoreUnavailable, TimeoutError) as error:
        reason = error.reason if isinstance(error, StoreUnavailable) else f"no answer within {ANSWER_S:.0f} s"
        return Finding(SUBJECT, Verdict.BAD, f"{place} cannot be used ({reason}): see [files] of waypost.toml")
    if free_bytes is None:
        return Finding(SUBJECT, Verdict.FINE, f"{place} takes, gives and erases objects")
    sentence = f"{free_bytes // 2**20:,} MiB free in {place}"
    if free_bytes < FREE_BYTES_LOW:
        return Finding(SUBJECT, Verdict.DOUBTFUL, f"{sentence}: make room, or keep files in a bucket")
    return Finding(SUBJECT, Verdict.FINE, sentence)
