"""Calls of occystrap, in worker processes: importing it takes 0.25 s and adds handlers to twenty loggers.

Outputs write files to the directory of the job. A file with its final name is complete and has passed occystrap's own
check; see `publish`.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import requests_unixsocket
from occystrap import constants, uri
from occystrap.filters.base import ImageFilter
from occystrap.outputs.docker import DEFAULT_SOCKET_PATH
from occystrap.outputs.mounts import MountWriter
from occystrap.pipeline import PipelineBuilder

from ..errors import ConfigError, EmitFailed, Phase, QuaymirrorError, StoreError
from ..values import dataclass
from .extract import check_whiteouts, confined
from .guard import guarded
from .job import Destination, Emission, Job
from .publish import append_shared, publish_directory, publish_file, replace_tree

_LOCAL_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE})


def check(destination: Destination, filters: tuple[str, ...]) -> None:
    """Check that occystrap accepts `filters`, before the first image.

    :raises ConfigError: if it doesn't.
    """
    _quiet()
    builder = PipelineBuilder()
    for text in filters:
        try:
            builder.build_filter(uri.parse_filter(text), None, image="", tag="")
        except Exception as error:
            raise ConfigError(f"--filter {text[:100]!r}: {_one_line(error)}") from None


def emit(job: Job) -> Emission:
    """Pass one image through its filters to its destination, let occystrap check the result, and publish it.

    :raises EmitFailed: if a filter, an output or the check fails; then nothing has been published.
    :raises StoreError: if the disk fails.
    """
    _quiet()
    image = f"{job.image}:{job.tag}"
    with _captured() as captured, guarded(job.destination), confined(job.destination), _translated(image, job.scratch):
        files, findings = _emit(job)
        known_as = identity(job.destination, job.image, job.tag)

    return Emission(tuple(files), known_as, tuple(captured.printed), tuple(captured.log), tuple(findings))


def filter_layer(layer: Path, filters: tuple[str, ...], image: str) -> tuple[int, str]:
    """Replace the archive `layer` by what `filters` make of it; return its size and its encoded digest.

    :raises EmitFailed: if a filter fails, naming `image`.
    :raises StoreError: if the disk fails.
    """
    _quiet()
    temporary = layer.with_name(f"{layer.name}.filtering")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with _captured(), _translated(image, temporary), layer.open("rb") as content:
            temporary.mkdir()
            output = result = _Filtered(layer)
            for text in reversed(filters):
                output = _builder(temporary).build_filter(uri.parse_filter(text), output, image="", tag="")

            output.process_image_element(constants.ImageElement(constants.IMAGE_LAYER, "", content))
            return layer.stat().st_size, result.digest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Filtered:
    """The end of a chain of filters: moves the layer that comes out of it to `final`."""

    requires_ordered_layers = True

    def __init__(self, final: Path) -> None:
        self._final = final
        self.digest = ""

    def process_image_element(self, element: Any) -> None:
        Path(element.data.name).replace(self._final)
        self.digest = str(element.name)


@contextmanager
def _translated(image: str, place: Path) -> Iterator[None]:
    """Turn the exceptions of occystrap into our own errors about `image`; `place` is written to."""
    try:
        yield
    except QuaymirrorError:
        raise
    except OSError as error:
        if error.errno in _LOCAL_FAILURES:
            raise StoreError(f"can't write below {place}: {error.strerror}", phase=Phase.STORE) from None

        raise _failed(image, error) from None
    except Exception as error:
        raise _failed(image, error) from None


def identity(destination: Destination, image: str, tag: str) -> str:
    """Return the digest of an image in the registry or the daemon at `destination`, "" if it doesn't have it.

    :raises EmitFailed: if it doesn't answer.
    """
    _quiet()
    with guarded(destination):
        try:
            match destination.scheme:
                case "registry":
                    return _manifest_digest(destination, image, tag)
                case "docker":
                    return _image_id(destination, image, tag)
                case _:
                    return ""
        except EmitFailed:
            raise
        except Exception as error:
            raise EmitFailed(f"{image}:{tag}: can't request it from the target: {_one_line(error)}") from None


def _manifest_digest(destination: Destination, image: str, tag: str) -> str:
    writer = _builder(None).build_output(_spec(destination, destination.path), image, tag)
    url = f"{'http' if destination.options.get('insecure') else 'https'}://{writer.registry}/v2/{writer.image}"
    try:
        answer = writer._request(  # noqa: SLF001 - its way to answer a 401
            "HEAD", f"{url}/manifests/{writer.tag}", headers={"Accept": constants.MEDIA_TYPE_DOCKER_MANIFEST_V2}
        )
    finally:
        writer._client.close()  # noqa: SLF001 - only finalize() would close it

    return _digest_in(answer, answer.headers.get("Docker-Content-Digest", ""))


def _image_id(destination: Destination, image: str, tag: str) -> str:
    socket = quote(str(destination.options.get("socket", DEFAULT_SOCKET_PATH)), safe="")
    name = quote(f"{image.rpartition('/')[2]}:{tag}", safe="")
    with requests_unixsocket.Session() as session:
        answer = session.get(f"http+unix://{socket}/images/{name}/json", timeout=60)
        return _digest_in(answer, answer.json().get("Id", "") if answer.status_code == 200 else "")


def _digest_in(answer: Any, digest: str) -> str:
    if answer.status_code not in (200, 404):
        raise EmitFailed(f"the target answered {answer.status_code} to a request for the image")

    return digest if answer.status_code == 200 else ""


def _emit(job: Job) -> tuple[list[tuple[Path, int]], list[str]]:
    chain = _Chain.build(job)
    _feed(job, chain.output)
    chain.output.finalize()
    has_bundle = job.destination.unpacks
    if has_bundle and hasattr(chain.writer, "write_bundle"):
        chain.writer.write_bundle()

    findings = _verify(job, chain.writer)
    files = _publish(job, chain.place)
    for spilled, final in chain.spills:
        append_shared(final, spilled)

    return files, findings


@dataclass(frozen=True, slots=True)
class _Chain:
    """The filters around the writer, which writes to `place`; `spills` are files that images share."""

    output: Any
    writer: Any
    place: Path
    spills: list[tuple[Path, Path]]

    @classmethod
    def build(cls, job: Job) -> _Chain:
        destination = job.destination
        temporary, out = job.scratch / "tmp", job.scratch / "out"
        temporary.mkdir(parents=True)
        place = _place(destination, out)
        builder = _builder(temporary)
        if destination.scheme == "dir":
            _link_present(job, out)

        writer = builder.build_output(_spec(destination, place), job.image, job.tag)
        if "name" in destination.options:
            # By itself it leaves registry and organization out.
            writer.tar_manifest[0]["RepoTags"] = [destination.options["name"]]

        is_wrapped = job.filters or destination.scheme == "mounts"
        output, spills = _WriterProxy(writer) if is_wrapped else writer, []
        for number, text in reversed(list(enumerate(job.filters))):
            filter_spec = uri.parse_filter(text)
            if filter_spec.name.lower() == "inspect" and filter_spec.options.get("file"):
                # Each image appends lines, which would be mixed up if processes wrote to one file at the same time.
                spilled = job.scratch / f"inspect-{number}"
                spills.append((spilled, Path(str(filter_spec.options["file"]))))
                filter_spec.options["file"] = str(spilled)

            output = builder.build_filter(filter_spec, output, image=job.image, tag=job.tag)

        names = {layer.name: layer.filtered for layer in job.layers if layer.filtered}
        if names:
            output = _AppliedFilters(output, names)

        return cls(output, writer, place, spills)


class _AppliedFilters(ImageFilter):  # type: ignore[misc]
    """Stands for filters that have been applied to the layers: renames layers, and changes the config accordingly."""

    def __init__(self, output: Any, names: Mapping[str, str]) -> None:
        super().__init__(output)
        self._names = names

    def process_image_element(self, element: Any) -> None:
        if element.element_type == constants.CONFIG_FILE:
            self._buffer_config(element)
            return

        name, index = self._names[element.name], element.layer_index
        self._record_new_diff_id(name, index, original_hex=element.name)
        self._wrapped.process_image_element(
            constants.ImageElement(
                element.element_type, name, element.data, layer_index=index, temp_path=element.temp_path
            )
        )


class _WriterProxy:
    """Adds the file of a filtered layer, which filters drop: then the writer renames it instead of copying it."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def process_image_element(self, element: Any) -> None:
        name = getattr(element.data, "name", None)
        if element.element_type == constants.IMAGE_LAYER and isinstance(name, str) and element.temp_path is None:
            element.temp_path = name

        if element.element_type == constants.IMAGE_LAYER and isinstance(self._writer, MountWriter) and element.data:
            check_whiteouts(Path(element.data.name))

        self._writer.process_image_element(element)


def _builder(temporary: Path | None) -> PipelineBuilder:
    """Return a builder with global options; credentials come from occystrap's variables, never from an address."""
    return PipelineBuilder(
        SimpleNamespace(
            obj={
                "TEMP_DIR": str(temporary) if temporary else None,
                "USERNAME": os.environ.get("OCCYSTRAP_USERNAME"),
                "PASSWORD": os.environ.get("OCCYSTRAP_PASSWORD"),
            }
        )
    )


def _spec(destination: Destination, place: Path | str) -> uri.URISpec:
    options = {key: value for key, value in destination.options.items() if key != "name"}
    return uri.URISpec(destination.scheme, destination.host, str(place), options)


def _place(destination: Destination, out: Path) -> Path:
    if destination.scheme not in ("tar", "dir", "oci"):
        return Path(destination.path)

    out.mkdir()
    return out / "image.tar" if destination.scheme == "tar" else out


def _link_present(job: Job, out: Path) -> None:
    """Link layers that the destination has, so that the writer finds them."""
    for layer in job.layers:
        if layer.path is None:
            archive = out / layer.directory / "layer.tar"
            archive.parent.mkdir(exist_ok=True)
            if not archive.exists():
                _link(Path(job.destination.path, layer.directory, "layer.tar"), archive)


def _feed(job: Job, output: Any) -> None:
    """Pass on config and layers, in the order of the manifest, by which outputs identify them."""
    output.process_image_element(constants.ImageElement(constants.CONFIG_FILE, job.config_name, io.BytesIO(job.config)))
    # Outputs compare the names of source layers, which mean nothing for filtered ones: filters get every layer.
    wanted = [output.fetch_callback(layer.name) or bool(job.filters or layer.filtered) for layer in job.layers]
    for number, (layer, is_wanted) in enumerate(zip(job.layers, wanted, strict=True)):
        index = None if output.requires_ordered_layers else number
        with _opened(job, layer.path if is_wanted else None, number) as (data, path):
            output.process_image_element(
                constants.ImageElement(constants.IMAGE_LAYER, layer.name, data, layer_index=index, temp_path=path)
            )


@contextmanager
def _opened(job: Job, layer: Path | None, number: int) -> Iterator[tuple[Any, str | None]]:
    """Open a link to the layer that the writer may rename; the staged file stays for other images."""
    if layer is None:
        yield None, None
        return

    mine = job.scratch / f"layer-{number}"
    _link(layer, mine)
    with mine.open("rb") as file:
        yield file, str(mine)

    mine.unlink(missing_ok=True)


def _link(source: Path, name: Path) -> None:
    try:
        name.hardlink_to(source)
    except OSError:
        # Some file systems have no links, or few per file.
        shutil.copyfile(source, name)


def _verify(job: Job, writer: Any) -> list[str]:
    """Return the findings of occystrap's check, except errors. For bundles it reports files that no bundle has."""
    results = writer.verify().results
    errors = [result["message"] for result in results if result["severity"] == "error"]
    if errors and job.destination.scheme != "oci":
        raise EmitFailed(f"{job.image}:{job.tag}: occystrap's check of the result: {'; '.join(map(_one_line, errors))}")

    return [f"{r['severity']}: {_one_line(r['message'])}" for r in results if r["severity"] != "info"]


def _publish(job: Job, place: Path) -> list[tuple[Path, int]]:
    scheme, final = job.destination.scheme, Path(job.destination.path)
    if scheme == "dir":
        return publish_directory(place, final)

    if scheme == "tar":
        return [publish_file(place, final)]

    if scheme == "oci":
        replace_tree(place, final)

    config = final / "config.json"
    return [(config, config.stat().st_size)] if scheme in ("oci", "mounts") else []


def _failed(image: str, error: Exception) -> EmitFailed:
    return EmitFailed(f"{image}: {_culprit(error)} failed: {_one_line(error)}")


def _culprit(error: Exception) -> str:
    """Return the part of occystrap that raised `error`: the innermost filter or output of the traceback."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module in reversed(modules):
        for kind in ("filters", "outputs"):
            if module.startswith(f"occystrap.{kind}.") and not module.endswith(".base"):
                return f"{kind[:-1]} {module.rpartition('.')[2].replace('_', '-')}"

    return "occystrap"


def _one_line(text: object) -> str:
    words = str(text) or type(text).__name__
    return " ".join(words.split())[:500]


class _Captured(logging.Handler):
    """Keeps lines on stdout, and warnings; events report milestones."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.stdout = io.StringIO()
        self.log: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.log.append(f"occystrap: {_one_line(record.getMessage())}")

    @property
    def printed(self) -> list[str]:
        text = self.stdout.getvalue()
        return text.removesuffix("\n").split("\n") if text else []


@contextmanager
def _captured() -> Iterator[_Captured]:
    captured, logger = _Captured(), logging.getLogger("occystrap")
    logger.addHandler(captured)
    try:
        with redirect_stdout(captured.stdout), redirect_stderr(io.StringIO()):
            yield captured
    finally:
        logger.removeHandler(captured)


def _quiet() -> None:
    """Remove the handlers of occystrap's loggers, which print."""
    loggers: Mapping[str, Any] = logging.root.manager.loggerDict
    for name, logger in loggers.items():
        if name.startswith("occystrap") and isinstance(logger, logging.Logger):
            logger.handlers.clear()
