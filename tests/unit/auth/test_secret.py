from __future__ import annotations

import base64
import copy
import io
import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from quaymirror.auth.files import read_secret_file, read_secret_stdin
from quaymirror.errors import ConfigError
from quaymirror.secret import Credentials, Secret

PASSWORD = "hunter2-pässword"


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("show", [str, repr, "{}".format, lambda secret: f"{secret!s}{secret!r}"])
def test_secret_never_shows_itself(show: object) -> None:
    assert callable(show)
    assert PASSWORD not in show(Secret(PASSWORD))


def test_secret_leaves_memory_by_no_serializer() -> None:
    secret = Secret(PASSWORD)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(secret, protocol)

    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        secret.__getstate__()
    assert json.dumps(secret, default=str) == '"***"'


def test_copies_of_a_secret_are_the_secret() -> None:
    credentials = Credentials("kolla+robot", Secret(PASSWORD))
    assert copy.copy(credentials.secret) is credentials.secret
    assert asdict(credentials)["secret"] is credentials.secret
    with pytest.raises(TypeError):
        pickle.dumps(credentials)


def test_secrets_compare_by_value_and_have_no_hash() -> None:
    assert Secret(PASSWORD) == Secret(PASSWORD)
    assert Secret(PASSWORD) != Secret(PASSWORD + "x")
    assert Secret(PASSWORD) != PASSWORD
    with pytest.raises(TypeError):
        hash(Secret(PASSWORD))


@pytest.mark.parametrize("value", ["", "a\nb", "a\rb", "\0", "\x1b[0m", "\x7f", "\x85", "\ud800"])
def test_secret_refuses_control_characters_and_nothing(value: str) -> None:
    with pytest.raises(ConfigError):
        Secret(value)


def test_only_printable_ascii_gets_into_a_header_as_it_is() -> None:
    assert Secret("abc 123~").header_value() == "abc 123~"
    with pytest.raises(ConfigError) as caught:
        Secret(PASSWORD).header_value()
    assert PASSWORD not in str(caught.value)


def test_basic_is_base64_of_utf8() -> None:
    scheme, _, encoded = Credentials("kolla+robot", Secret("a:ü")).basic().header_value().partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded).decode() == "kolla+robot:a:ü"


@pytest.mark.parametrize("username", ["", "a:b", "a\nb", "a\x7f", "\ud800"])
def test_bad_user_names_are_refused(username: str) -> None:
    with pytest.raises(ConfigError):
        Credentials(username, Secret(PASSWORD))


def test_repr_of_credentials_shows_the_user_only() -> None:
    assert repr(Credentials("kolla+robot", Secret(PASSWORD))) == "Credentials(username='kolla+robot', secret=***)"


def test_identity_token_is_never_sent_as_a_password() -> None:
    credentials = Credentials.identity_token(Secret("refresh"))
    assert credentials.is_identity_token
    assert not Credentials("user", Secret("refresh")).is_identity_token
    with pytest.raises(ConfigError):
        credentials.basic()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"pw", "pw"),
        (b"pw\n", "pw"),
        (b"pw\r\n", "pw"),
        (b" p w ", " p w "),
        ("ü\n".encode(), "ü"),
        (b"a" * 65536, "a" * 65536),
    ],
)
def test_secret_from_a_file_or_standard_input_loses_one_newline(data: bytes, value: str, tmp_path: Path) -> None:
    assert read_secret_file(write(tmp_path / "token", data)).reveal() == value
    assert read_secret_stdin(io.BytesIO(data)).reveal() == value


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"hunter2\n\n", b"hun\tter2", b"hunter2\0", b"hunter2\xff", b"hunter2" * 10000]
)
def test_bad_secret_is_one_line_that_names_the_file_alone(data: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "token", data)
    with pytest.raises(ConfigError) as caught:
        read_secret_file(path)
    assert str(path) in caught.value.message
    with pytest.raises(ConfigError) as caught_stdin:
        read_secret_stdin(io.BytesIO(data))
    for error in (caught.value, caught_stdin.value):
        assert "hunter2" not in error.message
        assert "\n" not in error.message


def test_a_file_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (fifo, tmp_path, tmp_path / "missing", Path("/dev/null"), tmp_path / "a\0b", tmp_path / "two\nlines"):
        with pytest.raises(ConfigError) as caught:
            read_secret_file(path)
        assert "\n" not in caught.value.message
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("mode", "is_noticed"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_readable_by_others_is_noticed(mode: int, is_noticed: bool, tmp_path: Path) -> None:
    notices: list[str] = []
    path = write(tmp_path / "token", b"pw", mode)
    read_secret_file(path, on_notice=notices.append)
    assert [str(path) in notice for notice in notices] == [True] * is_noticed
    read_secret_file(path)


def test_closed_standard_input_is_a_config_error() -> None:
    stream = io.BytesIO(b"pw")
    stream.close()
    with pytest.raises(ConfigError):
        read_secret_stdin(stream)
