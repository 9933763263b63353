"""Short descriptions of runs and limits, as texts that are safe to print."""

from __future__ import annotations

from ..events import HostPaced, RunStarted
from ..progress.forecast import expected_images, likely_images
from ..progress.run import RunProgress
from ..text import human_rate, one_line

__all__ = ["limits_text", "pace_text", "subject", "total_text"]


def subject(run: RunStarted) -> str:
    """Return the jobs of a run, if they have names, and its first selection."""
    more = f" and {run.selections - 1:,} more" if run.selections > 1 else ""
    jobs = f"{', '.join(run.jobs)}: " if run.jobs else ""
    return one_line(f"{jobs}{run.organization}/{run.glob}:{run.tag}{more}")


def pace_text(pace: HostPaced) -> str:
    """Return the limits of one kind of endpoints: `4.8/s, 4 at once`."""
    rate = "" if pace.rate is None else f"{pace.rate:,.{0 if pace.rate >= 10 else 1}f}/s, "
    return f"{rate}{pace.window:,} at once"


def limits_text(run: RunStarted) -> str:
    """Return the limits that the user set for the source, "" if none."""
    limits = [] if run.limit_rate is None else [human_rate(run.limit_rate)]
    if run.max_requests_per_second is not None:
        limits.append(f"{run.max_requests_per_second:g} requests/s")

    return f"at most {', '.join(limits)}" if limits else ""


def total_text(progress: RunProgress, *, more: str = "+", about: str = "~") -> str:
    """Return the number of images: `120+` while repositories are listed, `~300` while some are unchecked."""
    likely, known = likely_images(progress), progress.known_images
    if expected_images(progress) is None:
        return f"{known:,}{more}"

    return f"{about}{likely:,}" if likely > known else f"{known:,}"
