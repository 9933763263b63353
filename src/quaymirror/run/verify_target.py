"""Verification of a target."""

from __future__ import annotations

from ..events import Observer, ignore
from ..settings import Options
from ..store.verify import Verification
from ..targets.kinds import TargetContext, TargetSpec
from .wiring import connect_target


async def verify_target(spec: TargetSpec, options: Options, observer: Observer = ignore) -> Verification:
    """Check everything that runs have left at the target `spec`.

    :raises ConfigError: if that is impossible.
    :raises QuaymirrorError: if the target can't be read.
    """
    return await spec.verify(TargetContext(options, connect_target, observer))
