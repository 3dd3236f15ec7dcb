"""Several processes' pages in Prometheus' text format made one: every sample says which process it is from.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). A family must stand in one
group, so the pages are interleaved family by family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_COMMENT = re.compile(r"# (HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .+)")


class _Family:
    __slots__ = ("comments", "samples")

    def __init__(self) -> None:
        self.comments: dict[str, str] = {}  # "HELP" and "TYPE" → line
        self.samples: list[str] = []


def merge(pages: Mapping[str, bytes]) -> bytes:
    """One page of the pages by process name. Lines that are not in the format are left out."""
    families: dict[str, _Family] = {}
    for process, page in pages.items():
        family_name = ""
        for line in page.decode("utf-8", "replace").splitlines():
            comment = _COMMENT.match(line)
            if comment is not None:
                family_name = comment[2]
                families.setdefault(family_name, _Family()).comments.setdefault(comment[1], line)
                continue
            sample = _SAMPLE.fullmatch(line)
            if sample is None or line.startswith("#"):
                continue
            name, labels, value = sample.groups()
            belongs = bool(family_name) and name.startswith(family_name)
            family = families.setdefault(family_name if belongs else name, _Family())
            rest = f",{labels}" if labels else ""
            family.samples.append(f'{name}{{process="{process}"{rest}}}{value}')
    lines = [line for family in families.values() for line in (*family.comments.values(), *family.samples)]
    return "\n".join([*lines, ""]).encode()
