"""The files of a layout, whatever form it has."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ...selection.bucket import is_bucket, parse_bucket
from ...store.storage import INDEX
from .docker_archive import DockerArchiveFiles, is_docker_archive
from .files import ArchiveFiles, BucketFiles, DirectoryFiles, LayoutFiles


def open_files(place: str) -> LayoutFiles:
    """Return the files of the layout at `place`: a directory, an object store, an oci-archive, or a docker-archive.

    :raises ConfigError: if there is none.
    """
    if is_bucket(place):
        return BucketFiles(parse_bucket(place))

    path = Path(place)
    if not path.is_file():
        return DirectoryFiles(path)

    files = ArchiveFiles(path)
    if files.locate(INDEX) is not None:
        return files

    if is_docker_archive(files):
        return DockerArchiveFiles(files, str(path))

    raise ConfigError(f"{path} is a tar file without {INDEX}")
