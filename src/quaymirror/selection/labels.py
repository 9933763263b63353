"""Conditions on the labels of images: `--image-label KEY`, `KEY=GLOB` and `KEY!=GLOB`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from ..errors import ConfigError
from ..values import dataclass, pattern
from .grammar import quoted

_FORM = pattern(r"(?P<key>[^\s=!]+)(?:(?P<not>!?)=(?P<glob>.*))?", re.DOTALL)
_MAX = 1_000


@dataclass(frozen=True, slots=True)
class LabelCondition:
    """A condition on one label: it exists (`glob` is None), it matches `glob`, or, `negated`, it does not.

    A label that does not exist matches no glob.
    """

    key: str
    glob: str | None = None
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> LabelCondition:
        """Return the condition that `text` spells.

        :raises ConfigError: if it is none.
        """
        found = _FORM.fullmatch(text) if len(text) <= _MAX and text.isprintable() else None
        if found is None:
            raise ConfigError(f"not a condition on a label: {quoted(text)}; write KEY, KEY=GLOB or KEY!=GLOB")

        return cls(found["key"], found["glob"], found["not"] == "!")

    def holds(self, labels: Mapping[str, object]) -> bool:
        """Return True if `labels` meet the condition."""
        value = labels.get(self.key)
        if self.glob is None:
            return value is not None

        return (isinstance(value, str) and fnmatchcase(value, self.glob)) is not self.negated

    def __str__(self) -> str:
        return self.key if self.glob is None else f"{self.key}{'!' if self.negated else ''}={self.glob}"


def all_hold(conditions: Iterable[LabelCondition], labels: Mapping[str, object]) -> bool:
    """Return True if `labels` meet all of `conditions`."""
    return all(condition.holds(labels) for condition in conditions)


def conditions_key(conditions: Iterable[LabelCondition]) -> str:
    """Return the same text for the same conditions, as verdicts are recorded for it."""
    return "\n".join(sorted({str(condition) for condition in conditions}))
