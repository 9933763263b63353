"""Errors of options, names and targets."""

from __future__ import annotations

from .base import ExitCode, QuaymirrorError, Scope, Side


class ConfigError(QuaymirrorError):
    """An option, a selection or a target is invalid. Exit code 2."""

    exit_code = ExitCode.USAGE
    is_lasting = True
    scope = Scope.RUN


class InvalidName(ConfigError, ValueError):
    """A text that is no valid digest, reference, platform or name of the OCI specifications."""

    scope = Scope.IMAGE


class TargetRefused(ConfigError):
    """The target can't be used: not a layout, not a directory, or not writable."""

    side = Side.STORE
