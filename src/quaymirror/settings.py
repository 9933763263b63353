"""How to mirror: everything but what. Checked when it is made, so that no request is sent for nonsense."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .catalog.quay.lookup import Discovery
from .errors import ConfigError
from .http.origin import Origin, parse_server
from .http.retry import RetryPolicy
from .http.transport import Timeouts
from .oci import Platform
from .secret import Credentials, Secret
from .store.fsops import Fsync

DEFAULT_SERVER = "https://quay.io"

# A listing of the largest organization still arrives within its minute.
_LEAST_RATE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `sync`, with its defaults.

    `layer_concurrency` is how many blobs are in flight over all images. `platforms` restricts multi-arch images to
    some of their platforms; () means all, or linux/amd64 where images are derived. `filters` are occystrap's, in their
    order; `allow_extract` lets its outputs unpack archives. With `allow_foreign_layers`, layers that the registry does
    not have are fetched from where their manifest says that they are. `fsync` is what is promised against power loss,
    `check_space` refuses early what does not fit on the disk, `wait` waits for another run to end. `environment` is
    where auth files and proxies are looked up.
    `src_` and `dest_` tell source and target apart: directories of certificates as in certs.d, and whether to verify.
    For a target that is a registry: `dest_credentials`, the directory `state` below which runs remember what they
    pushed, and `check_target` to ask the registry whether it is there still.

    `full_check_every` is for how many seconds the listing may vouch for a tag that was checked (0: never); after
    `max_duration` seconds a run begins nothing new. A run that finds fewer than `expect_at_least` images, or misses
    more than `max_missing` percent of what the last one found, has failed.

    With `prune`, images that have been gone for `grace` seconds are untagged, unless that were more than `max_delete`
    percent, and what nothing needs is removed.

    `limit_rate`, bytes a second, and `max_requests_per_second` hold for all transfers and requests of a side together;
    `discovery` says whom to ask for tags. For those who embed: `timeouts`, and `retry`, in which `retries` replaces
    the number.

    :raises ConfigError: when a value makes no sense.
    """

    server: str = DEFAULT_SERVER
    concurrency: int = 16
    layer_concurrency: int = 64  # measured: docs/explanation/concurrency.md
    platforms: tuple[Platform, ...] = ()
    filters: tuple[str, ...] = ()
    allow_extract: bool = False
    allow_foreign_layers: bool = False
    full_check_every: float = 7 * 86_400.0
    max_duration: float | None = None
    expect_at_least: int | None = None
    max_missing: float | None = None
    dry_run: bool = False
    allow_empty: bool = False
    fsync: Fsync = Fsync.ALWAYS
    check_space: bool = True
    wait: bool = False
    prune: bool = False
    grace: float = 7 * 86_400.0
    max_delete: float = 10.0
    retries: int = 5
    api_token: Secret | None = None
    credentials: Credentials | None = None
    dest_credentials: Credentials | None = None
    authfile: Path | None = None
    allow_realms: frozenset[str] = frozenset()
    cafile: Path | None = None
    src_cert_dir: Path | None = None
    dest_cert_dir: Path | None = None
    src_tls_verify: bool = True
    dest_tls_verify: bool = True
    state: Path | None = None
    check_target: bool = False
    limit_rate: int | None = None
    max_requests_per_second: float | None = None
    discovery: Discovery = Discovery.AUTO
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        parse_server(self.server)
        for name, value, least, most in (
            ("concurrency", self.concurrency, 1, 1024),
            ("layer concurrency", self.layer_concurrency, 1, 1024),
            ("retries", self.retries, 0, 1000),
            ("limit rate", self.limit_rate, _LEAST_RATE, 2**50),
            ("max requests per second", self.max_requests_per_second, 0.01, 1e6),
            ("the number of expected images", self.expect_at_least, 0, 1_000_000),
            ("the percentage of images that may be missing", self.max_missing, 0, 100),
            ("the percentage of images that may be pruned", self.max_delete, 0, 100),
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{name} has to be between {least} and {most:,}, not {value:g}")

        for directory in (self.src_cert_dir, self.dest_cert_dir):
            if directory is not None and not directory.is_dir():
                raise ConfigError(f"no such directory of certificates: {directory}")

        if self.cafile is not None and not self.cafile.is_file():
            raise ConfigError(f"no such file of CA certificates: {self.cafile}")

    @property
    def connection(self) -> tuple[object, ...]:
        """What runs have to have in common to share connections, gates and limits; the rest is each one's own."""
        return (
            self.origin,
            self.cafile,
            self.src_cert_dir,
            self.src_tls_verify,
            self.limit_rate,
            self.max_requests_per_second,
            self.timeouts,
            self.retry,
            self.environment,
        )

    @property
    def origin(self) -> Origin:
        """Where the server is."""
        return parse_server(self.server)

    def state_directory(self, target: str) -> Path:
        """Return where runs remember what they did for `target`, an address that has no directory of its own.

        What is known of one target says nothing of another: each has its own, also below `state`.

        :raises ConfigError: when nobody knows where that could be.
        """
        return self._states(target) / hashlib.sha256(target.encode()).hexdigest()[:16]

    def _states(self, target: str) -> Path:
        if self.state is not None:
            return self.state

        if state := self.environment.get("XDG_STATE_HOME"):
            return Path(state, "quaymirror")

        try:
            return Path(self.environment.get("HOME") or Path.home(), ".local", "state", "quaymirror")
        except RuntimeError:
            raise ConfigError(
                f"there is no home directory to remember in what was pushed to {target}: name one with --state"
            ) from None
