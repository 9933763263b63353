"""Which images of a list a mirror or a registry has, under the names that `sync` would give them."""

from __future__ import annotations

from collections.abc import Sequence

from ..events import Observer, ignore
from ..oci import Reference
from ..selection.rename import Renames
from ..selection.selection import Selection
from ..settings import Options
from ..targets.kinds import TargetContext, common_target
from .exact_names import check_names, exact_references
from .wiring import connect_target


async def missing_images(
    selections: Sequence[Selection], target: str, options: Options, *, observer: Observer = ignore
) -> tuple[list[Reference], list[Reference]]:
    """Return the images that `selections`, of a list or a reference, name: all, and those that `target` lacks.

    An image with a digest is lacking if the target has another one under its name. The source is not asked.

    :raises ConfigError: if `target` can't be checked, or if two images have the same name.
    :raises QuaymirrorError: if it can't be read.
    """
    check_names(selections, options)
    renames = Renames(options.target.renames)
    references = list(dict.fromkeys(exact_references(selections, options)))
    spec = common_target(target, selections, options)
    context = TargetContext(options, connect_target, observer)
    present = await spec.has_images(context, [renames.apply(reference) for reference in references])
    missing = [reference for reference, is_there in zip(references, present, strict=True) if not is_there]
    return references, missing
