"""How to mirror: everything but what. Checked when it is made, so that no request is sent for nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..net.origin import Origin, parse_server
from ..net.secret import Credentials, Secret
from ..oci import Platform
from ..store.fsops import Fsync

DEFAULT_SERVER = "https://quay.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `sync`, with its defaults.

    `layer_concurrency` is how many blobs are in flight over all images. `platforms` restricts multi-arch images to
    some of their platforms; () means all, or linux/amd64 where images are derived. `filters` are occystrap's, in their
    order; `allow_extract` lets its outputs unpack archives. `fsync` is what is promised against power loss,
    `check_space` refuses early what does not fit on the disk, `wait` waits for another run to end. `environment` is
    where default auth files are looked up.

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
    fsync: Fsync = Fsync.ALWAYS
    check_space: bool = True
    wait: bool = False
    retries: int = 5
    api_token: Secret | None = None
    credentials: Credentials | None = None
    authfile: Path | None = None
    allow_realms: frozenset[str] = frozenset()
    cafile: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        parse_server(self.server)
        for name, value, least, most in (
            ("concurrency", self.concurrency, 1, 1024),
            ("layer concurrency", self.layer_concurrency, 1, 1024),
            ("retries", self.retries, 0, 1000),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} has to be between {least} and {most:,}, not {value}")

        if self.cafile is not None and not self.cafile.is_file():
            raise ConfigError(f"no such file of CA certificates: {self.cafile}")

    @property
    def origin(self) -> Origin:
        """Where the server is."""
        return parse_server(self.server)
