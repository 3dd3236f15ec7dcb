"""The documents of the repository, taken apart: pages, sections, tables, links, and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CELL = re.compile(r"(?<!\\)\|")


class Block(msgspec.Struct, frozen=True):
    """A fenced block of code and its language."""

    page: str
    language: str
    text: str


class Page(msgspec.Struct, frozen=True):
    """One Markdown file; `path` counts from the root."""

    path: str
    text: str

    @property
    def prose(self) -> str:
        """Without its blocks of code."""
        return _ANY_FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        return [Block(self.path, language, text) for language, text in _FENCE.findall(self.text)]

    @property
    def anchors(self) -> set[str]:
        """As the common renderers make them of headings."""
        headings = _HEADING.findall(self.prose)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    def rows(self, heading: str) -> list[list[str]]:
        """The first table under a heading: its rows without the head, cells as they stand."""
        below = re.split(rf"^#+ {re.escape(heading)}$", self.prose, maxsplit=1, flags=re.MULTILINE)[1]
        return next(tables(re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]))


def tables(text: str) -> Iterator[list[list[str]]]:
    """Every table in it."""
    for lines in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in _CELL.split(line)[1:-1]] for line in lines.splitlines()[2:]]


def code_of(cell: str) -> str:
    """What stands between backticks in a cell, the first of it; "" when nothing does."""
    found = re.search(r"`([^`]+)`", cell)
    return "" if found is None else found[1]


def page(path: str) -> Page:
    return Page(path, (ROOT / path).read_text())


def pages() -> list[Page]:
    """All of them."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]
    return [page(str(path.relative_to(ROOT))) for path in sorted(files)]


def blocks(language: str) -> list[Block]:
    """All blocks of that language."""
    return [block for each in pages() for block in each.blocks if block.language == language]
