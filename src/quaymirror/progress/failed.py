"""Failed images as text that is safe to print."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Failure
from ..events import CheckFailed, Outcome
from ..text import escape_controls, one_line


@dataclass(frozen=True, slots=True, order=True)
class FailedImage:
    """The name of a failed image and the reason; `where` is the side and the phase: `source, fetch`."""

    name: str
    message: str
    where: str = ""

    @classmethod
    def of(cls, failed: Outcome | CheckFailed) -> FailedImage:
        """Return the image of a failed outcome or check."""
        if isinstance(failed, CheckFailed):
            name = one_line(f"{failed.repository.partition('/')[2]}:{failed.tag}")
        else:
            name = escape_controls(failed.reference.name)

        error = failed.error
        return cls(name, "failed") if error is None else cls(name, one_line(error.message), _where(error))

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def explain(error: Failure) -> str:
    """Return the message of `error` after its side and phase: `source, fetch: gone`."""
    return f"{_where(error)}: {error.message}"


def _where(error: Failure) -> str:
    return ", ".join(part.value for part in (error.side, error.phase) if part is not None)
