"""Options about the run itself: its limits, and its output."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..errors import ConfigError
from ..shards.scheduler import check_scheduler
from ..values import dataclass
from .spec import Group, Heading, appendable_file, option, replaceable_file, writable_file
from .texts import check_command, check_ping_url, parse_rate, seconds

# With less, the listing of a large organization would not arrive within its time limit.
_LEAST_RATE = 1024
# The commands that ask the source.
_READ = ("list", "info", "verify", "prune")
PROGRESS = ("auto", "rich", "plain", "json", "none")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Group):
    """Limits on concurrency, rates and time. `limit_rate` is in bytes per second, `max_duration` in seconds.

    The default of `layer_concurrency` was measured: docs/explanation/concurrency.md.
    """

    heading: ClassVar[Heading] = Heading.LIMITS
    concurrency: int = option(
        "-c, --concurrency N", "Images in progress.", 16, least=1, most=1024, common=True, commands=("info", "push")
    )
    layer_concurrency: int = option(
        "N", "Blobs in progress, over all images.", 64, least=1, most=1024, commands=("push",)
    )
    limit_rate: int | None = option(
        "RATE",
        "Limit all transfers to 500K, 20M, … per second.",
        parse=parse_rate,
        least=_LEAST_RATE,
        most=2**50,
    )
    max_requests_per_second: float | None = option(
        "N", "Limit all requests to the source.", least=0.01, most=1e6, commands=_READ
    )
    cluster: str | None = option(
        "ADDRESS",
        "Let the workers of the Dask cluster at tls://HOST:PORT fetch the blobs.",
        accept=check_scheduler,
        heading=Heading.SHARDS,
    )
    max_duration: float | None = option(
        "DURATION",
        "Start nothing new after this time, such as 4h; end soon after it.",
        parse=seconds,
        commands=("push",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions(Group):
    """The display of runs, and the files they write besides the mirror.

    :raises ConfigError: if `verbose` contradicts `quiet`.
    """

    heading: ClassVar[Heading] = Heading.OUTPUT
    progress: str = option(
        "HOW", "Progress: auto, rich, plain, json or none.", "auto", choices=PROGRESS, common=True, commands=("demo",)
    )
    verbose: bool = option("-v, --verbose", "Also show retries and every tag checked.", False, in_file=False)
    quiet: bool = option("-q, --quiet", "Print errors only.", False, in_file=False)
    log_file: Path | None = option("FILE", "Append a log to this file.", on_disk=appendable_file)
    log_format: str = option("FORMAT", "Format of log lines: text or json.", "text", choices=LOG_FORMATS)
    report: Path | None = option(
        "FILE", "Write the run's report as JSON.", on_disk=writable_file, common=True, commands=("merge-reports",)
    )
    report_html: Path | None = option("FILE", "Write the report as an HTML page.", on_disk=writable_file)
    lock_file: Path | None = option("FILE", "Write the digest of each selected tag.", on_disk=writable_file)
    metrics_textfile: Path | None = option(
        "FILE", "Write metrics for Prometheus' node_exporter.", on_disk=replaceable_file
    )
    ping_url: str | None = option(
        "URL", "Ping URL/start, URL and URL/fail (as healthchecks.io does).", accept=check_ping_url, secret=True
    )

    notify_command: str | None = option(
        "CMD", "Run this after each run, with its summary as JSON on standard input.", accept=check_command
    )

    def __post_init__(self) -> None:
        Group.__post_init__(self)
        if self.verbose and self.quiet:
            raise ConfigError("--verbose and --quiet contradict each other")
