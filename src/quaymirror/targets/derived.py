"""Derived images, made by occystrap, as targets."""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from ..errors import Scope, Side, Unavailable
from ..errors.base import reason_of
from ..oci import Platform
from ..selection.selection import Selection
from ..settings import Options
from ..transfer.target import Capabilities, Target
from ..values import dataclass
from .derived_address import DerivedAddress, is_derived, parse_derived
from .kinds import TargetContext, TargetKind, TargetSpec

_DEFAULT_SOCKET = "/var/run/docker.sock"
_SOCKET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DerivedSpec(TargetSpec):
    """Derived images at an address."""

    address: DerivedAddress
    capabilities: ClassVar[Capabilities] = Capabilities(staging=True)

    def __str__(self) -> str:
        return str(self.address)

    def state_directory(self, _settings: Options) -> Path:
        """Return the directory of the state."""
        return self.address.directory / ".quaymirror"

    def wanted_platforms(self, _settings: Options) -> tuple[Platform, ...]:
        """Return the one platform that images are derived for."""
        return (self.address.platform,)

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for writing; see `DerivedTarget.open`."""
        # Worker processes are imported only if they are needed.
        from .derived_target import DerivedTarget

        _find_daemon(self.address)
        return DerivedTarget.open(self.address, context)

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for reading; see `DerivedTarget.inspect`."""
        from .derived_target import DerivedTarget

        _find_daemon(self.address)
        return DerivedTarget.inspect(self.address, context)


def _find_daemon(address: DerivedAddress) -> None:
    """Check that the daemon of a `docker://` target accepts connections, before anything is fetched for it.

    :raises Unavailable: if it does not.
    """
    if address.scheme != "docker":
        return

    path = str(address.options.get("socket") or _DEFAULT_SOCKET)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SOCKET_SECONDS)
            connection.connect(path)
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "not a valid path"
        hint = "start the daemon, or name its socket with docker://?socket=PATH"
        message = f"no Docker or Podman daemon at {path}: {reason}; {hint}"
        raise Unavailable(message, side=Side.TARGET, scope=Scope.RUN) from None


def _parse(text: str, selection: Selection, options: Options) -> DerivedSpec:
    return DerivedSpec(parse_derived(text, selection, options))


def _locate(text: str, options: Options) -> DerivedSpec:
    return _parse(text, Selection("org"), options.replace(allow_extract=True))


KIND = TargetKind(is_derived, _parse, _locate, changes_images=True)
