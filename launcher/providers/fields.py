"""One JSON object of a vendor, read field by field as the types that we need.

Vendors send numbers as strings, strings with blanks around them, null for what they
do not know yet. All that is taken; what cannot be the wanted type is an error with
the field's name, never a traceback three modules later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.errors import ProviderError
from launcher.providers.answer import one_line


@dataclass(frozen=True)
class Fields:
    """`what`: the vendor's word for the object, for errors: `vast's offer`."""

    row: Mapping[str, Any]
    what: str

    @classmethod
    def of(cls, value: Any, what: str) -> Fields:
        """Raises ProviderError where `value` is no object."""
        if not isinstance(value, dict):
            raise ProviderError(f"{what} is not readable", why=f"expected an object, got {_shown(value)}")
        return cls(value, what)

    def text(self, name: str, default: str | None = None) -> str:
        """Without blanks at its ends. Null is absent; absent without a default is an error."""
        value = self._value(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self._wrong(name, value, "text")
        return str(value).strip()

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number, or a string that is one."""
        found = self.optional_number(name)
        if found is None:
            if default is None:
                raise self._wrong(name, None, "a number")
            return default
        return found

    def optional_number(self, name: str) -> float | None:
        """None where it is absent, null or an empty string."""
        value = self._value(name)
        if value is None or value == "":
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self._wrong(name, value, "a number") from None
        if not math.isfinite(found):
            raise self._wrong(name, value, "a number")
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        found = self.number(name, None if default is None else float(default))
        if found != int(found):
            raise self._wrong(name, found, "a whole number")
        return int(found)

    def flag(self, name: str) -> bool:
        """False where it is absent or null."""
        value = self._value(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def _value(self, name: str) -> Any:
        return self.row.get(name)

    def _wrong(self, name: str, value: Any, expected: str) -> ProviderError:
        return ProviderError(f"{self.what} is not readable", why=f"`{name}`: expected {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return one_line(f"{type(value).__name__} {str(value)[:80]!r}")
