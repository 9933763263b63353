"""How to mirror: everything but what. Checked when it is made, so that no request is sent for nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..net.origin import Origin, parse_server
from ..net.retry import RetryPolicy
from ..net.secret import Credentials, Secret
from ..net.transport import Timeouts
from ..oci import Platform
from ..quay.check import Discovery

DEFAULT_SERVER = "https://quay.io"

# A listing of the largest organization still arrives within its minute.
_LEAST_RATE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `sync`, with its defaults.

    `layer_concurrency` is how many blobs are in flight over all images. `platforms` restricts multi-arch images to
    some of their platforms; () means all, or linux/amd64 where images are derived. `filters` are occystrap's, in their
    order; `allow_extract` lets its outputs unpack archives. `limit_rate`, bytes a second, and `max_requests_per_second`
    hold for all transfers and requests together; `discovery` says whom to ask for tags. `environment` is where default
    auth files are looked up. For those who embed: `timeouts`, and `retry`, in which `retries` replaces the number.

    :raises ConfigError: when a value makes no sense.
    """

    server: str = DEFAULT_SERVER
    concurrency: int = 16
    layer_concurrency: int = 32  # measured: docs/explanation/concurrency.md
    platforms: tuple[Platform, ...] = ()
    filters: tuple[str, ...] = ()
    allow_extract: bool = False
    dry_run: bool = False
    allow_empty: bool = False
    retries: int = 5
    api_token: Secret | None = None
    credentials: Credentials | None = None
    authfile: Path | None = None
    allow_realms: frozenset[str] = frozenset()
    cafile: Path | None = None
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
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{name} has to be between {least:,} and {most:,}, not {value:,}")

        if self.cafile is not None and not self.cafile.is_file():
            raise ConfigError(f"no such file of CA certificates: {self.cafile}")

    @property
    def origin(self) -> Origin:
        """Where the server is."""
        return parse_server(self.server)
