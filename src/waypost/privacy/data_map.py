"""The words in which every stored column says what it is, why it is kept, how long, and what people's rights do to it.

`storage.tables` annotates each column in these words and hands out a `DataMap`; everything that privacy promises is
computed from that value. A column that says nothing, or promises less than the rules here, fails the build.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

DAYS_PER_YEAR = 365
FOR_EVER = None


class Category(Enum):
    """What a column tells. name → (does it concern a person or customer, days it may be kept at most).

    The ceilings are those of the published policies: metadata 12 months, bills 7 years, what belongs to an account
    30 days after the account's end, stored files a year, the trail of who did what 90 days."""

    ORGANISATION = ("organisation", True, 30)
    CREDENTIAL = ("credential", True, 30)
    EXECUTION_METADATA = ("execution metadata", True, DAYS_PER_YEAR)
    RECIPIENT = ("recipient of a disclosure", True, DAYS_PER_YEAR)
    BILLING = ("billing", True, 7 * DAYS_PER_YEAR + 2)  # two leap days
    FILE = ("stored file", True, DAYS_PER_YEAR)
    AUDIT = ("audit trail", True, 90)
    CONFIGURATION = ("configuration of the operator", False, FOR_EVER)
    OPERATION = ("state of the machinery", False, FOR_EVER)

    def __init__(self, title: str, is_personal: bool, ceiling_days: int | None) -> None:
        self.title = title
        self.is_personal = is_personal
        self.ceiling_days = ceiling_days


class Purpose(Enum):
    """Why a column is kept. name → (purpose, legal basis)."""

    SERVICE = ("to provide the service", "contract")
    BILLING = ("to bill what was used", "contract")
    BOOKKEEPING = ("to keep the books that tax law demands", "legal obligation")
    SECURITY = ("to keep accounts secure", "legitimate interest")
    OPERATION = ("to run the machinery", "no personal data")

    def __init__(self, title: str, basis: str) -> None:
        self.title = title
        self.basis = basis


class Anchor(Enum):
    """The moment from which a retention counts."""

    RECORDED = "after it was recorded"
    ENDED = "after the account, key or lease that it belongs to ended"
    BOOKED = "after the database has it too"


class Retention(msgspec.Struct, frozen=True):
    anchor: Anchor
    days: int


class Export(Enum):
    """What a subject's export holds of a column."""

    SHOWN = "exported"
    ON_VERIFIED_REQUEST = "disclosed on a verified request"  # who received the data: GDPR Art. 15(1)(c)
    SECRET = "not exported: it proves an identity"  # noqa: S105 - a word of the map, and no secret
    NOT_PERSONAL = "not exported: it concerns nobody"


class Erase(Enum):
    """What a subject's erasure does to a column."""

    DELETED = "deleted on erasure"
    PSEUDONYMISED = "pseudonymised on erasure"  # a random pseudonym, whose mapping is deleted
    KEPT_BY_LAW = "kept as the law demands"
    NOT_PERSONAL = "untouched by erasure"


class Annotation(msgspec.Struct, frozen=True):
    category: Category
    uses: tuple[Purpose, ...]
    retention: Retention | None  # None = for ever, which only the operator's own data may be
    export: Export
    erase: Erase


class Column(msgspec.Struct, frozen=True):
    table: str
    name: str
    annotation: Annotation | None

    @property
    def place(self) -> str:
        return f"{self.table}.{self.name}"


class ExternalTable(msgspec.Struct, frozen=True):
    """A table of somebody else's software in our database, and why nothing personal is in it."""

    name: str
    reason: str


class DataMap(msgspec.Struct, frozen=True):
    columns: tuple[Column, ...]
    external: tuple[ExternalTable, ...] = ()


def personal(
    category: Category,
    *uses: Purpose,
    retention: Retention,
    export: Export = Export.SHOWN,
    erase: Erase = Erase.DELETED,
) -> dict[str, Annotation]:
    """`info=` of a column that concerns a person or a customer."""
    return {"privacy": Annotation(category, uses, retention, export, erase)}


def impersonal(category: Category) -> dict[str, Annotation]:
    """`info=` of a column that concerns nobody."""
    nothing = Annotation(category, (Purpose.OPERATION,), FOR_EVER, Export.NOT_PERSONAL, Erase.NOT_PERSONAL)
    return {"privacy": nothing}


def mistakes(data_map: DataMap) -> list[str]:
    """Where the map breaks its own rules, one line each; empty when it is sound."""
    found = []
    for column in data_map.columns:
        if column.annotation is None:
            found.append(f"{column.place}: says nothing about itself")
        else:
            found += [f"{column.place}: {mistake}" for mistake in _mistakes_of(column.annotation)]
    return found


def _mistakes_of(said: Annotation) -> Iterable[str]:
    if not said.uses:
        yield "no purpose"
    if said.category.is_personal:
        if Purpose.OPERATION in said.uses:
            yield "personal data needs a purpose with a legal basis"
        if said.export is Export.NOT_PERSONAL or said.erase is Erase.NOT_PERSONAL:
            yield "personal data takes part in export and erasure"
    elif said.export is not Export.NOT_PERSONAL or said.erase is not Erase.NOT_PERSONAL:
        yield "what concerns nobody is neither exported nor erased"
    if said.erase is Erase.KEPT_BY_LAW and Purpose.BOOKKEEPING not in said.uses:
        yield "kept by law, but for no purpose that a law demands"
    if said.export is Export.SECRET and said.category is not Category.CREDENTIAL:
        yield "only a credential may be left out of an export as a secret"
    ceiling_days = said.category.ceiling_days
    if ceiling_days is not None and (said.retention is None or said.retention.days > ceiling_days):
        yield f"kept longer than {ceiling_days} days"


def drift(data_map: DataMap, live: Iterable[tuple[str, str]]) -> list[str]:
    """Differences between the map and the (table, column) pairs of a live database, in both directions."""
    mapped = {(column.table, column.name) for column in data_map.columns}
    external = {table.name for table in data_map.external}
    present = set(live)
    found = [
        f"{table}.{name}: in the database, but not in the map"
        for table, name in present - mapped
        if table not in external
    ]
    found += [f"{table}.{name}: in the map, but not in the database" for table, name in mapped - present]
    absent = external - {table for table, _ in present}
    found += [f"{table}: in the map as external, but not in the database" for table in absent]
    return sorted(found)


def sentence(said: Annotation) -> str:
    """What an annotation means, for a person; also the column's comment in the database."""
    if said.retention is None:
        kept = "kept while in use"
    else:
        kept = f"kept {said.retention.days} days {said.retention.anchor.value}"
    purposes = ", ".join(f"{use.title} ({use.basis})" for use in said.uses)
    return f"{said.category.title}; {purposes}; {kept}; {said.export.value}; {said.erase.value}"
