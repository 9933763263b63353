"""The images in work, each with its layers, and in a tall frame the last and the largest ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from ...events import Status
from ...progress.images import FinishedImage, received_by_image
from ...progress.meters import Meter
from ...text import counted, human_bytes, human_duration, human_rate, shorten_middle
from ...values import dataclass
from .rows import FAINT, FULL_HEIGHT, GOOD, Row, View, add_bar, of_total

# From this width on images have two columns with a gutter between them.
_TWO_COLUMNS, _GUTTER = 160, 4
# A higher frame has room for finished images: the last ones and, in a single column, few of the largest.
_TALL, _MOST_FINISHED, _LARGEST = 34, 12, 3
# The largest of a few would be no ranking.
_RANKED = 3
_NAME, _LAYERS, _SIZES, _SPEED = 16, 14, 21, 12
# The cells of a row with all of these, the blanks between them, and a bar that shows something.
_WHOLE_ROW = _NAME + _LAYERS + _SIZES + _SPEED + 9


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
    meters, waiting = view.progress.meters.in_flight, view.progress.in_work
    if not meters and waiting and room > 0 and view.height >= FULL_HEIGHT:
        text = f"{counted(waiting, 'image')} in flight, {view.progress.waiting:,} queued"
        return [view.row("waiting").add(text, FAINT)]

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
    """Show the images that were mirrored last, and the largest ones, in the free rows of a tall frame.

    No image is in both lists. They are beside each other where there is room.
    """
    images = view.progress.finished_images
    if view.height < _TALL or room < 3 or not images.last:
        return []

    rows, is_wide = min(room - 1, _MOST_FINISHED), view.width >= _TWO_COLUMNS
    most = rows if is_wide else _LARGEST if room >= _MOST_FINISHED + _LARGEST + 3 else 0
    count = min(most, view.progress.images[Status.MIRRORED] // _RANKED)
    largest = images.largest[::-1][:count]
    last = [image for image in reversed(images.last) if image not in largest][:rows]
    if is_wide:
        return _beside(view, last, largest)

    ranking = [view.row(), view.row("largest"), *(_finished_row(view, image) for image in largest)]
    return [view.row("recent"), *(_finished_row(view, image) for image in last), *(ranking if largest else [])]


def short_name(view: View, name: str) -> str:
    """Return the name of an image without the organization and the tag that all images of all runs have."""
    starts = [run.run for run in view.runs or (view.progress,) if run.run is not None]
    if not starts or any(start.selections != 1 for start in starts):
        return name

    organizations, tags = {start.organization for start in starts}, {start.tag for start in starts}
    if len(organizations) == 1:
        name = name.removeprefix(f"{organizations.pop()}/")

    tag = tags.pop()
    return name if tags or set(tag) & set("*?[,") else name.removesuffix(f":{tag}")


def _images(view: View) -> list[_Image]:
    progress = view.progress
    meters = progress.meters.in_flight
    received, transfers = received_by_image(progress.work, meters), Counter(meter.label for meter in meters)
    open_bytes: Counter[str] = Counter()
    for meter in meters:
        open_bytes[meter.label] += max(0, meter.total)

    images = [
        _Image(
            image.name,
            f"{image.layers_done} of {counted(image.layers, 'layer')}" if image.layers else "",
            received[full_name],
            # An image without layers of its own brings those of others.
            max(image.bytes if image.layers else open_bytes[image.name], received[full_name]),
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
    width = _column_width(row, columns)
    for number, image in enumerate(images):
        row.add(" " * _GUTTER if number else "")
        _add_image(view, row, image, width)

    return row


def _column_width(row: Row, columns: int) -> int:
    return (row.room - _GUTTER * (columns - 1)) // columns


def _name_width(width: int) -> int:
    """Return the cells of a name in a column of `width` cells."""
    return max(_NAME, min(40, width // 3 + 2, width - _LAYERS - _SIZES - _SPEED - 12))


def _add_image(view: View, row: Row, image: _Image, width: int) -> None:
    share = image.done / image.total if image.total > 0 else 0.0
    name = short_name(view, image.name)
    if width < _WHOLE_ROW:
        row.column(shorten_middle(name, width - 5), width - 5).add(f" {int(100 * min(1.0, share)):>3}%")
        return

    end = row.room - width
    room = _name_width(width)
    row.column(shorten_middle(name, room), room).add(" ").column(f"{image.layers:>{_LAYERS}}", _LAYERS, FAINT)
    speed = "" if not image.speed else human_rate(image.speed)
    sizes = f"{of_total(image.done, human_bytes(image.total)):>{_SIZES}}"
    add_bar(view, row.add("  "), share, row.room - end - _SIZES - _SPEED - 2)
    row.add(" ").add(sizes).add(f" {speed:>{_SPEED}}", FAINT)


def _beside(view: View, last: Sequence[FinishedImage], largest: Sequence[FinishedImage]) -> list[Row]:
    title = view.row()
    width = _column_width(title, 2)
    title.column("recent", width + _GUTTER, FAINT).add("largest" if largest else "", FAINT)
    rows = [title]
    for left, right in zip_longest(last, largest):
        row = view.row()
        _add_finished(view, row, left, width)
        row.add(" " * _GUTTER)
        _add_finished(view, row, right, width)
        rows.append(row)

    return rows


def _finished_row(view: View, image: FinishedImage) -> Row:
    row = view.row()
    _add_finished(view, row, image, row.room)
    return row


def _add_finished(view: View, row: Row, image: FinishedImage | None, width: int) -> None:
    """Append an image in the columns of those that are being fetched, or the blanks of none."""
    if image is None:
        row.column("", width)
        return

    end, room = row.room - width, _name_width(width)
    row.column(shorten_middle(short_name(view, image.name), room), room, GOOD).add(" ")
    row.add(f"{human_bytes(image.bytes):>{_LAYERS}}")
    text = f"   {human_bytes(image.fetched)} fetched in {human_duration(image.elapsed)}"
    row.column(text, max(0, row.room - end), FAINT)
