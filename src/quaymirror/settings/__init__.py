"""Options in groups. The name of a field is the name of its option, and each is declared here and nowhere else."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from ..catalog.base import MOST_REPOSITORIES, Discovery
from ..errors import ConfigError
from ..http.origin import Origin, parse_server, without_user
from ..http.retry import RetryPolicy
from ..http.timeouts import Timeouts
from ..oci import Platform
from ..oci.reference import is_tag
from ..referrers.choice import ReferrerMode
from ..secret import Credentials, Secret
from ..selection.parse import parse_duration
from ..selection.rename import Rename
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..shards.scheduler import check_scheduler
from ..store.fsops import Fsync
from ..store.retention import Retention
from ..values import dataclass, pattern
from .spec import (
    SYSTEM,
    Group,
    Heading,
    appendable_file,
    existing_directory,
    existing_file,
    existing_policy,
    flag,
    option,
    possible_directory,
    replaceable_file,
    shorthand,
    writable_file,
)

DEFAULT_SERVER = "https://quay.io"
DEFAULT_TARGET = "./mirror"

SELECTION, SOURCE = Heading.SELECTION, Heading.SOURCE
REGISTRY_TARGET, LIMITS = Heading.REGISTRY_TARGET, Heading.LIMITS
# The commands that ask the source, and those that pull from its registry.
_ASK = ("list", "info", "verify")
_PULL = ("list", "info", "verify", "prune")
# Those that log in to a registry with the user's stored credentials.
_LOGIN = (*_PULL, "push", "check")
_READ = (*_ASK, "prune")
_VERIFY = ("verify", "prune")
_OF_MIRRORS = (
    *("list", "info", "diff", "serve", "snapshots", "rollback", "hold", "unhold", "remove", "inventory", "export"),
)
# With less, the listing of a large organization would not arrive within its time limit.
_LEAST_RATE = 1024
_MAX_ARTIFACT_TYPE = 255
_WEEK = 7 * 86_400.0
_MOST_KEPT = 100_000
_HOST = pattern(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FILTER = pattern(r"[a-z][a-z0-9-]*(?:[:?].*)?")
_NOTHING = pattern("0+[smhdw]?")
_RATE = pattern(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s?([KMGTkmgt])?(?:i?[Bb])?(?:/s)?")


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
    return 0.0 if _NOTHING.fullmatch(text) else _seconds(text)


def _ping_url(text: str) -> None:
    if not text.startswith(("https://", "http://")):
        raise ConfigError("must begin with https:// or http://")

    try:
        Origin.of(without_user(text)[0])
    except ValueError as error:
        raise ConfigError(f"not a usable URL: {error}") from None


def _command(text: str) -> None:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"not a command: {str(error).lower()}") from None

    if not words:
        raise ConfigError("not a command: it is empty")


def _label(text: str) -> None:
    if not text.strip() or len(text) > 100 or not text.isprintable():
        raise ConfigError("not a label: write up to 100 printable characters")


def _dated_tags(text: str) -> None:
    example = text.replace("{tag}", "latest").replace("{date}", "2026-03-03")
    if not {"{tag}", "{date}"} <= set(re.findall(r"\{[^}]*\}", text)) or not is_tag(example):
        raise ConfigError(f"not a template of tags: {text[:100]!r}; write {{tag}}-{{date}}")


def _artifact_type(text: str) -> None:
    if not text or len(text) > _MAX_ARTIFACT_TYPE or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"not a media type or a glob for them: {text[:100]!r}; write 'application/spdx*'")


def _realm(text: str) -> None:
    if not _HOST.fullmatch(text):
        raise ConfigError(f"not a host: {text[:100]!r}; write HOST or HOST:PORT")


def _filter(text: str) -> None:
    if not _FILTER.fullmatch(text):
        raise ConfigError(f"not a filter: {text[:100]!r}; write NAME or NAME:KEY=VALUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions(Group):
    """The server to mirror from, and the credentials and certificates for it."""

    heading: ClassVar[Heading] = Heading.SOURCE
    server: str = option(
        "URL",
        "The Quay server; http:// means plain HTTP.",
        DEFAULT_SERVER,
        accept=parse_server,
        common=True,
        commands=(*_READ, "check"),
    )
    api_token: Secret | None = None
    credentials: Credentials | None = None
    allow_foreign_layers: bool = flag(
        "Fetch layers that the registry lacks from the URLs in manifests.", commands=("verify",)
    )
    src_cert_dir: Path | None = option(
        "PATH",
        "Directory with certificates for the source (*.crt, *.cert, *.key).",
        on_disk=existing_directory,
        commands=_PULL,
        both="cert_dir",
    )
    src_tls_verify: bool = option(
        "BOOL", "Whether to verify the source's certificate.", True, commands=_PULL, both="tls_verify"
    )

    @property
    def origin(self) -> Origin:
        """The origin of the server."""
        return parse_server(self.server)

    def address_of(self, selection: Selection) -> SourceAddress:
        """Return the source of `selection`: its own, or the Quay server."""
        return selection.source or SourceAddress.of_origin("quay", self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(Group):
    """Options of every HTTP client, of the source and of the target.

    Auth files and proxies are looked up in `environment`. `retries` replaces the number in `retry`.
    """

    heading: ClassVar[Heading] = Heading.SOURCE
    authfile: Path | None = option(
        "FILE",
        "Auth file to use instead of docker's and podman's.",
        on_disk=existing_file,
        commands=_LOGIN,
    )
    allow_realms: tuple[str, ...] = option(
        "--allow-realm HOST",
        "Trust the token service at this host, too.",
        (),
        accept=_realm,
        commands=_LOGIN,
    )
    cafile: Path | None = option(
        "FILE", "CA certificates to trust, PEM.", on_disk=existing_file, commands=(*_READ, "push", "check")
    )
    retries: int = option(
        "N",
        "How many times to retry a failed request.",
        5,
        heading=LIMITS,
        least=0,
        most=1000,
        commands=(*_READ, "push", "check"),
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions(Group):
    """The way images are stored: filters, durability, and access to a target that is a registry."""

    heading: ClassVar[Heading] = Heading.TARGET
    filters: tuple[str, ...] = option(
        "-f, --filter SPEC", "Apply an occystrap filter (for dir://, tar:// and so on).", (), accept=_filter
    )
    renames: tuple[Rename, ...] = option(
        "--rename FROM=TO",
        "Store images under another name: 'openstack.kolla/*=kolla/*'.",
        (),
        parse=Rename.parse,
        commands=("verify", "push", "check"),
    )
    allow_extract: bool = flag("Let oci://, mounts:// and dir://?expand=true unpack images.")
    dry_run: bool = flag("Show what would be done; write nothing.", common=True, commands=("prune", "export", "remove"))
    fsync: Fsync = option(
        "WHEN",
        "Survive power loss: sync each file (always), each commit (batch), never.",
        Fsync.ALWAYS,
        choices=Fsync,
        commands=("export", "import"),
    )
    check_space: bool = option(
        "--no-space-check", "Don't check free disk space first.", True, inverted=True, commands=("import",)
    )
    wait: bool = flag("Wait for another run on the same target to end.")
    dest_credentials: Credentials | None = None
    dest_cert_dir: Path | None = option(
        "PATH",
        "Directory with certificates for the target (*.crt, *.cert, *.key).",
        on_disk=existing_directory,
        heading=REGISTRY_TARGET,
        commands=(*_VERIFY, "check"),
        both="cert_dir",
    )
    dest_tls_verify: bool = option(
        "BOOL",
        "Whether to verify the target's certificate.",
        True,
        heading=REGISTRY_TARGET,
        commands=(*_VERIFY, "check"),
        both="tls_verify",
    )
    state: Path | None = option(
        "PATH",
        "Directory with the state of registries and object stores.",
        on_disk=possible_directory,
        heading=REGISTRY_TARGET,
        shown_default="XDG state",
        commands=("verify", "prune", "history", "watch", "merge-reports", *_OF_MIRRORS),
    )
    report_age: float = option(
        "DURATION",
        "How long the history keeps reports; one line per run stays for good.",
        400 * 86_400.0,
        heading=Heading.OUTPUT,
        shown_default="400d",
        parse=_seconds,
    )
    check_target: bool = flag(
        "Check that images pushed earlier, and their referrers, still exist in the target registry.",
        heading=REGISTRY_TARGET,
    )
    verify_target: bool = flag("Verify the target after the run, as `quaymirror verify` does.", heading=REGISTRY_TARGET)


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
        parse=_seconds,
        commands=("push",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryOptions(Group):
    """The way images are found, and what a run must find. `platforms` are those wanted of multi-arch images."""

    heading: ClassVar[Heading] = Heading.LIMITS
    platforms: tuple[Platform, ...] = option(
        "--platform OS/ARCH",
        "Platforms of multi-arch images.",
        (),
        heading=SELECTION,
        shown_default="all",
        parse=Platform.parse,
        common=True,
        commands=("info", "push"),
    )
    discovery: Discovery = option(
        "SOURCE",
        "Resolve tags with Quay's API (slow) or its registry (logs each as a pull): auto, api or registry.",
        Discovery.AUTO,
        heading=SOURCE,
        choices=Discovery,
        commands=_ASK,
    )
    full_check_every: float = option(
        "DURATION",
        "Recheck every tag at least this often.",
        _WEEK,
        shown_default="7d",
        parse=_seconds,
        shorthand=shorthand("--full-check", "Recheck every tag in this run.", 0.0),
    )
    referrers: ReferrerMode = option(
        "WHAT",
        "What to mirror with images: none, signatures (and attestations), or all referrers.",
        ReferrerMode.SIGNATURES,
        heading=SELECTION,
        choices=ReferrerMode,
        commands=("push",),
    )
    artifact_types: tuple[str, ...] = option(
        "--artifact-type GLOB",
        "Types of referrers to mirror, instead of those that --referrers names.",
        (),
        heading=SELECTION,
        accept=_artifact_type,
        commands=("push",),
    )
    referrers_every: float = option(
        "DURATION",
        "Ask for the referrers of every image at least this often; 0 asks in each run.",
        _WEEK,
        shown_default="7d",
        parse=_seconds_or_none,
    )
    max_repositories: int = option(
        "N",
        "Refuse a listing with more repositories.",
        MOST_REPOSITORIES,
        least=1,
        most=10_000_000,
        commands=("list", "info"),
    )
    expect_at_least: int | None = option(
        "N", "Fail if fewer images are found.", least=0, most=1_000_000, commands=("push",)
    )
    max_missing: float | None = option(
        "PERCENT",
        "Fail if more of the last run's images are missing.",
        least=0,
        most=100,
        commands=("push",),
    )
    accept_failed: Path | None = option(
        "FILE", "Images that may fail, one reference per line; globs work.", on_disk=existing_file
    )
    require_private: bool = flag("Fail unless the listing is made with an API token.", heading=SELECTION)
    allow_empty: bool = flag("Succeed if nothing is selected.", heading=SELECTION, commands=(*_ASK, "push"))
    allow_unmatched: bool = flag("Succeed if names or tags match nothing.", heading=SELECTION, commands=(*_ASK, "push"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureOptions(Group):
    """The policy that decides by their signatures which images are mirrored, and what it needs."""

    heading: ClassVar[Heading] = Heading.SIGNATURES
    signature_policy: Path | None = option(
        "FILE",
        "Refuse images that this containers-policy.json does not accept; system: podman's own.",
        on_disk=existing_policy,
        word=SYSTEM,
        commands=("verify",),
    )
    trusted_root: Path | None = option(
        "FILE",
        "Trusted root of sigstore (trusted_root.json), for keyless signatures.",
        on_disk=existing_file,
        commands=("verify",),
    )


PUBLISH = ("each", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions(Group):
    """The set of images that a run makes, and when readers see it. Times are in seconds."""

    heading: ClassVar[Heading] = Heading.PUBLISHING
    publish: str = option(
        "WHEN", "Show each image when it is complete, or the whole set at the end.", "each", choices=PUBLISH
    )
    max_failed: int = option("N", "With --publish end: publish with up to N failed images.", 0, least=0, most=1_000_000)
    snapshot_label: str | None = option("LABEL", "Label of the snapshot that the run makes.", accept=_label)
    settle: float = option(
        "DURATION", "First wait until the newest push is this old.", 0.0, shown_default="0", parse=_seconds_or_none
    )
    settle_timeout: float = option(
        "DURATION", "How long to wait for tags that still move.", 1800.0, shown_default="30m", parse=_seconds_or_none
    )
    dated_tags: str | None = option(
        "TEMPLATE",
        "Give each image that changes a second tag in a registry, such as {tag}-{date}.",
        accept=_dated_tags,
    )
    refuse_older: bool = flag("Keep the newer image if a tag goes back to an earlier one.")

    @property
    def at_end(self) -> bool:
        """True if readers see the set at the end."""
        return self.publish == "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions(Group):
    """Removal of images that have disappeared from the source. `grace` is in seconds."""

    heading: ClassVar[Heading] = Heading.PRUNING
    prune: bool = flag("Remove images that have disappeared from the source.", common=True)
    grace: float = option(
        "DURATION",
        "How long images must have been missing before they are removed.",
        _WEEK,
        shown_default="7d",
        parse=_seconds_or_none,
        commands=("prune",),
    )
    max_delete: float = option(
        "PERCENT",
        "Remove nothing if it would be a larger share.",
        10.0,
        shown_default="10",
        least=0,
        most=100,
        commands=("prune",),
        shorthand=shorthand(
            "--ignore-max-delete",
            "Prune, no matter how many images are removed.",
            100.0,
            commands=("prune",),
            has_variable=False,
            in_file=False,
        ),
    )
    keep_last: int = option(
        "N", "Pruning keeps the content of the last N snapshots.", 2, least=1, most=_MOST_KEPT, commands=("prune",)
    )
    keep_daily: int = option("N", "And of the last one of N days.", 0, least=0, most=_MOST_KEPT, commands=("prune",))
    keep_weekly: int = option("N", "And of the last one of N weeks.", 0, least=0, most=_MOST_KEPT, commands=("prune",))
    keep_monthly: int = option(
        "N", "And of the last one of N months.", 0, least=0, most=_MOST_KEPT, commands=("prune",)
    )
    keep_labels: tuple[str, ...] = option(
        "--keep-label LABEL", "And of all that have this label.", (), accept=_label, commands=("prune",)
    )

    @property
    def retention(self) -> Retention:
        """The snapshots that pruning keeps."""
        return Retention(self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_labels)


PROGRESS = ("auto", "rich", "plain", "json", "none")
LOG_FORMATS = ("text", "json")


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
        "URL", "Ping URL/start, URL and URL/fail (as healthchecks.io does).", accept=_ping_url, secret=True
    )

    notify_command: str | None = option(
        "CMD", "Run this after each run, with its summary as JSON on standard input.", accept=_command
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
    signatures: SignatureOptions = field(default_factory=SignatureOptions)
    publishing: PublishOptions = field(default_factory=PublishOptions)
    prune: PruneOptions = field(default_factory=PruneOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return options with these values, by the names of their fields: no name is in two groups."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> Self:
        """Return a copy with these values, by the names of their fields."""
        groups: dict[str, Any] = {}
        for name, value in values.items():
            if name not in GROUP_OF:
                raise TypeError(f"no such option: {name!r}")

            groups.setdefault(GROUP_OF[name], {})[name] = value

        return replace(self, **{name: replace(getattr(self, name), **part) for name, part in groups.items()})

    @property
    def connection(self) -> tuple[object, ...]:
        """The values that runs must have in common to share connections and limits."""
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


GROUPS: Mapping[str, Any] = {each.name: each.default_factory for each in fields(Options)}
GROUP_OF = {each.name: name for name, group in GROUPS.items() for each in fields(group)}
