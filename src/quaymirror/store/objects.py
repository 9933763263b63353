"""The objects of an object store; the only importer of obstore.

Requests are repeated by obstore after connection failures and answers of 5xx. Credentials, the endpoint and the region
come from the environment, as obstore reads them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import BucketDenied, BucketFailed, ConfigError, Phase, StoreError
from ..selection.bucket import BucketAddress
from ..values import dataclass

if TYPE_CHECKING:
    from obstore import AsyncWritableFile
    from obstore.store import ObjectStore

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
# S3 answers 400 to these credentials.
_NOT_ACCEPTED = re.compile(r"<Code>(?:ExpiredToken|InvalidToken|TokenRefreshRequired)</Code>")
# Where obstore asks for credentials if the environment has none.
_METADATA_SERVICE = re.compile(r"//(?:169\.254\.\d+\.\d+|metadata\.google\.internal)\b")
_WITHOUT_REASON = re.compile(r"status code: 40[03]")
_HINTS = {
    "AuthorizationHeaderMalformed": "check AWS_REGION",
    "ExpiredToken": "get new credentials",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "check the clock of this machine",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "TokenRefreshRequired": "get new credentials",
}
_ABORT_SECONDS = 5.0
_MIB = 1024 * 1024


class Conflict(Exception):
    """An object exists already, or has another version than the one that was to be replaced."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its key, its size, its modification time (POSIX) and its version tag."""

    key: str
    size: int
    modified: float
    tag: str


class Objects:
    """The objects below one prefix of an object store. Methods block, but for uploads.

    They raise `BucketFailed` if the store fails, and `BucketDenied` if it refuses access. Requests that a store may not
    know are made through the result of `open_probing`: repeating these takes long, and does not help.
    """

    def __init__(self, store: ObjectStore, name: str, open_probing: Callable[[], ObjectStore] | None = None) -> None:
        import obstore

        self._obstore: Any = obstore
        self._store = store
        self._open_probing = open_probing or (lambda: store)
        self._name = name

    @classmethod
    def at(cls, address: BucketAddress) -> Objects:
        """Return the objects at `address`.

        :raises ConfigError: if obstore is not installed, or the environment is not complete.
        """
        try:
            from obstore import exceptions
            from obstore.store import from_url
        except ImportError:
            raise ConfigError(
                f"{address.scheme}:// needs the extra 'buckets': pip install 'quaymirror[buckets]'"
            ) from None

        try:
            brief: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
            return cls(_open(from_url, address), str(address), partial(_open, from_url, address, retry_config=brief))
        except (exceptions.BaseError, ValueError) as error:
            raise ConfigError(f"{address}: {_reason(error)}") from None

    def __str__(self) -> str:
        return self._name

    @cached_property
    def _probing(self) -> ObjectStore:
        # To open one takes several milliseconds, and most runs need none.
        return self._open_probing()

    def head(self, key: str) -> Stored | None:
        """Return the properties of an object, None if it does not exist."""
        with self._errors("read", key):
            try:
                return _stored(self._obstore.head(self._store, key))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            except self._obstore.exceptions.BaseError as error:
                if _WITHOUT_REASON.search(str(error)):
                    # The answer to HEAD has no body, so the one to GET has the reason.
                    self._obstore.get_range(self._store, key, start=0, length=1)

                raise

    def get(self, key: str, limit: int = -1) -> tuple[bytes, str] | None:
        """Return an object, at most `limit` bytes, and its version tag; None if it does not exist."""
        with self._errors("read", key):
            try:
                found = self._obstore.get(self._store, key)
                content = b"".join(bytes(chunk) for chunk in self._until(found, limit))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

            return content if limit < 0 else content[:limit], found.meta["e_tag"] or ""

    @staticmethod
    def _until(found: Any, limit: int) -> Iterator[Any]:
        count = 0
        for chunk in found.stream(min_chunk_size=_MIB):
            yield chunk
            count += len(chunk)
            if 0 <= limit <= count:
                return

    def open(self, key: str) -> io.BufferedIOBase:
        """Open an object for reading, also from other positions than its start."""
        return ObjectFile(self, key)

    def stream(self, key: str, offset: int) -> Iterator[bytes]:
        """Iterate over the bytes of an object from `offset` on."""
        with self._errors("read", key):
            options = {"range": {"offset": offset}} if offset else None
            for chunk in self._obstore.get(self._store, key, options=options).stream(min_chunk_size=_MIB):
                yield bytes(chunk)

    def put(self, key: str, content: bytes | Path, *, tag: str | None = None) -> str:
        """Write an object and return its version tag. With a `tag`, only over that version; "" means over none.

        :raises Conflict: if the object has another version.
        """
        mode: Any = "overwrite" if tag is None else {"e_tag": tag} if tag else "create"
        with self._errors("write", key):
            return self._obstore.put(self._store, key, content, mode=mode)["e_tag"] or ""

    def is_refused(self, key: str, *, tag: str = "") -> bool:
        """Return True if the store refuses to create an existing object, or to replace it if its version is not `tag`.

        :raises ConfigError: if it does not know such requests.
        """
        mode: Any = {"e_tag": tag} if tag else "create"
        exceptions = self._obstore.exceptions
        with self._errors("write", key):
            try:
                self._obstore.put(self._probing, key, b"probe\n", mode=mode, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return True
            except (exceptions.NotSupportedError, exceptions.GenericError) as error:
                if "501" in str(error) or isinstance(error, exceptions.NotSupportedError):
                    return False

                raise

        return False

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        with self._errors("delete", key), suppress(FileNotFoundError):
            self._obstore.delete(self._store, key)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Iterate over all objects whose keys begin with `prefix` and a slash, in any order."""
        with self._errors("list", prefix):
            for batch in self._obstore.list(self._store, prefix or None, chunk_size=1000):
                yield from map(_stored, batch)

    async def upload(self, key: str, content: bytes | memoryview) -> str:
        """Write an object in one request, and return its version tag."""
        with self._errors("write", key):
            result = await self._obstore.put_async(
                self._store, key, content, use_multipart=False, chunk_size=max(1, len(content))
            )
            return result["e_tag"] or ""

    def writer(self, key: str, part: int, concurrency: int) -> Upload:
        """Return the upload of a large object, in parts of `part` bytes, `concurrency` of which are sent at a time."""
        with self._errors("write", key):
            file = self._obstore.open_writer_async(self._store, key, buffer_size=part, max_concurrency=concurrency)

        return Upload(file, lambda: self._errors("write", key))

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        exceptions = self._obstore.exceptions
        place = f"{self._name}/{key}" if key else self._name
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise Conflict(place) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise BucketDenied(f"can't {verb} {place}: {_reason(error)}", phase=Phase.STORE) from None
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise BucketFailed(f"can't {verb} {place}: it does not exist any more", phase=Phase.STORE) from None
        except (exceptions.BaseError, OSError) as error:
            self._check_bucket(error)
            is_denied = _NOT_ACCEPTED.search(str(error)) or _METADATA_SERVICE.search(str(error))
            kind = BucketDenied if is_denied else BucketFailed
            raise kind(f"can't {verb} {place}: {_reason(error)}", phase=Phase.STORE) from None

    def _check_bucket(self, error: BaseException) -> None:
        if _NO_BUCKET.search(str(error)):
            raise BucketFailed(f"{self._name}: the bucket does not exist: create it first", phase=Phase.STORE) from None


class Upload:
    """An object that is being uploaded in parts. It becomes visible as a whole, or not at all."""

    def __init__(self, file: AsyncWritableFile, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._errors = errors

    async def write(self, chunk: memoryview) -> None:
        """Append `chunk`, which must not change any more."""
        with self._errors():
            await self._file.write(chunk)

    async def complete(self) -> None:
        """Make the object visible."""
        with self._errors():
            await self._file.close()

    async def abort(self) -> None:
        """Discard the uploaded parts. A failure is not reported: the store's own rule for such uploads has to do."""
        ignored = suppress(StoreError, Conflict, ValueError)
        with anyio.move_on_after(_ABORT_SECONDS, shield=True), ignored, self._errors():
            await self._file.__aexit__(ValueError, ValueError("aborted"), None)


class ObjectFile(io.BufferedIOBase):
    """An object as a file. Reading goes on in one request as long as the position is not changed."""

    def __init__(self, objects: Objects, key: str) -> None:
        self.name: str = f"{objects}/{key}"
        self._objects = objects
        self._key = key
        self._position = 0
        self._chunks: Iterator[bytes] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position; see `io.IOBase.seek`. The end costs a request."""
        base = self._position if whence == os.SEEK_CUR else self._size() if whence == os.SEEK_END else 0
        position = offset + base
        if position != self._position:
            self._chunks, self._rest, self._position = None, memoryview(b""), position

        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, all if it is negative; less only at the end.

        :raises BucketFailed: if the object can't be read.
        """
        wanted = -1 if size is None else size
        parts: list[bytes] = []
        count = 0
        while wanted < 0 or count < wanted:
            if not self._rest and not self._fill():
                break

            part = self._rest if wanted < 0 else self._rest[: wanted - count]
            self._rest = self._rest[len(part) :]
            parts.append(bytes(part))
            count += len(part)

        self._position += count
        return b"".join(parts)

    def _size(self) -> int:
        found = self._objects.head(self._key)
        if found is None:
            raise BucketFailed(f"can't read {self.name}: it does not exist any more", phase=Phase.STORE)

        return found.size

    def _fill(self) -> bool:
        if self._chunks is None:
            self._chunks = self._objects.stream(self._key, self._position)

        chunk = next(self._chunks, b"")
        self._rest = memoryview(chunk)
        return bool(chunk)


def _open(from_url: Any, address: BucketAddress, **options: Any) -> ObjectStore:
    store: ObjectStore = from_url(address.url, **options)
    return store


def _stored(found: Any) -> Stored:
    return Stored(found["path"], found["size"], found["last_modified"].timestamp(), found["e_tag"] or "")


def _reason(error: BaseException) -> str:
    """Return one line without the URL, whose query may hold a signature."""
    text = str(error).strip().partition("\n\nDebug source")[0]
    if _METADATA_SERVICE.search(text):
        return "no credentials: neither the environment nor the metadata service of this machine has any"

    code = re.search(r"<Code>([A-Za-z]{1,60})</Code>", text)
    status = re.search(r"status code: (\d{3} [A-Za-z ]{1,40})", text)
    if status is not None:
        hint = f": {_HINTS[code[1]]}" if code and code[1] in _HINTS else ""
        return f"{status[1].strip()}{f' ({code[1]})' if code else ''}{hint}"

    if "error sending request" in text:
        return "the object store does not answer: check its address and the network"

    if "redirect without LOCATION" in text:
        return "the bucket is in another region: check AWS_REGION"

    line = re.sub(r"https?://\S+", "the object store", text.partition("\n")[0])
    return line[:300] or type(error).__name__
