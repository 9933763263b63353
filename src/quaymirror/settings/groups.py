"""Options in groups. The name of a field is the name of its option, and each is declared here and nowhere else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from ..catalog.mode import Discovery
from ..errors import ConfigError
from ..http.origin import Origin, parse_server
from ..http.retry import RetryPolicy
from ..http.timeouts import Timeouts
from ..oci import Platform
from ..secret import Credentials, Secret
from ..selection.parse import parse_duration
from ..store.fsops import Fsync
from .spec import (
    Group,
    Heading,
    OptionSpec,
    OptionType,
    existing_directory,
    existing_file,
    option,
    possible_directory,
    replaceable_file,
    writable_file,
)

DEFAULT_SERVER = "https://quay.io"
DEFAULT_TARGET = "./mirror"

# With less, the listing of a large organization would not arrive within its time limit.
_LEAST_RATE = 1024
_WEEK = 7 * 86_400.0
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FILTER = re.compile(r"[a-z][a-z0-9-]*(?:[:?].*)?")
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s?([KMGTkmgt])?(?:i?[Bb])?(?:/s)?")


def parse_rate(text: str) -> int:
    """Return the bytes per second that `text` says: `500K`, `20M`, `1.5 MiB`, `10MB/s`; units are powers of 1024.

    :raises ConfigError: if it is not a rate.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"not a rate: {text[:50]!r}; write bytes per second, such as 500K, 20M or 1G")

    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def _seconds(text: str) -> float:
    return parse_duration(text).total_seconds()


def _seconds_or_none(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _ping_url(text: str) -> None:
    if not text.startswith(("https://", "http://")):
        raise ConfigError("must begin with https:// or http://")


def _realm(text: str) -> None:
    if not _HOST.fullmatch(text):
        raise ConfigError(f"not a host: {text[:100]!r}; write HOST or HOST:PORT")


def _filter(text: str) -> None:
    if not _FILTER.fullmatch(text):
        raise ConfigError(f"not a filter: {text[:100]!r}; write NAME or NAME:KEY=VALUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions(Group):
    """The server to mirror from, and the credentials and certificates for it."""

    server: str = option(
        "--server",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=DEFAULT_SERVER,
        accept=parse_server,
        metavar="URL",
        heading=Heading.SOURCE,
        common=True,
        help="The Quay server; http:// means plain HTTP.",
    )
    api_token: Secret | None = None
    credentials: Credentials | None = None
    allow_foreign_layers: bool = option(
        "--allow-foreign-layers",
        commands=("verify",),
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.SOURCE,
        help="Fetch layers that the registry lacks from the URLs in manifests.",
    )
    src_cert_dir: Path | None = option(
        "--src-cert-dir",
        both="cert_dir",
        commands=(
            "info",
            "verify",
        ),
        default=None,
        kind=OptionType.PATH,
        on_disk=existing_directory,
        heading=Heading.SOURCE,
        help="Directory with certificates for the source (*.crt, *.cert, *.key).",
    )
    src_tls_verify: bool = option(
        "--src-tls-verify",
        both="tls_verify",
        commands=(
            "info",
            "verify",
        ),
        default=True,
        kind=OptionType.FLAG,
        metavar="BOOL",
        heading=Heading.SOURCE,
        help="Whether to verify the source's certificate.",
    )

    @property
    def origin(self) -> Origin:
        """The origin of the server."""
        return parse_server(self.server)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(Group):
    """Options of every HTTP client, of the source and of the target.

    Auth files and proxies are looked up in `environment`. `retries` replaces the number in `retry`.
    """

    authfile: Path | None = option(
        "--authfile",
        commands=(
            "info",
            "verify",
        ),
        default=None,
        kind=OptionType.PATH,
        on_disk=existing_file,
        metavar="FILE",
        heading=Heading.SOURCE,
        help="Auth file to use instead of docker's and podman's.",
    )
    allow_realms: tuple[str, ...] = option(
        "--allow-realm",
        commands=(
            "info",
            "verify",
        ),
        default=(),
        many=True,
        accept=_realm,
        metavar="HOST",
        heading=Heading.SOURCE,
        help="Trust the token service at this host, too.",
    )
    cafile: Path | None = option(
        "--cafile",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=None,
        kind=OptionType.PATH,
        on_disk=existing_file,
        metavar="FILE",
        heading=Heading.SOURCE,
        help="CA certificates to trust, PEM.",
    )
    retries: int = option(
        "--retries",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=5,
        kind=OptionType.NUMBER,
        least=0,
        most=1000,
        metavar="N",
        heading=Heading.LIMITS,
        help="How many times to retry a failed request.",
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions(Group):
    """The way images are stored: filters, durability, and access to a target that is a registry."""

    filters: tuple[str, ...] = option(
        "--filter",
        "-f",
        default=(),
        many=True,
        accept=_filter,
        metavar="SPEC",
        heading=Heading.TARGET,
        help="Apply an occystrap filter (for dir://, tar:// and other derived targets).",
    )
    allow_extract: bool = option(
        "--allow-extract",
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.TARGET,
        help="Let oci://, mounts:// and dir://?expand=true unpack images.",
    )
    dry_run: bool = option(
        "--dry-run",
        commands=("prune",),
        negatable=("prune",),
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.TARGET,
        common=True,
        help="Show what would be done; write nothing.",
    )
    fsync: Fsync = option(
        "--fsync",
        default=Fsync.ALWAYS,
        shown_default="always",
        choices=Fsync,
        metavar="WHEN",
        heading=Heading.TARGET,
        help="Survive power loss: sync each file (always), each commit (batch), never.",
    )
    check_space: bool = option(
        "--no-space-check",
        default=True,
        kind=OptionType.FLAG,
        inverted=True,
        heading=Heading.TARGET,
        help="Don't check free disk space first.",
    )
    wait: bool = option(
        "--wait",
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.TARGET,
        help="Wait for another run on the same target to end.",
    )
    dest_credentials: Credentials | None = None
    dest_cert_dir: Path | None = option(
        "--dest-cert-dir",
        both="cert_dir",
        commands=("verify",),
        default=None,
        kind=OptionType.PATH,
        on_disk=existing_directory,
        heading=Heading.REGISTRY_TARGET,
        help="Directory with certificates for the target (*.crt, *.cert, *.key).",
    )
    dest_tls_verify: bool = option(
        "--dest-tls-verify",
        both="tls_verify",
        commands=("verify",),
        default=True,
        kind=OptionType.FLAG,
        metavar="BOOL",
        heading=Heading.REGISTRY_TARGET,
        help="Whether to verify the target's certificate.",
    )
    state: Path | None = option(
        "--state",
        commands=(
            "verify",
            "history",
            "watch",
        ),
        default=None,
        shown_default="XDG state",
        kind=OptionType.PATH,
        on_disk=possible_directory,
        heading=Heading.REGISTRY_TARGET,
        help="Directory where runs record which images they pushed.",
    )
    check_target: bool = option(
        "--check-target",
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.REGISTRY_TARGET,
        help="Check that images pushed earlier still exist in the target registry.",
    )
    verify_target: bool = option(
        "--verify-target",
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.REGISTRY_TARGET,
        help="Verify the target after the run, as `quaymirror verify` does.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Group):
    """Limits on concurrency, rates and time. `limit_rate` is in bytes per second, `max_duration` in seconds."""

    concurrency: int = option(
        "--concurrency",
        "-c",
        commands=("info",),
        default=16,
        kind=OptionType.NUMBER,
        least=1,
        most=1024,
        metavar="N",
        heading=Heading.LIMITS,
        common=True,
        help="Images in progress.",
    )
    layer_concurrency: int = option(  # measured: docs/explanation/concurrency.md
        "--layer-concurrency",
        default=64,
        kind=OptionType.NUMBER,
        least=1,
        most=1024,
        metavar="N",
        heading=Heading.LIMITS,
        help="Blobs in progress, over all images.",
    )
    limit_rate: int | None = option(
        "--limit-rate",
        default=None,
        parse=parse_rate,
        least=_LEAST_RATE,
        most=2**50,
        metavar="RATE",
        heading=Heading.LIMITS,
        common=True,
        help="Limit all transfers to 500K, 20M, … per second.",
    )
    max_requests_per_second: float | None = option(
        "--max-requests-per-second",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=None,
        kind=OptionType.DECIMAL,
        least=0.01,
        most=1e6,
        metavar="N",
        heading=Heading.LIMITS,
        help="Limit all requests to the source.",
    )
    max_duration: float | None = option(
        "--max-duration",
        default=None,
        parse=_seconds,
        metavar="DURATION",
        heading=Heading.LIMITS,
        help="Start nothing new after this time, such as 90m or 4h.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryOptions(Group):
    """The way images are found, and what a run must find. `platforms` are those wanted of multi-arch images."""

    platforms: tuple[Platform, ...] = option(
        "--platform",
        commands=("info",),
        default=(),
        shown_default="all",
        many=True,
        parse=Platform.parse,
        metavar="OS/ARCH",
        heading=Heading.SELECTION,
        common=True,
        help="Platforms of multi-arch images.",
    )
    discovery: Discovery = option(
        "--discovery",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=Discovery.AUTO,
        shown_default="auto",
        choices=Discovery,
        metavar="SOURCE",
        heading=Heading.SOURCE,
        help="Resolve tags with Quay's API (slow) or its registry (logs each as a pull): auto, api or registry.",
    )
    full_check_every: float = option(
        "--full-check-every",
        shorthand=OptionSpec(
            name="full_check",
            spellings=("--full-check",),
            kind=OptionType.FLAG,
            default=False,
            means=0.0,
            heading=Heading.LIMITS,
            help="Recheck every tag in this run.",
        ),
        default=_WEEK,
        shown_default="7d",
        parse=_seconds,
        metavar="DURATION",
        heading=Heading.LIMITS,
        help="Recheck every tag at least this often.",
    )
    expect_at_least: int | None = option(
        "--expect-at-least",
        default=None,
        kind=OptionType.NUMBER,
        least=0,
        most=1_000_000,
        metavar="N",
        heading=Heading.LIMITS,
        help="Fail if fewer images are found.",
    )
    max_missing: float | None = option(
        "--max-missing",
        default=None,
        kind=OptionType.DECIMAL,
        least=0,
        most=100,
        metavar="PERCENT",
        heading=Heading.LIMITS,
        help="Fail if more of the last run's images are missing.",
    )
    allow_empty: bool = option(
        "--allow-empty",
        commands=(
            "list",
            "info",
            "verify",
        ),
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.SELECTION,
        help="Succeed if nothing is selected.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions(Group):
    """Removal of images that have disappeared from the source. `grace` is in seconds."""

    prune: bool = option(
        "--prune",
        default=False,
        kind=OptionType.FLAG,
        heading=Heading.PRUNING,
        common=True,
        help="Remove images that are gone from the source.",
    )
    grace: float = option(
        "--grace",
        commands=("prune",),
        default=_WEEK,
        shown_default="7d",
        parse=_seconds_or_none,
        metavar="DURATION",
        heading=Heading.PRUNING,
        help="How long images must have been missing before they are removed.",
    )
    max_delete: float = option(
        "--max-delete",
        shorthand=OptionSpec(
            name="yes",
            spellings=("--yes",),
            kind=OptionType.FLAG,
            default=False,
            means=100.0,
            commands=("prune",),
            heading=Heading.PRUNING,
            has_variable=False,
            in_file=False,
            help="Prune, no matter how many images are removed.",
        ),
        commands=("prune",),
        default=10.0,
        shown_default="10",
        kind=OptionType.DECIMAL,
        least=0,
        most=100,
        metavar="PERCENT",
        heading=Heading.PRUNING,
        help="Remove nothing if more images would be removed.",
    )


PROGRESS = ("auto", "rich", "plain", "json", "none")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions(Group):
    """The display of runs, and the files they write besides the mirror.

    :raises ConfigError: if `verbose` contradicts `quiet`.
    """

    progress: str = option(
        "--progress",
        commands=("demo",),
        default="auto",
        shown_default="auto",
        choices=PROGRESS,
        metavar="HOW",
        heading=Heading.OUTPUT,
        common=True,
        help="Progress: auto, rich, plain, json or none.",
    )
    verbose: bool = option(
        "--verbose",
        "-v",
        default=False,
        kind=OptionType.FLAG,
        in_file=False,
        heading=Heading.OUTPUT,
        help="Also show retries and every tag checked.",
    )
    quiet: bool = option(
        "--quiet",
        "-q",
        default=False,
        kind=OptionType.FLAG,
        in_file=False,
        heading=Heading.OUTPUT,
        help="Print errors only.",
    )
    log_file: Path | None = option(
        "--log-file",
        default=None,
        kind=OptionType.PATH,
        on_disk=writable_file,
        metavar="FILE",
        heading=Heading.OUTPUT,
        help="Append a log to this file.",
    )
    log_format: str = option(
        "--log-format",
        default="text",
        shown_default="text",
        choices=LOG_FORMATS,
        metavar="FORMAT",
        heading=Heading.OUTPUT,
        help="Format of log lines: text or json.",
    )
    report: Path | None = option(
        "--report",
        default=None,
        kind=OptionType.PATH,
        on_disk=writable_file,
        metavar="FILE",
        heading=Heading.OUTPUT,
        common=True,
        help="Write the run's report as JSON.",
    )
    report_html: Path | None = option(
        "--report-html",
        default=None,
        kind=OptionType.PATH,
        on_disk=writable_file,
        metavar="FILE",
        heading=Heading.OUTPUT,
        help="Write the report as an HTML page.",
    )
    lock_file: Path | None = option(
        "--lock-file",
        default=None,
        kind=OptionType.PATH,
        on_disk=writable_file,
        metavar="FILE",
        heading=Heading.OUTPUT,
        help="Write the digest of each selected tag.",
    )
    metrics_textfile: Path | None = option(
        "--metrics-textfile",
        default=None,
        kind=OptionType.PATH,
        on_disk=replaceable_file,
        metavar="FILE",
        heading=Heading.OUTPUT,
        help="Write metrics for Prometheus' node_exporter.",
    )
    ping_url: str | None = option(
        "--ping-url",
        default=None,
        accept=_ping_url,
        metavar="URL",
        secret=True,
        heading=Heading.OUTPUT,
        help="Ping URL/start, URL and URL/fail (as healthchecks.io does).",
    )

    def __post_init__(self) -> None:
        Group.__post_init__(self)
        if self.verbose and self.quiet:
            raise ConfigError("--verbose and --quiet contradict each other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options of a run, in groups.

    :raises ConfigError: if a value is not legal.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    client: ClientOptions = field(default_factory=ClientOptions)
    target: TargetOptions = field(default_factory=TargetOptions)
    limits: Limits = field(default_factory=Limits)
    discovery: DiscoveryOptions = field(default_factory=DiscoveryOptions)
    prune: PruneOptions = field(default_factory=PruneOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return options with these values, by the names of their fields: no name is in two groups.

        :raises ConfigError: if a value is not legal.
        """
        return cls().replace(**values)

    def replace(self, **values: Any) -> Self:
        """Return a copy with these values, by the names of their fields.

        :raises ConfigError: if a value is not legal.
        """
        groups: dict[str, Any] = {}
        for name, value in values.items():
            if name not in GROUP_OF:
                raise TypeError(f"no such option: {name!r}")

            groups.setdefault(GROUP_OF[name], {})[name] = value

        return replace(self, **{name: replace(getattr(self, name), **part) for name, part in groups.items()})

    @property
    def connection(self) -> tuple[object, ...]:
        """What runs must have in common to share connections and limits."""
        source, client, limits = self.source, self.client, self.limits
        return (
            source.origin,
            client.cafile,
            source.src_cert_dir,
            source.src_tls_verify,
            limits.limit_rate,
            limits.max_requests_per_second,
            client.timeouts,
            client.retry,
            client.environment,
        )

    def state_directory(self, target: str) -> Path:
        """Return the directory of the state of `target`, an address without a directory of its own.

        Each target has its own, also below `state`.

        :raises ConfigError: if no home directory is known.
        """
        return self._states(target) / hashlib.sha256(target.encode()).hexdigest()[:16]

    def _states(self, target: str) -> Path:
        if self.target.state is not None:
            return self.target.state

        environment = self.client.environment
        if state := environment.get("XDG_STATE_HOME"):
            return Path(state, "quaymirror")

        try:
            return Path(environment.get("HOME") or Path.home(), ".local", "state", "quaymirror")
        except RuntimeError:
            raise ConfigError(f"cannot determine a state directory for {target}: set HOME or use --state") from None


GROUPS: Mapping[str, type[Any]] = {
    "source": SourceOptions,
    "client": ClientOptions,
    "target": TargetOptions,
    "limits": Limits,
    "discovery": DiscoveryOptions,
    "prune": PruneOptions,
    "output": OutputOptions,
}
GROUP_OF = {each.name: name for name, group in GROUPS.items() for each in fields(group)}
