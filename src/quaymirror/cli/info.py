"""`quaymirror info`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import anyio
import click

from ..errors import ExitCode, SelectionEmpty
from ..run.info import image_infos
from ..text import escape_controls, human_bytes
from .help import GroupedCommand, options
from .messages import say, show_notice
from .options import json_option, make_options, make_selections, selection_arguments


@click.command(cls=GroupedCommand)
@selection_arguments
@options("info")
@json_option("Print an array with the fields of occystrap's info.")
def info(as_json: bool, **given: Any) -> int:
    """Show the metadata of each image, without fetching layers."""
    selections, wanted = make_selections(given, make_options(given))
    try:
        infos = anyio.run(partial(image_infos, selections, wanted, observer=show_notice))
    except SelectionEmpty:
        if not wanted.discovery.allow_empty:
            raise

        infos = []

    if as_json:
        click.echo(json.dumps(infos, indent=2))
    else:
        click.echo("\n\n".join("\n".join(_lines(info)) for info in infos))

    if not infos and not wanted.discovery.allow_empty:
        raise SelectionEmpty(f"no repository matches {selections[0]}")

    failed = [info for info in infos if "error" in info]
    for info in failed:
        say(f"{info['image']}:{info['tag']}: {info['error']}")

    return int(ExitCode.PARTIAL if failed else ExitCode.OK)


def _lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one image; everything in them comes from the registry, and is escaped."""
    yield escape_controls(f"{info['image']}:{info['tag']}")
    if "error" in info:
        yield f"  error: {escape_controls(info['error'])}"
        return

    platform = "/".join(str(info[key]) for key in ("os", "architecture", "variant") if info[key])
    size = human_bytes(info["total_compressed_size"])
    for name, value in (
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
        ("layers", f"{info['layer_count']}, {size} compressed"),
    ):
        if value:
            yield f"  {name + ':':<13}{escape_controls(str(value))}"

    for layer in info["layers"]:
        created_by = escape_controls(str(layer.get("created_by", "")))[:60]
        yield f"    {layer['digest']}  {human_bytes(layer['size']):>9}  {layer['compression']}  {created_by}".rstrip()

    for name, values in (("environment", info["env"]), ("labels", _pairs(info["labels"]))):
        if values:
            yield f"  {name}:"
            yield from (f"    {escape_controls(str(value))}" for value in values)


def _joined(value: object) -> str:
    return " ".join(str(word) for word in value) if isinstance(value, list) else str(value or "")


def _pairs(labels: object) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()] if isinstance(labels, dict) else []
