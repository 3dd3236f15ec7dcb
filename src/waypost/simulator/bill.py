"""The bill of the simulated providers: what they will charge, worked out without the product's own arithmetic.

Prices are text in USD per million, amounts are exact fractions, and each request is rounded up once, to the nano-USD.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from fractions import Fraction

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Tokens

LINES_MAX = 200_000  # lines that can be listed; the totals never forget
_MS_PER_S = 1000
_NANOS_PER_MICRO_USD = 1000  # a price in USD per million units is one in micro-USD per unit
_PRICE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")
# A class that a price list leaves out costs what its parent class costs.
_PARENTS = {
    "input": "",
    "output": "",
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "cache_write_5m",
    "image_input": "input",
    "image": "",
    "request": "",
    "second": "",
}
_STEP = re.compile(r"([a-z_0-9]+)_above_([0-9]{1,9})")  # the price of a class for prompts longer than so many tokens


class Line(msgspec.Struct):
    """One billed request. The token classes are disjoint, and output grows while the answer is generated."""

    id: str  # as the provider names the answer
    style: str
    model: str
    prices: dict[str, Fraction]
    steps: dict[int, dict[str, Fraction]]  # by length of the prompt, ascending
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int = 0
    image_tokens: int = 0  # of the prompt
    images: int = 0  # generated
    milliseconds: int = 0  # of video or sound made, or of time computed
    output_tokens: int = 0
    is_open: bool = True
    at: str = ""  # when it was asked for, ISO 8601 in UTC

    @property
    def nanos(self) -> int:
        price = self.prices
        prompt = self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
        prompt += self.cache_write_1h_tokens + self.image_tokens
        for above, dearer in self.steps.items():
            if prompt > above:
                price = dearer
        micro_usd = (
            price["image_input"] * self.image_tokens
            + price["input"] * self.input_tokens
            + price["cache_read"] * self.cache_read_tokens
            + price["cache_write_5m"] * self.cache_write_tokens
            + price["cache_write_1h"] * self.cache_write_1h_tokens
            + price["output"] * self.output_tokens
            + price["image"] * self.images
            + price["second"] * Fraction(self.milliseconds, _MS_PER_S)
            + price["request"]
        )
        return math.ceil(micro_usd * _NANOS_PER_MICRO_USD)


class _Sum(msgspec.Struct):
    requests: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    image_tokens: int = 0
    images: int = 0
    milliseconds: int = 0
    output_tokens: int = 0
    nanos: int = 0

    def add(self, line: Line) -> None:
        self.requests += 1
        self.input_tokens += line.input_tokens
        self.cache_read_tokens += line.cache_read_tokens
        self.cache_write_tokens += line.cache_write_tokens
        self.cache_write_1h_tokens += line.cache_write_1h_tokens
        self.image_tokens += line.image_tokens
        self.images += line.images
        self.milliseconds += line.milliseconds
        self.output_tokens += line.output_tokens
        self.nanos += line.nanos


class BadPrice(Exception):
    """A price list that cannot be read; the text says why."""


class Bill:
    """Prices, and what was charged by them. A model without a price costs nothing, and is listed as unpriced."""

    def __init__(self) -> None:
        self._prices: dict[str, dict[str, Fraction]] = {}
        self._steps: dict[str, dict[int, dict[str, Fraction]]] = {}
        self._closed: dict[str, _Sum] = {}
        self._open: dict[int, Line] = {}
        self._lines: deque[Line] = deque(maxlen=LINES_MAX)

    @property
    def models(self) -> list[str]:
        return list(self._prices)

    def set_prices(self, prices: Mapping[str, Mapping[str, str]]) -> None:
        """`{"model": {"input": "2.00", "cache_read": "0.20", "output": "8.00"}}`; replaces the models it names.

        `"input_above_200000": "4.00"` is a price for prompts longer than so many tokens; there, a class without one
        costs what its parent class does. They count from the next billed request on. Raises BadPrice.
        """
        flat: dict[str, dict[str, str]] = {}
        steps: dict[str, dict[int, dict[str, str]]] = {}
        for model, row in prices.items():
            flat[model], steps[model] = {}, {}
            for name, text in row.items():
                step = _STEP.fullmatch(name)
                target = flat[model] if step is None else steps[model].setdefault(int(step[2]), {})
                target[name if step is None else step[1]] = text
        read = {model: _read_prices(model, row) for model, row in flat.items()}
        read_steps = {
            model: {above: _read_prices(model, rows[above]) for above in sorted(rows)} for model, rows in steps.items()
        }
        self._prices |= read
        self._steps |= read_steps

    def prices(self) -> dict[str, dict[str, str]]:
        """The prices in force, as exact fractions of USD per million."""
        return {model: {name: str(price) for name, price in row.items()} for model, row in self._prices.items()}

    def open(self, *, answer_id: str, style: str, model: str, tokens: Tokens, at: str = "") -> Line:
        """Begins to charge for an answer. The caller adds to `output_tokens` and closes the line."""
        fresh = tokens.prompt - tokens.cached - tokens.cache_written - tokens.cache_written_1h
        images = min(tokens.image, fresh)
        line = Line(
            id=answer_id,
            style=style,
            model=model,
            prices=self._prices.get(model, _FREE),
            steps=self._steps.get(model, {}),
            input_tokens=fresh - images,
            cache_read_tokens=tokens.cached,
            cache_write_tokens=tokens.cache_written,
            cache_write_1h_tokens=tokens.cache_written_1h,
            image_tokens=images,
            images=tokens.images,
            at=at,
        )
        self._open[id(line)] = line
        return line

    def charge_job(self, *, job_id: str, style: str, model: str, images: int, milliseconds: int, at: str = "") -> None:
        """Charge for a job that has ended."""
        line = Line(
            id=job_id,
            style=style,
            model=model,
            prices=self._prices.get(model, _FREE),
            steps={},
            input_tokens=0,
            cache_read_tokens=0,
            cache_write_tokens=0,
            images=images,
            milliseconds=milliseconds,
            at=at,
        )
        self._open[id(line)] = line
        self.close(line)

    def close(self, line: Line) -> None:
        del self._open[id(line)]
        line.is_open = False
        self._closed.setdefault(line.model, _Sum()).add(line)
        self._lines.append(line)

    @property
    def lines(self) -> list[Line]:
        """The latest LINES_MAX closed lines and all open ones."""
        return [*self._lines, *self._open.values()]

    @property
    def nanos(self) -> int:
        """Everything charged so far, answers still being generated included."""
        return sum(row.nanos for row in self._sums().values())

    def report(self, *, has_lines: bool = False, style: str = "") -> dict[str, object]:
        """Totals over all and per model, open lines included; amounts are text, as JSON numbers are not exact. The
        lines are those of one style, if it is named."""
        sums = self._sums()
        total = _Sum()
        for row in sums.values():
            for name in _Sum.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(row, name))
        report: dict[str, object] = {
            "total": _shown(total),
            "models": {model: _shown(row) for model, row in sorted(sums.items())},
            "unpriced": sorted(set(sums) - set(self._prices)),
        }
        if has_lines:
            report["lines"] = [_shown_line(line) for line in self.lines if style in ("", line.style)]
        return report

    def _sums(self) -> dict[str, _Sum]:
        sums = {model: replace(row) for model, row in self._closed.items()}
        for line in self._open.values():
            sums.setdefault(line.model, _Sum()).add(line)
        return sums


def _read_prices(model: str, row: Mapping[str, str]) -> dict[str, Fraction]:
    strangers = [name for name in row if name not in _PARENTS]
    if strangers:
        raise BadPrice(f"{model}: no such price: {', '.join(strangers)}; there are {', '.join(_PARENTS)}")
    prices: dict[str, Fraction] = {}
    for name, parent in _PARENTS.items():
        text = row.get(name)
        if text is not None and not _PRICE.fullmatch(text):
            raise BadPrice(f"{model}.{name}: a price is digits with at most nine decimals, USD per million")
        prices[name] = prices.get(parent, Fraction(0)) if text is None else Fraction(text)
    return prices


def _shown(row: _Sum) -> dict[str, object]:
    return {**msgspec.structs.asdict(row), "nanos": str(row.nanos)}


def _shown_line(line: Line) -> dict[str, object]:
    shown = {name: value for name, value in msgspec.structs.asdict(line).items() if name not in ("prices", "steps")}
    return {**shown, "nanos": str(line.nanos)}


_FREE = dict.fromkeys(_PARENTS, Fraction(0))
