"""Failed images as text that is safe to print."""

from __future__ import annotations

from ..errors import Failure, Side
from ..events import CheckFailed, Outcome
from ..text import escape_controls, one_line
from ..values import dataclass, pattern

# The URL that a message begins with: the meaning comes first, and the URL is for -v and the report.
_URL = pattern(r"([^\s/]+/\S*): (?=.)")


@dataclass(frozen=True, slots=True, order=True)
class FailedImage:
    """The name of a failed image, and the reason without the `url` that was requested.

    `where` is the side, "" for the source.
    """

    name: str
    message: str
    where: str = ""
    url: str = ""

    @classmethod
    def of(cls, failed: Outcome | CheckFailed) -> FailedImage:
        """Return the image of a failed outcome or check."""
        if isinstance(failed, CheckFailed):
            name = one_line(f"{failed.repository.partition('/')[2]}:{failed.tag}")
        else:
            name = escape_controls(failed.reference.name)

        error = failed.error
        if error is None:
            return cls(name, "failed")

        url, message = split_url(one_line(error.message))
        return cls(name, message, "" if error.side is Side.SOURCE else error.side.value, url)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def split_url(message: str) -> tuple[str, str]:
    """Return the URL that `message` begins with, "" if it begins with none, and the meaning after it."""
    found = _URL.match(message)
    return (found[1], message[found.end() :]) if found else ("", message)


def explain(error: Failure) -> str:
    """Return the message of `error` after its side and phase: `source, fetch: gone`."""
    return f"{_where(error)}: {error.message}"


def _where(error: Failure) -> str:
    return ", ".join(part.value for part in (error.side, error.phase) if part is not None)
