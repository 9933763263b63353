"""Options about the source and its images: the server and its clients, discovery, signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from ..catalog.base import MOST_REPOSITORIES, Discovery
from ..http.origin import Origin, parse_server
from ..http.retry import RetryPolicy
from ..http.timeouts import Timeouts
from ..oci import Platform
from ..referrers.choice import ReferrerMode
from ..secret import Credentials, Secret
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..values import dataclass
from .spec import SYSTEM, Group, Heading, existing_directory, existing_file, existing_policy, flag, option, shorthand
from .texts import WEEK, check_artifact_type, check_realm, seconds, seconds_or_none

# The commands that ask the source, and those that pull from its registry.
_ASK = ("list", "info", "verify")
_PULL = ("list", "info", "verify", "prune")
# Those that log in to a registry with the user's stored credentials.
_LOGIN = (*_PULL, "push", "check")
_READ = (*_ASK, "prune")
DEFAULT_SERVER = "https://quay.io"


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
        accept=check_realm,
        commands=_LOGIN,
    )
    cafile: Path | None = option(
        "FILE", "CA certificates to trust, PEM.", on_disk=existing_file, commands=(*_READ, "push", "check")
    )
    retries: int = option(
        "N",
        "How many times to retry a failed request.",
        5,
        heading=Heading.LIMITS,
        least=0,
        most=1000,
        commands=(*_READ, "push", "check"),
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryOptions(Group):
    """The way images are found, and what a run must find. `platforms` are those wanted of multi-arch images."""

    heading: ClassVar[Heading] = Heading.LIMITS
    platforms: tuple[Platform, ...] = option(
        "--platform OS/ARCH",
        "Platforms of multi-arch images.",
        (),
        heading=Heading.SELECTION,
        shown_default="all",
        parse=Platform.parse,
        common=True,
        commands=("info", "push"),
    )
    discovery: Discovery = option(
        "SOURCE",
        "Resolve tags with Quay's API (slow) or its registry (logs each as a pull): auto, api or registry.",
        Discovery.AUTO,
        heading=Heading.SOURCE,
        choices=Discovery,
        commands=_ASK,
    )
    full_check_every: float = option(
        "DURATION",
        "Recheck every tag at least this often.",
        WEEK,
        shown_default="7d",
        parse=seconds,
        shorthand=shorthand("--full-check", "Recheck every tag in this run.", 0.0),
    )
    referrers: ReferrerMode = option(
        "WHAT",
        "What to mirror with images: none, signatures (and attestations), or all referrers.",
        ReferrerMode.SIGNATURES,
        heading=Heading.SELECTION,
        choices=ReferrerMode,
        commands=("push",),
    )
    artifact_types: tuple[str, ...] = option(
        "--artifact-type GLOB",
        "Types of referrers to mirror, instead of those that --referrers names.",
        (),
        heading=Heading.SELECTION,
        accept=check_artifact_type,
        commands=("push",),
    )
    referrers_every: float = option(
        "DURATION",
        "Ask for the referrers of every image at least this often; 0 asks in each run.",
        WEEK,
        shown_default="7d",
        parse=seconds_or_none,
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
        "Fail if a larger share of the last run's images is missing.",
        least=0,
        most=100,
        commands=("push",),
    )
    accept_failed: Path | None = option(
        "FILE", "Images that may fail, one reference per line; globs work.", on_disk=existing_file
    )
    require_private: bool = flag("Fail unless the listing is made with an API token.", heading=Heading.SELECTION)
    allow_empty: bool = flag("Succeed if nothing is selected.", heading=Heading.SELECTION, commands=(*_ASK, "push"))
    allow_unmatched: bool = flag(
        "Succeed if names or tags match nothing.", heading=Heading.SELECTION, commands=(*_ASK, "push")
    )


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
