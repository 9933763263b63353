"""The images of a selection, without mirroring them, and their metadata.

The metadata come from manifests and configs alone; they are the fields that `occystrap info` shows.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from ..catalog.base import PinnedImage
from ..catalog.kinds import Services, check_selection
from ..errors import QuaymirrorError, StoreError
from ..events import Observer
from ..oci import Index, Manifest, Platform
from ..registry.puller import Puller
from ..selection.selection import Selection
from ..settings import Options
from ..tasks import run_all
from .finding import find_in_sources
from .image_config import as_manifest, children_for, read_config
from .wiring import check_credentials, connect


async def find_images(
    selections: Selection | Sequence[Selection], options: Options, *, observer: Observer, strict: bool = True
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selections`; see `quaymirror.discover`."""
    wanted = _checked(selections, options)
    async with connect(options, observer) as sources:
        found = find_in_sources(sources, wanted, options, observer=observer, strict=strict)
        async with aclosing(found):
            async for image in found:
                yield image


def _checked(selections: Selection | Sequence[Selection], options: Options) -> Sequence[Selection]:
    several = [selections] if isinstance(selections, Selection) else selections
    check_credentials(several, options)
    for selection in several:
        check_selection(selection, options.discovery.discovery)

    return several


async def image_infos(
    selections: Selection | Sequence[Selection], options: Options, *, observer: Observer
) -> list[dict[str, Any]]:
    """Return the metadata of every image of `selections`, sorted by name; an unreadable one has an `error` instead.

    A multi-arch image has an entry for each of its platforms, or for those in `options`.

    :raises ConfigError: if a selection needs more than this way of discovery can tell.
    :raises SelectionEmpty: if a selection matches nothing.
    :raises StoreError: if this machine fails: a disk, or for lack of descriptors.
    :raises QuaymirrorError: if the listing breaks off, or a tag can't be checked.
    """
    several = _checked(selections, options)
    wanted = options.discovery.platforms
    infos: list[dict[str, Any]] = []
    outbox, inbox = anyio.create_memory_object_stream[PinnedImage](options.limits.concurrency)
    async with connect(options, observer) as sources:
        found = find_in_sources(sources, several, options, observer=observer, strict=True)

        async def find() -> None:
            async with outbox, aclosing(found):
                async for image in found:
                    await outbox.send(image)

        async def read() -> None:
            async for image in inbox:
                services = await sources.open(image.source)
                infos.extend(await _with_provenance(image, services, await infos_of(image, services.source, wanted)))

        with inbox:
            await run_all([find, *[read] * options.limits.concurrency])

    return sorted(infos, key=lambda info: (info["image"], info["tag"] or ""))


async def _with_provenance(image: PinnedImage, services: Services, infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `infos` with the statement about an image that a run may have derived: at a plain registry."""
    if image.source is None or image.source.kind != "registry":
        return infos

    from .provenance import find_provenance  # targets come with it

    statement = await find_provenance(image, services)
    return infos if statement is None else [{**info, "provenance": statement} for info in infos]


async def infos_of(
    image: PinnedImage, source: Puller, wanted: Sequence[Platform], named: tuple[str, str | None] | None = None
) -> list[dict[str, Any]]:
    """Return the metadata of one image, several for an index; see `image_infos`.

    `named` are the repository and the tag to show, if a reference can't have them.
    """
    reference = image.reference
    repository, tag = named or (reference.repository.name, reference.tag)
    info: dict[str, Any] = {"image": repository, "tag": tag}
    try:
        node = await source.manifest(reference.repository, image.digest)
        if not isinstance(node, Index):
            return [await _info(info, as_manifest(reference.name, node), image, source)]

        children = children_for(reference.name, node, wanted)
    except QuaymirrorError as error:
        return [info | {"error": _reason(error)}]

    found = []
    for child in children:
        own = info | {"index": str(image.digest), "digest": str(child.digest), "platform": str(child.platform or "")}
        try:
            manifest = await source.manifest(reference.repository, child.digest, expected=child)
            found.append(await _info(own, as_manifest(reference.name, manifest), image, source))
        except QuaymirrorError as error:
            found.append(info | {"error": f"{child.platform or child.digest}: {_reason(error)}"})

    return found or [info | {"error": f"{reference.name} has no image: its index is empty"}]


async def _info(info: dict[str, Any], node: Manifest, image: PinnedImage, source: Puller) -> dict[str, Any]:
    try:
        config = await read_config(image.reference.name, node, image, source)
        manifest = json.loads(node.raw)
        found = info | _of_manifest(manifest) | _of_config(config)
        _add_layers(found, manifest, config)
    except QuaymirrorError as error:
        return info | {"error": _reason(error)}

    return found


def _reason(error: QuaymirrorError) -> str:
    """Return why an image can't be read.

    :raises StoreError: `error` itself if it is one of this machine: the image is not the reason.
    """
    if isinstance(error, StoreError):
        raise error

    return error.message


def _of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    layers = _layers(manifest)
    return {
        "schema_version": manifest.get("schemaVersion"),
        "media_type": manifest.get("mediaType"),
        "config_digest": manifest["config"].get("digest"),
        "config_size": manifest["config"].get("size"),
        "layer_count": len(layers),
        "total_compressed_size": sum(layer["size"] for layer in layers),
    }


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    run = _dict(config.get("config"))
    history = _history(config)
    return {
        **{key: config.get(key, "") for key in ("architecture", "os", "variant", "created")},
        "diff_ids": _diff_ids(config),
        "history_count": len(history),
        "empty_layer_count": sum(bool(step.get("empty_layer")) for step in history),
        "labels": _dict(run.get("Labels")),
        "env": _list(run.get("Env")),
        "entrypoint": run.get("Entrypoint"),
        "cmd": run.get("Cmd"),
        "working_dir": run.get("WorkingDir", ""),
        "exposed_ports": list(_dict(run.get("ExposedPorts"))),
        "volumes": list(_dict(run.get("Volumes"))),
    }


def _add_layers(info: dict[str, Any], manifest: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Add the layers: the fields of manifest, rootfs and history for each, matched by position."""
    info["layers"] = [
        {
            "index": number,
            "digest": layer["digest"],
            "size": layer["size"],
            "media_type": layer["mediaType"],
            "compression": _compression(layer["mediaType"]),
        }
        for number, layer in enumerate(_layers(manifest))
    ]
    for layer, diff_id in zip(info["layers"], _diff_ids(config), strict=False):
        layer["diff_id"] = diff_id

    steps = [step for step in _history(config) if not step.get("empty_layer")]
    for layer, step in zip(info["layers"], steps, strict=False):
        layer["created_by"] = step.get("created_by", "")


def _layers(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return manifest.get("layers") or []  # Go writes an empty list as null


def _compression(media_type: str) -> str:
    for name in ("gzip", "zstd"):
        if media_type.endswith((f"+{name}", f".{name}")):
            return name

    return "none" if media_type.endswith(".tar") and "+" not in media_type else "unknown"


def _diff_ids(config: Mapping[str, Any]) -> list[Any]:
    return _list(_dict(config.get("rootfs")).get("diff_ids"))


def _history(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_dict(step) for step in _list(config.get("history"))]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
