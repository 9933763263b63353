"""The images in work, each with its layers, and in a tall frame the last and the largest ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ...progress.images import FinishedImage, received_by_image
from ...progress.meters import Meter
from ...progress.run import RunProgress
from ...text import counted, human_bytes, human_duration, human_rate, shorten_middle
from ...values import dataclass
from .rows import FAINT, GOOD, KNOWN, Row, View, add_bar, of_total

# From this width on images have two columns with a gutter between them.
_TWO_COLUMNS, _GUTTER = 160, 4
# A higher frame has room for finished images.
_TALL, _MOST_FINISHED, _LARGEST = 34, 12, 3
_LAYERS, _SIZES, _SPEED = 14, 21, 12


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that is being fetched."""

    name: str
    layers: str
    done: int
    total: int
    speed: float | None


def transfers(view: View, room: int) -> list[Row]:
    """Fill `room` with the images that are being fetched, in the order in which they began."""
    meters = view.progress.meters.in_flight
    if not meters or room < 2:
        return []

    columns = 2 if view.width >= _TWO_COLUMNS else 1
    images = _images(view)
    shown = images[: (room - 1) * columns]
    hidden = len(images) - len(shown)
    text = f"{counted(len(images), 'image')}, {counted(len(meters), 'transfer')}"
    text += f"; {counted(hidden, 'image')} not shown" if hidden else ""
    # Column by column, so that an image that ends moves as few others as possible.
    height = -(-len(shown) // columns)
    rows = [_image_row(view, shown[number::height] if height else (), columns) for number in range(height)]
    return [view.row("fetching").add(text, FAINT), *rows]


def finished(view: View, room: int) -> list[Row]:
    """Show the images that were mirrored last, and the largest ones, in the free rows of a tall frame."""
    images = view.progress.finished_images
    if view.height < _TALL or room < 3 or not images.last:
        return []

    last = list(reversed(images.last))[: min(room - 1, _MOST_FINISHED)]
    rows = [view.row("recent"), *(_finished_row(view, image) for image in last)]
    # A few of a kind are no ranking.
    if len(rows) + _LARGEST + 2 <= room and len(images.last) > _LARGEST:
        largest = list(reversed(images.largest))[:_LARGEST]
        rows += [view.row(), view.row("largest"), *(_finished_row(view, image) for image in largest)]

    return rows


def short_name(progress: RunProgress, name: str) -> str:
    """Return the name of an image without the organization and the tag that all images of the run have."""
    run = progress.run
    if run is None or run.selections != 1:
        return name

    name = name.removeprefix(f"{run.organization}/")
    return name if set(run.tag) & set("*?[,") else name.removesuffix(f":{run.tag}")


def _images(view: View) -> list[_Image]:
    progress = view.progress
    meters = progress.meters.in_flight
    received, transfers = received_by_image(progress.work, meters), Counter(meter.label for meter in meters)
    images = [
        _Image(
            image.name,
            f"{image.layers_done} of {counted(image.layers, 'layer')}" if image.layers else "",
            received[full_name],
            max(image.bytes, received[full_name]),
            view.speeds.images.get(full_name),
        )
        for full_name, image in progress.work.items()
        if transfers.pop(image.name, 0)
    ]
    # Transfers that go on for others after their image has failed.
    return images + [_alone(meter) for meter in _first_of_each(meters, transfers)]


def _first_of_each(meters: Iterable[Meter], labels: Iterable[str]) -> list[Meter]:
    first: dict[str, Meter] = {}
    wanted = set(labels)
    for meter in meters:
        if meter.label in wanted:
            first.setdefault(meter.label, meter)

    return [*first.values()]


def _alone(meter: Meter) -> _Image:
    return _Image(meter.label, "", max(0, meter.done), max(0, meter.total), None)


def _image_row(view: View, images: Sequence[_Image], columns: int) -> Row:
    row = view.row()
    width = (row.room - _GUTTER * (columns - 1)) // columns
    for number, image in enumerate(images):
        row.add(" " * _GUTTER if number else "")
        _add_image(view, row, image, width)

    return row


def _add_image(view: View, row: Row, image: _Image, width: int) -> None:
    share = image.done / image.total if image.total > 0 else 0.0
    name = short_name(view.progress, image.name)
    if width < 58:
        row.column(shorten_middle(name, width - 5), width - 5).add(f" {int(100 * min(1.0, share)):>3}%")
        return

    end = row.room - width
    room = max(16, min(40, width - _LAYERS - _SIZES - _SPEED - 12))
    row.column(shorten_middle(name, room), room).add(" ").column(f"{image.layers:>{_LAYERS}}", _LAYERS, FAINT)
    speed = "" if not image.speed else human_rate(image.speed)
    sizes = f"{of_total(image.done, human_bytes(image.total)):>{_SIZES}}"
    add_bar(view, row.add("  "), share, row.room - end - _SIZES - _SPEED - 2)
    row.add(" ").add(sizes).add(f" {speed:>{_SPEED}}", FAINT)


def _finished_row(view: View, image: FinishedImage) -> Row:
    room = max(16, min(40, view.width // 3))
    row = view.row().column(shorten_middle(short_name(view.progress, image.name), room), room, GOOD).add("  ")
    row.add(f"{human_bytes(image.bytes):>10}", KNOWN)
    return row.add(f"   {human_bytes(image.fetched)} fetched in {human_duration(image.elapsed)}", FAINT)
