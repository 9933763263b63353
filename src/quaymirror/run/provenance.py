"""The provenance of an image at a registry: the statement that a run has pushed when it derived the image."""

from __future__ import annotations

from typing import Any

from ..catalog.base import PinnedImage
from ..catalog.kinds import Services
from ..errors import QuaymirrorError, Scope
from ..oci import Repository
from ..oci.manifest import Manifest
from ..referrers.choice import ReferrerChoice, ReferrerMode
from ..referrers.find import Referrer, ReferrerFinder
from ..targets.provenance import ARTIFACT_TYPE, BUILD_TYPE
from ..untrusted import InvalidDocument, parse_object

_MAX_STATEMENT_BYTES = 1024 * 1024


async def find_provenance(image: PinnedImage, services: Services) -> dict[str, Any] | None:
    """Return the in-toto statement about a derived image, None if it has none or if that can't be read.

    :raises QuaymirrorError: if the source can't be used any more.
    """
    repository, choice = image.reference.repository, ReferrerChoice(ReferrerMode.ALL, (ARTIFACT_TYPE,))
    finder = ReferrerFinder(services.source, services.catalog)
    found = await finder.find(repository, [image.digest], choice)
    for referrer in found.referrers:
        if referrer.subject == image.digest and not referrer.tag:
            statement = await _statement(repository, referrer, services)
            if statement is not None:
                return statement

    return None


async def _statement(repository: Repository, referrer: Referrer, services: Services) -> dict[str, Any] | None:
    layers = referrer.node.layers if isinstance(referrer.node, Manifest) else ()
    if not layers or layers[0].size > _MAX_STATEMENT_BYTES:
        return None

    try:
        content = await services.source.blob(repository, layers[0])
        statement = parse_object(content, limit=_MAX_STATEMENT_BYTES)
        kind = statement["predicate"]["buildDefinition"]["buildType"]
    except QuaymirrorError as error:
        if error.scope is Scope.RUN:
            raise

        return None
    except (InvalidDocument, KeyError, TypeError):
        return None  # others push statements, too

    return statement if kind == BUILD_TYPE else None
