"""Dataclasses that start fast: their methods are shared between classes, not generated for each of them.

The generator of the standard library takes 0.3 ms for a frozen class, 15 % of the time in which a night without changes
is over. The drop-in generates `__init__` only, which takes a quarter of it. Type checkers see the original, and they
alone prevent assignments to the fields of frozen classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True, repr=True, **options):  # noqa: A002 - the original's name
        """Return the class as `dataclasses.dataclass` does."""

        def make(cls):
            own = vars(cls)
            if repr and "__repr__" not in own:
                cls.__repr__ = _repr

            if eq and "__eq__" not in own:
                cls.__eq__ = _eq
                if "__hash__" not in own:
                    cls.__hash__ = _hash if frozen else None

            made = dataclasses.dataclass(cls, eq=False, repr=False, **options)
            compared = [each for each in dataclasses.fields(made) if each.compare]
            made.compared_values = _getter(each.name for each in compared)
            made.hashed_values = _getter(each.name for each in compared if each.hash is not False)
            return made

        return make if cls is None else make(cls)


def _getter(names: Iterable[str]) -> Any:
    names = tuple(names)
    return attrgetter(*names) if names else staticmethod(lambda _: ())


def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> bool:
    return self.compared_values(self) == other.compared_values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(self.hashed_values(self))


__all__ = ["dataclass"]
