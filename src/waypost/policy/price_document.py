"""Price lists as people write them: USD per million units in quotes, tiers of long contexts, changes to come.

    price = { input = "2.50", output = "10.00", cache_read = "0.25" }

    [models.price]
    input = "1.25"
    output = "10.00"
    tiers = [{ above = 200000, input = "2.50", output = "15.00" }]
    changes = [{ effective_from = "2027-01-01", input = "1.00", output = "8.00" }]

A tier and a change are price lists of their own, with the same defaults for what they leave out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from waypost.kit.money import NANOS_PER_USD, Nanos, format_usd, parse_usd
from waypost.metering.price import PARENTS, PriceChange, PriceRow, Tier, price_row
from waypost.policy.table import Table

TOKENS_MAX = 100_000_000  # of a context window; with the next two, no request's price leaves the range of Nanos
TOKEN_PRICE_USD_MAX = 100_000  # per million tokens
UNIT_PRICE_USD_MAX = 1_000_000_000  # per million images, requests, seconds or characters
TIERS_MAX = 8
CHANGES_MAX = 32
_UNIT_CLASSES = ("image", "request", "second", "character")
_Required = tuple[tuple[str, ...], ...]
# What a list must name, each one of several: what is not priced could not be billed.
_REQUIRED: dict[str, _Required] = {
    "chat": (("input",), ("output",)),
    "embedding": (("input",),),
    "image": (("image", "output", "request"),),
    "audio": (("second", "character", "output", "request"),),
    "video": (("second", "output", "request", "image"),),
    "rerank": (("input", "request"),),
}
# A provider of jobs may bill by the time that it computes, whatever comes out.
_REQUIRED_OF_COST = {**_REQUIRED, "image": (("image", "output", "request", "second"),)}
_FREE = price_row({})


def read_prices(owner: Table, name: str, modality: str) -> PriceRow:
    """No price, no route: a model or deployment without a price list is refused, and so is a list without the classes
    that its modality is billed by."""
    if not owner.has(name):
        owner.note(name, 'missing; no price, no route: give at least input and output, such as { input = "2.50", … }')
        return _FREE
    table = owner.table(name)
    required = (_REQUIRED_OF_COST if name == "cost" else _REQUIRED).get(modality, _REQUIRED["chat"])
    prices = _read_classes(table, required)
    tiers = _read_tiers(table, required)
    changes = _read_changes(table, required)
    table.close()
    return price_row(prices, tiers, changes)


def prices_document(prices: PriceRow) -> dict[str, object]:
    """The same list again, every class named."""
    document: dict[str, object] = {name: format_usd(getattr(prices, name)) for name in PARENTS}
    if prices.tiers:
        document["tiers"] = [{"above": tier.above, **prices_document(tier.prices)} for tier in prices.tiers]
    if prices.changes:
        document["changes"] = [
            {"effective_from": moment_text(change.effective_from_ms), **prices_document(change.prices)}
            for change in prices.changes
        ]
    return document


def moment_text(unix_ms: int) -> str:
    """`2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_classes(table: Table, required: _Required) -> dict[str, int]:
    prices = {name: _read_price(table, name) for name in PARENTS if table.has(name)}
    for names in required:
        if table.is_table and not any(name in prices for name in names):
            also = f" (or one of {', '.join(names[1:])})" if len(names) > 1 else ""
            table.note(names[0], f'missing; expected a price in quotes, such as "2.50"{also}')
    return prices


def _read_tiers(owner: Table, required: _Required) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    for table in owner.tables("tiers") if owner.has("tiers") else ():
        above = table.integer("above", least=1, most=TOKENS_MAX)
        if tiers and above <= tiers[-1].above:
            table.note("above", "tiers stand in ascending order")
        tiers.append(Tier(above, price_row(_read_classes(table, required))))
        table.close()
    if len(tiers) > TIERS_MAX:
        owner.note("tiers", f"at most {TIERS_MAX}")
    return tuple(tiers)


def _read_changes(owner: Table, required: _Required) -> tuple[PriceChange, ...]:
    changes: list[PriceChange] = []
    for table in owner.tables("changes") if owner.has("changes") else ():
        at_ms = _read_moment(table, "effective_from")
        if changes and at_ms <= changes[-1].effective_from_ms:
            table.note("effective_from", "changes stand in the order of their dates")
        changes.append(PriceChange(at_ms, price_row(_read_classes(table, required), _read_tiers(table, required))))
        table.close()
    if len(changes) > CHANGES_MAX:
        owner.note("changes", f"at most {CHANGES_MAX}")
    return tuple(changes)


def _read_moment(table: Table, name: str) -> int:
    text = table.text(name, hint='a day or a moment in UTC in quotes, such as "2027-01-01"')
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        table.note(name, 'expected a day or a moment in UTC in quotes, such as "2027-01-01" or "2027-01-01T06:00:00Z"')
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000


def _read_price(table: Table, name: str) -> Nanos:
    value = table.raw(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        table.note(name, f'put the price in quotes, such as {name} = "2.50", so that it is exact')
        return 0
    text = table.text(name, hint='a price in quotes, such as "2.50"')
    if not text:
        return 0
    try:
        nanos = parse_usd(text)
    except ValueError as error:
        table.note(name, str(error))
        return 0
    usd_max = UNIT_PRICE_USD_MAX if name in _UNIT_CLASSES else TOKEN_PRICE_USD_MAX
    if nanos > usd_max * NANOS_PER_USD:
        table.note(name, f"the largest price is {usd_max} USD per million")
    return nanos
