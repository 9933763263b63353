"""The details of one image, from its manifests and its config, which may contain anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import QuaymirrorError
from ..oci import Descriptor, Digest, Index, Manifest
from ..oci import manifest as manifests
from ..untrusted import InvalidDocument, parse_object
from .registry import Place, Repository, ServedRegistry

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_MAX_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Child:
    """An image of an index: its platform, or the kind of artifact that it is."""

    digest: str
    platform: str
    size: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its size in bytes, the step that made it, and how many images that are served need it."""

    digest: str
    size: int
    media_type: str
    created_by: str
    uses: int


@dataclass(frozen=True, slots=True)
class Attached:
    """A referrer of the image, such as a signature or an SBOM."""

    digest: str
    artifact_type: str
    size: int


@dataclass(slots=True)
class ImageDetails:
    """Everything that a page shows of one image; `problem` is why the rest is missing, if it is."""

    digest: str
    media_type: str
    size: int = 0
    problem: str = ""
    children: list[Child] = field(default_factory=list)
    shown: str = ""
    platform: str = ""
    created: str = ""
    config_digest: str = ""
    layers: list[Layer] = field(default_factory=list)
    history: list[tuple[str, bool]] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    labels: list[tuple[str, str]] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    attached: list[Attached] = field(default_factory=list)


async def image_details(
    registry: ServedRegistry, repository: Repository, root: Digest, chosen: Digest | None, uses: Mapping[Digest, int]
) -> ImageDetails | None:
    """Return the details of an image, None if the repository has no such image.

    Of an index, `chosen` is the digest of the image that is shown; by default the first one with a platform.
    """
    found = await registry.find(repository, root)
    if found is None or not found[1].is_manifest:
        return None

    place, node = found[0], found[1].node
    details = ImageDetails(str(root), node.media_type)
    try:
        await _describe(place, node, details, chosen, uses)
    except (QuaymirrorError, InvalidDocument, LookupError, TypeError, ValueError) as error:
        details.problem = (
            error.message if isinstance(error, QuaymirrorError) else "its manifest or config makes no sense"
        )

    entries = await registry.referrers(repository, root)
    details.attached = [Attached(str(e["digest"]), str(e.get("artifactType", "")), int(e["size"])) for e in entries]
    return details


async def _describe(
    place: Place, node: Descriptor, details: ImageDetails, chosen: Digest | None, uses: Mapping[Digest, int]
) -> None:
    parsed = await _parsed(place, node)
    if isinstance(parsed, Index):
        details.children = [_child(child) for child in parsed.manifests[:_MAX_SHOWN]]
        child = _choose(parsed, chosen)
        parsed = await _parsed(place, child) if child is not None else None

    if isinstance(parsed, Manifest):
        details.shown, details.config_digest = str(parsed.descriptor.digest), str(parsed.config.digest)
        details.size = len(parsed.raw) + sum(blob.size for blob in parsed.blobs)
        config = await _config(place, parsed)
        _add_layers(details, parsed, config, uses)
        _add_config(details, config)


async def _parsed(place: Place, node: Descriptor) -> Manifest | Index | None:
    content = await place.content.read(node)
    return None if content is None or not node.is_manifest else manifests.parse_stored(content, node.digest)


async def _config(place: Place, parsed: Manifest) -> dict[str, Any]:
    if parsed.config.size > _MAX_CONFIG_BYTES or not parsed.config.media_type.endswith("json"):
        return {}

    content = await place.content.read(parsed.config)
    return {} if content is None else parse_object(content, limit=_MAX_CONFIG_BYTES, nan_is_text=True)


def _choose(index: Index, chosen: Digest | None) -> Descriptor | None:
    if chosen is not None:
        return next((child for child in index.manifests if child.digest == chosen), None)

    real = [child for child in index.manifests if child.platform and child.platform.os != "unknown"]
    return next(iter([*real, *index.manifests]), None)


def _child(child: Descriptor) -> Child:
    kind = child.annotations.get("vnd.docker.reference.type") or child.artifact_type or ""
    is_real = child.platform is not None and child.platform.os != "unknown"
    return Child(str(child.digest), str(child.platform) if is_real else kind or "no platform", child.size)


def _add_layers(details: ImageDetails, parsed: Manifest, config: Mapping[str, Any], uses: Mapping[Digest, int]) -> None:
    steps = [_text(step.get("created_by")) for step in _steps(config) if not step.get("empty_layer")]
    for number, layer in enumerate(parsed.layers):
        step = steps[number] if number < len(steps) else ""
        details.layers.append(Layer(str(layer.digest), layer.size, layer.media_type, step, uses.get(layer.digest, 1)))


def _add_config(details: ImageDetails, config: Mapping[str, Any]) -> None:
    run = config.get("config")
    run = run if isinstance(run, dict) else {}
    parts = [_text(config.get(key)) for key in ("os", "architecture", "variant")]
    details.platform, details.created = "/".join(filter(None, parts)), _text(config.get("created"))
    details.history = [
        (_text(step.get("created_by")), bool(step.get("empty_layer"))) for step in _steps(config)[:_MAX_SHOWN]
    ]
    labels, environment = run.get("Labels"), run.get("Env")
    details.labels = (
        sorted((_text(key), _text(value)) for key, value in labels.items()) if isinstance(labels, dict) else []
    )
    details.environment = [_text(value) for value in environment] if isinstance(environment, list) else []
    settings = {
        "Entrypoint": run.get("Entrypoint"),
        "Command": run.get("Cmd"),
        "User": run.get("User"),
        "Working directory": run.get("WorkingDir"),
        "Ports": list(run["ExposedPorts"]) if isinstance(run.get("ExposedPorts"), dict) else None,
        "Volumes": list(run["Volumes"]) if isinstance(run.get("Volumes"), dict) else None,
    }
    details.settings = [(name, _text(value)) for name, value in settings.items() if value]


def _steps(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    history = config.get("history")
    return [step for step in history if isinstance(step, dict)] if isinstance(history, list) else []


def _text(value: object) -> str:
    if value is None:
        return ""

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
