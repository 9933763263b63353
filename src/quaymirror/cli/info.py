"""`quaymirror info`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import click

from ..documents.images import DerivedInfoJson, VerdictJson
from ..errors import ExitCode, SelectionEmpty
from ..run.derived_info import derived_infos, has_derived_images
from ..run.info import image_infos
from ..settings.spec import Heading
from ..text import escape_controls, human_bytes
from .help import GroupedCommand, command_option, options
from .messages import say, show_notice
from .mirrors import is_mirror, mirror_info, mirror_names
from .options import json_option, make_options, make_selections, selection_arguments


@click.command(cls=GroupedCommand)
@selection_arguments
@options("info")
@command_option("--at", metavar="ID|DATE", heading=Heading.SELECTION, help="Of a mirror: the images of this snapshot.")
@json_option("Print an array with the fields of occystrap's info.")
def info(as_json: bool, at: str | None, **given: Any) -> int:
    """Show the metadata of each image, of an index those of every platform, without fetching layers.

    A mirror, or any OCI image layout, is named by its path (/srv/mirror, ./mirror) or ocidir://PATH; GLOB:TAG then
    selects images. Derived images, at the address or the path of their target, are shown with their provenance.

    \b
    quaymirror info kolla nova-api 2025.1-debian
    quaymirror info /srv/mirror 'kolla/nova-api:*'
    """
    place: str = given.get("organization") or given.get("source") or ""
    if has_derived_images(place):
        derived = derived_infos(place, mirror_names(given), make_options(given))
        texts = ("\n".join(_derived(each)) for each in derived)
        click.echo(json.dumps(derived, indent=2) if as_json else "\n\n".join(texts))
        return int(ExitCode.OK)

    if is_mirror(given):
        infos, code = mirror_info(given, at)
        _show(infos, as_json=as_json)
        return int(ExitCode.PARTIAL if any("error" in info for info in infos) else code)

    if at is not None:
        raise click.UsageError("--at is for mirrors: name one by its path")

    selections, wanted = make_selections(given, make_options(given))
    try:
        infos = anyio.run(partial(image_infos, selections, wanted, observer=show_notice))
    except SelectionEmpty:
        if not wanted.discovery.allow_empty:
            raise

        infos = []

    _show(infos, as_json=as_json)
    if not infos and not wanted.discovery.allow_empty:
        raise SelectionEmpty(f"no repository matches {selections[0]}")

    failed = [info for info in infos if "error" in info]
    for info in failed:
        say(f"{_name(info)}: {info['error']}")

    return int(ExitCode.PARTIAL if failed else ExitCode.OK)


def _show(infos: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(infos, indent=2))
    elif infos:
        click.echo("\n\n".join("\n".join(_lines(info)) for info in infos))


def _name(info: Mapping[str, Any]) -> str:
    return ":".join(filter(None, (info["image"], info["tag"])))


def _lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one image; everything in them comes from the registry, and is escaped."""
    yield escape_controls(_name(info))
    if "error" in info:
        yield f"  error: {escape_controls(info['error'])}"
        return

    platform = "/".join(str(info[key]) for key in ("os", "architecture", "variant") if info[key])
    size = human_bytes(info["total_compressed_size"])
    for name, value in (
        ("index", info.get("index", "")),
        ("digest", info.get("digest") or (info.get("mirrored") or {}).get("digest", "")),
        ("media type", info["media_type"] or "-"),
        ("platform", platform),
        ("created", info["created"]),
        ("config", f"{info['config_digest']} ({human_bytes(info['config_size'])})"),
        ("history", f"{info['history_count']} steps, {info['empty_layer_count']} without layers"),
        ("entrypoint", _joined(info["entrypoint"])),
        ("cmd", _joined(info["cmd"])),
        ("working dir", info["working_dir"]),
        ("ports", _joined(info["exposed_ports"])),
        ("volumes", _joined(info["volumes"])),
        *_mirrored(info.get("mirrored")),
        ("layers", f"{info['layer_count']}, {size} compressed"),
    ):
        if value:
            yield f"  {name + ':':<13}{escape_controls(str(value))}"

    for layer in info["layers"]:
        created_by = escape_controls(str(layer.get("created_by", "")))[:60]
        yield f"    {layer['digest']}  {human_bytes(layer['size']):>9}  {layer['compression']}  {created_by}".rstrip()

    attached = (info.get("mirrored") or {}).get("referrers", ())
    if attached:
        yield "  referrers:"
        yield from (
            f"    {each['digest']}  {escape_controls(each['artifact_type'] or each['tag'] or '-')}" for each in attached
        )

    verdicts = (info.get("mirrored") or {}).get("verdicts", ())
    if verdicts:
        yield "  accepted by:"
        yield from (f"    {escape_controls(_accepted(each))}" for each in verdicts)

    yield from _provenance(info.get("provenance") or {})
    for name, values in (("environment", info["env"]), ("labels", _pairs(info["labels"]))):
        if values:
            yield f"  {name}:"
            yield from (f"    {escape_controls(str(value))}" for value in values)


def _derived(info: DerivedInfoJson) -> Iterator[str]:
    """Yield the lines of a derived image."""
    name, derived = _name(info), info["derived"]
    yield escape_controls(name)
    for label, value in (
        ("from", f"{derived['registry']}/{name}@{derived['source']}"),
        ("to", derived["target"]),
        ("digest", derived["digest"]),
        ("accepted by", derived["accepted_by"]),
    ):
        if value:
            yield f"  {label + ':':<13}{escape_controls(str(value))}"

    yield from _provenance(derived["provenance"] or {})


def _provenance(statement: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a statement, which may be of any shape: a registry has it."""
    definition = _object(_object(statement.get("predicate")).get("buildDefinition"))
    filters = _list(_object(definition.get("externalParameters")).get("filters"))
    for label, value in (("filters", ", ".join(map(str, filters))), ("provenance", statement.get("predicateType"))):
        if value:
            yield f"  {label + ':':<13}{escape_controls(str(value))}"

    for label, entries, key in (
        ("of", _list(statement.get("subject")), "name"),
        ("from", _list(definition.get("resolvedDependencies")), "uri"),
    ):
        for entry in map(_object, entries):
            digests = ", ".join(f"{name}:{value}" for name, value in _object(entry.get("digest")).items())
            if entry.get(key):
                yield escape_controls(f"    {label:<5} {digests}  {entry[key]}")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mirrored(row: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield what a mirror knows of an image."""
    if row is not None:
        yield "from", row["registry"] or ""
        yield "mirrored", (row["updated"] or "")[:19].replace("T", " ")
        yield "size", f"{human_bytes(row['size'] or 0)}, {human_bytes(row['own_size'] or 0)} of it in no other image"


def _accepted(verdict: VerdictJson) -> str:
    """Return the keys, the day and the policy of a verdict, and its origin if that is another mirror."""
    text = f"{verdict['accepted_by']}, {verdict['judged'][:10]}, policy {verdict['policy'][:12]}"
    return f"{text}; according to {verdict['origin']}" if verdict["origin"] else text


def _joined(value: object) -> str:
    return " ".join(str(word) for word in value) if isinstance(value, list) else str(value or "")


def _pairs(labels: object) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()] if isinstance(labels, dict) else []
