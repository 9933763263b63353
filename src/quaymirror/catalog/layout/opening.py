"""The files of a layout, whatever form it has."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ...store.storage import INDEX
from .docker_archive import DockerArchiveFiles, is_docker_archive
from .files import ArchiveFiles, DirectoryFiles, LayoutFiles


def open_files(path: Path) -> LayoutFiles:
    """Return the files of the layout at `path`: a directory, an oci-archive, or a docker-archive.

    :raises ConfigError: if there is none.
    """
    if not path.is_file():
        return DirectoryFiles(path)

    files = ArchiveFiles(path)
    if files.locate(INDEX) is not None:
        return files

    if is_docker_archive(files):
        return DockerArchiveFiles(files, str(path))

    raise ConfigError(f"{path} is a tar file without {INDEX}")
