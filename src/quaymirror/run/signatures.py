"""Signature policies in a run: each image is judged before its layers are fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio.to_thread

from ..catalog.base import PinnedImage
from ..catalog.kinds import Services
from ..errors import Failure
from ..oci import Descriptor, Digest, Reference
from ..oci.manifest import Index, Manifest, Node
from ..settings import Options
from ..settings.spec import SYSTEM
from ..transfer.graph import ImageGraph
from ..transfer.target import Target
from .mirror_image import SignatureRefused

if TYPE_CHECKING:
    from ..referrers.find import ReferrerFinder
    from ..trust.evidence import Evidence
    from ..trust.judge import Judge, Verdict
    from .context import Run
    from .evidence import Gathered
    from .wiring import SourceConnections

# A manifest in an index that describes another one is no image.
_ATTESTATION = "vnd.docker.reference.type"


class SignatureFinder(Protocol):
    """A place where signatures are looked for."""

    async def find(self, reference: Reference, nodes: Mapping[str, Node], *, has_messages: bool) -> Gathered:
        """Return the signatures of manifests, by their names for people, in the same order."""


def make_judge(options: Options) -> Judge | None:
    """Return the judge of the policy that `options` name, None if they name none.

    :raises ConfigError: if the policy can't be followed to the letter.
    """
    file = options.signatures.signature_policy
    if file is None:
        return None

    from ..trust.judge import Judge
    from ..trust.policy import read_policy, system_policy

    path = system_policy(options.client.environment) if str(file) == SYSTEM else file
    return Judge(read_policy(path), options.signatures.trusted_root)


class PolicyGate:
    """Admits the images of one source that the policy accepts; see `ImageGate`.

    `finders` are asked one after the other, until the signatures that one of them has are enough. The target keeps a
    receipt of each accepted image, so that an unchanged image costs nothing.
    """

    def __init__(self, judge: Judge, finders: Sequence[SignatureFinder], target: Target, *, is_dry_run: bool) -> None:
        self._judge = judge
        self._finders = finders
        self._target = target
        self._is_dry_run = is_dry_run

    async def knows(self, image: PinnedImage, named: Reference) -> bool:
        """Return True if the policy accepted the image before, by its receipt."""
        assert image.digest is not None
        return await self._target.accepted_by(named.name, image.digest, self._judge.fingerprint) is not None

    async def admit(self, image: PinnedImage, named: Reference, graph: ImageGraph) -> None:
        """Raise `SignatureRefused`, with a reason per key or identity, if the policy does not accept the image.

        :raises QuaymirrorError: if signatures can't be read, and the others are not enough.
        """
        verdict = await self._verdict(image.reference, signed_nodes(image.digest, graph))
        assert image.digest is not None
        if not self._is_dry_run:
            await self._target.record_verdict(
                named.name, image.digest, self._judge.fingerprint, accepted=verdict.accepted, reason=str(verdict)
            )

        if not verdict.accepted:
            raise SignatureRefused(str(verdict))

    async def _verdict(self, reference: Reference, nodes: Mapping[str, Node]) -> Verdict:
        verdict, failures = self._judge.judge(reference, unsigned(nodes[""])), list[Failure]()
        if verdict.accepted or not self._judge.needs_signatures(reference):
            return verdict

        has_messages = self._judge.needs_messages(reference)
        for finder in self._finders:
            gathered = await finder.find(reference, nodes, has_messages=has_messages)
            failures += gathered.failures
            root, *children = gathered.evidence
            verdict = await anyio.to_thread.run_sync(partial(self._judge.judge, reference, root, children))
            if verdict.accepted:
                return verdict

        if failures:
            error = failures[0].error()
            raise error.replace(f"the signatures can't be read: {error.message}")

        return verdict


def open_gate(
    run: Run, services: Services, target: Target, connections: SourceConnections, finder: ReferrerFinder
) -> PolicyGate | None:
    """Return the gate for the images from one source, whose referrers `finder` finds; None without a policy.

    :raises ConfigError: if a file about places of signatures can't be read.
    """
    if run.judge is None:
        return None

    from ..trust.lookaside import read_lookasides
    from .evidence import SourceSignatures, StoredSignatures
    from .lookaside import LookasideSignatures

    layout = target.prunable()
    lookaside = LookasideSignatures(read_lookasides(run.options.client.environment), connections)
    is_dry_run = run.options.target.dry_run
    finders: list[SignatureFinder] = [] if layout is None else [StoredSignatures(layout)]
    finders.append(SourceSignatures(finder, services.source, lookaside, None if is_dry_run else layout))
    return PolicyGate(run.judge, finders, target, is_dry_run=is_dry_run)


def unsigned(node: Node) -> Evidence:
    """Return a manifest without any signature."""
    from ..trust.evidence import Evidence

    return Evidence(node.descriptor.digest, node.raw)


def signed_nodes(digest: Digest | None, graph: ImageGraph) -> dict[str, Node]:
    """Return the manifests whose signatures count: the one that the tag stands for, "", and those for platforms."""
    assert digest is not None
    root = graph.nodes.get(digest, graph.root)
    children: dict[str, Node] = {}
    for node in graph.walk():
        if isinstance(node, Manifest) and node is not root:
            entries = root.manifests if isinstance(root, Index) else ()
            entry = next((each for each in entries if each.digest == node.descriptor.digest), node.descriptor)
            if not is_attestation(entry):
                children[f"{entry.platform or 'child'} {entry.digest.short}"] = node

    return {"": root, **children}


def is_attestation(entry: Descriptor) -> bool:
    """Return True if an entry of an index describes another one, and is no image itself."""
    return _ATTESTATION in entry.annotations
