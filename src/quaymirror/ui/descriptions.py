"""What there is to say of events: texts in one line of bounded length, safe to print as they are."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Failure
from ..events import CheckFailed, HostPaced, Outcome, RunStarted
from ..text import escape_controls, human_rate, one_line

__all__ = ["ImageFailure", "explain", "limits_text", "pace_text", "subject", "where"]


@dataclass(frozen=True, slots=True, order=True)
class ImageFailure:
    """An image that failed, as text that is safe to print; `kind` is the name of the error's class."""

    name: str
    message: str
    kind: str = ""
    where: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> ImageFailure:
        """Return the failure that `outcome` tells of."""
        name, error = escape_controls(outcome.reference.name), outcome.error
        if error is None:
            return cls(name, one_line(outcome.reason or "failed"))

        return cls(name, one_line(error.message), error.name, where(error))

    @classmethod
    def of_check(cls, event: CheckFailed) -> ImageFailure:
        """Return the failure of a check."""
        name = f"{event.repository.partition('/')[2]}:{event.tag}"
        return cls(one_line(name), one_line(event.error.message), event.error.name, where(event.error))

    def __str__(self) -> str:
        return explain(self.where, self.message)


def subject(run: RunStarted) -> str:
    """Return what a run is about: its jobs if they have names, and the first selection."""
    more = f" and {run.selections - 1} more" if run.selections > 1 else ""
    jobs = f"{', '.join(run.jobs)}: " if run.jobs else ""
    return one_line(f"{jobs}{run.organization}/{run.glob}:{run.tag}{more}")


def where(error: Failure) -> str:
    """Return the side and the phase of `error`: `source, fetch`."""
    return ", ".join(part.value for part in (error.side, error.phase) if part is not None)


def pace_text(pace: HostPaced) -> str:
    """Return how much may go to one kind of endpoints: `4.8/s, 4 at once`."""
    rate = "" if pace.rate is None else f"{pace.rate:,.{0 if pace.rate >= 10 else 1}f}/s, "
    return f"{rate}{pace.window:,} at once"


def limits_text(run: RunStarted) -> str:
    """Return what the user allows of the source, "" if that is everything."""
    limits = [] if run.limit_rate is None else [human_rate(run.limit_rate)]
    if run.max_requests_per_second is not None:
        limits.append(f"{run.max_requests_per_second:g} requests/s")

    return f"at most {', '.join(limits)}" if limits else ""


def explain(place: str, message: str) -> str:
    """Return `message` with the place it happened at in front, if that is known."""
    return f"{place}: {message}" if place else message
