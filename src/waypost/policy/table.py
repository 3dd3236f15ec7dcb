"""One table of a configuration document, read field by field.

Mistakes do not stop the reading: each is noted with its full path, so that a person sees all of them at once.
A field is known because somebody asked for it, so `close` can name every field that nobody knows. Values are never
quoted in a message, since any of them may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Table:
    """A table at `path` (such as `models[0].price`). Each reading method gives the field's value, or its default
    after noting a mistake; a default of None makes the field required."""

    __slots__ = ("_fields", "_known", "is_table", "mistakes", "path")

    def __init__(self, value: object, path: str, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        self._known: list[str] = []
        self.is_table = isinstance(value, dict)
        self._fields: dict[str, object] = value if isinstance(value, dict) else {}
        if not self.is_table:
            mistakes.append(f"{path}: expected a table, got {_kind(value)}")

    def at(self, name: str) -> str:
        """The full path of a field."""
        shown = name if _BARE_KEY.fullmatch(name) else f'"{name}"'
        return f"{self.path}.{shown}" if self.path else shown

    def note(self, name: str, mistake: str) -> None:
        """Note a mistake of the field `name`."""
        self.mistakes.append(f"{self.at(name)}: {mistake}")

    def has(self, name: str) -> bool:
        """Whether the field is there. Asking makes it a known field."""
        if name not in self._known:
            self._known.append(name)
        return name in self._fields

    def raw(self, name: str) -> object:
        """The value as it stands, None when there is none."""
        return self._fields.get(name) if self.has(name) else None

    def names(self) -> list[str]:
        """Every field of a table whose names the user chooses; all become known."""
        self._known.extend(self._fields)
        return list(self._fields)

    def text(
        self, name: str, default: str | None = None, *, form: re.Pattern[str] | None = None, hint: str = "a string"
    ) -> str:
        """A string that matches `form` as a whole; `hint` says what was expected, with its article."""
        value = self.raw(name)
        if value is None:
            self._note_if_required(name, default, hint)
        elif not isinstance(value, str):
            self.note(name, f"expected {hint}, got {_kind(value)}")
        elif form is not None and form.fullmatch(value) is None:
            self.note(name, f"expected {hint}")
        else:
            return value
        return default or ""

    def one_of(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """A string out of a closed list."""
        hint = f"one of {', '.join(allowed)}"
        value = self.raw(name)
        if value is None:
            self._note_if_required(name, default, hint)
        elif isinstance(value, str):
            if value in allowed:
                return value
            self.note(name, f"expected {hint}{did_you_mean(value, allowed)}")
        else:
            self.note(name, f"expected {hint}, got {_kind(value)}")
        return default or allowed[0]

    def integer(self, name: str, default: int | None = None, *, least: int, most: int) -> int:
        """A whole number between `least` and `most`."""
        value = self.raw(name)
        if value is None:
            self._note_if_required(name, default, "an integer")
        elif isinstance(value, bool) or not isinstance(value, int):
            self.note(name, f"expected an integer, got {_kind(value)}")
        elif not least <= value <= most:
            self.note(name, f"expected an integer from {least} to {most}, got {value}")
        else:
            return value
        return least if default is None else default

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number between `least` and `most`, whole or not."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.note(name, f"expected a number, got {_kind(value)}")
        elif not least <= value <= most:
            self.note(name, f"expected a number from {least:g} to {most:g}, got {value:g}")
        else:
            return float(value)
        return default

    def boolean(self, name: str) -> bool:
        """True or false; only for a field that is there."""
        value = self.raw(name)
        if not isinstance(value, bool):
            self.note(name, f"expected true or false, got {_kind(value)}")
        return value is True

    def texts(self, name: str, *, form: re.Pattern[str] | None = None, hint: str = "a string") -> tuple[str, ...]:
        """An array of strings, each matching `form`; empty when the field is not there."""
        items = []
        for i, value in enumerate(self._array(name)):
            if not isinstance(value, str):
                self.mistakes.append(f"{self.at(name)}[{i}]: expected {hint}, got {_kind(value)}")
            elif form is not None and form.fullmatch(value) is None:
                self.mistakes.append(f"{self.at(name)}[{i}]: expected {hint}")
            else:
                items.append(value)
        return tuple(items)

    def numbers(
        self, name: str, default: tuple[float, ...], *, least: float, most: float, count_max: int
    ) -> tuple[float, ...]:
        """An array of at most `count_max` numbers between `least` and `most`."""
        if not self.has(name):
            return default
        values = self._array(name)
        hint = f"expected a number from {least:g} to {most:g}"
        if len(values) > count_max:
            self.note(name, f"expected at most {count_max} numbers, got {len(values)}")
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                self.mistakes.append(f"{self.at(name)}[{i}]: {hint}")
        return tuple(float(value) for value in values if isinstance(value, int | float))

    def table(self, name: str) -> Table:
        """The table under `name`; an empty one when the field is not there."""
        return Table({} if self.raw(name) is None else self.raw(name), self.at(name), self.mistakes)

    def tables(self, name: str) -> list[Table]:
        """An array of tables, `[[name]]` in TOML."""
        at = self.at(name)
        return [Table(value, f"{at}[{i}]", self.mistakes) for i, value in enumerate(self._array(name))]

    def close(self) -> None:
        """Note every field that was never asked for."""
        for name in self._fields:
            if name not in self._known:
                hint = did_you_mean(name, self._known) or f"; the known fields are {', '.join(self._known)}"
                self.note(name, f"unknown field{hint}")

    def _array(self, name: str) -> list[object]:
        value = self.raw(name)
        if value is None:
            return []
        if isinstance(value, list):
            return value
        self.note(name, f"expected an array, got {_kind(value)}")
        return []

    def _note_if_required(self, name: str, default: object, hint: str) -> None:
        if default is None and self.is_table:
            self.note(name, f"missing; expected {hint}")


def did_you_mean(value: str, known: Sequence[str]) -> str:
    """`; did you mean 'input'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _kind(value: object) -> str:
    names: dict[type, str] = {bool: "a boolean", int: "an integer", float: "a float", str: "a string"}
    names |= {list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")
