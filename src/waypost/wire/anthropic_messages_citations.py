"""Citations as Anthropic writes them, read and written: the location's words differ by its kind."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.wire.canonical import Citation


class _Sent(msgspec.Struct, gc=False):
    type: str = ""
    cited_text: str | None = None
    url: str | None = None
    source: str | None = None
    title: str | None = None
    document_title: str | None = None
    document_index: int | None = None
    search_result_index: int | None = None
    start_char_index: int | None = None
    end_char_index: int | None = None
    start_page_number: int | None = None
    end_page_number: int | None = None
    start_block_index: int | None = None
    end_block_index: int | None = None


_UNITS = {
    "char_location": ("start_char_index", "end_char_index"),
    "page_location": ("start_page_number", "end_page_number"),
    "content_block_location": ("start_block_index", "end_block_index"),
    "search_result_location": ("start_block_index", "end_block_index"),
}
_decode_list = msgspec.json.Decoder(list[_Sent] | None).decode
_decode_one = msgspec.json.Decoder(_Sent).decode
_encode = msgspec.json.Encoder().encode


def citations_of(sent: msgspec.Raw) -> Sequence[Citation]:
    """Those of a text block. Whatever cannot be read as a list of them is none: they are an ornament of an answer."""
    if not len(sent):
        return ()
    try:
        return [_read(each) for each in _decode_list(sent) or ()]
    except (ValueError, RecursionError):
        return ()


def citation_of(sent: msgspec.Raw) -> Citation | None:
    """That of a `citations_delta`."""
    try:
        return _read(_decode_one(sent))
    except (ValueError, RecursionError):
        return None


def render_citation(citation: Citation) -> bytes:
    """As JSON, every field that its kind must have."""
    fields: dict[str, object] = {"type": citation.kind, "cited_text": citation.cited_text}
    match citation.kind:
        case "char_location" | "page_location" | "content_block_location":
            fields |= {"document_index": citation.source_index, "document_title": citation.title or None}
            fields |= dict(zip(_UNITS[citation.kind], (citation.start, citation.end), strict=True))
            fields["file_id"] = None
        case "search_result_location":
            fields |= {"search_result_index": citation.source_index, "source": citation.url}
            fields |= {"title": citation.title or None}
            fields |= dict(zip(_UNITS[citation.kind], (citation.start, citation.end), strict=True))
        case _:
            # Whose index of the web it was found by is not for callers to see.
            fields |= {"type": "web_search_result_location", "url": citation.url, "title": citation.title or None}
            fields["encrypted_index"] = ""
    return _encode(fields)


def _read(sent: _Sent) -> Citation:
    start, end = _UNITS.get(sent.type, ("", ""))
    return Citation(
        sent.type,
        sent.cited_text or "",
        sent.url or sent.source or "",
        sent.title or sent.document_title or "",
        sent.document_index or sent.search_result_index or 0,
        (getattr(sent, start) or 0) if start else 0,
        (getattr(sent, end) or 0) if end else 0,
    )
