"""The input of a job as one deployment takes it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waypost.providers.kind import RequestChanges
from waypost.providers.openai import change_fields


def changed_input(sent: Mapping[str, msgspec.Raw], changes: RequestChanges | None) -> dict[str, msgspec.Raw]:
    """The fields by the provider's names: rename, then drop, then set."""
    fields = dict(sent)
    if changes is not None:
        change_fields(fields, changes)
    return fields
