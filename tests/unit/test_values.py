"""The dataclass decorator of `values` beside the standard library's."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from quaymirror import values


def _make(decorator: Any, **options: Any) -> Any:
    @decorator(slots=True, **options)
    class Thing:
        name: str
        size: int = 0
        notes: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
        secret: str = dataclasses.field(default="", repr=False, compare=False)

    return Thing


ours, theirs = (_make(each, frozen=True) for each in (values.dataclass, dataclasses.dataclass))


@pytest.mark.parametrize("made", [ours, theirs], ids=["ours", "theirs"])
def test_values_are_equal_if_their_compared_fields_are(made: Any) -> None:
    assert made("a", 1, secret="x") == made("a", 1, secret="y")
    assert made("a", 1) != made("a", 2)
    assert made("a") != ("a", 0, {}, "")
    assert (made("a") == 3) is False


@pytest.mark.parametrize("made", [ours, theirs], ids=["ours", "theirs"])
def test_equal_values_have_equal_hashes_also_with_fields_that_have_none(made: Any) -> None:
    assert len({made("a", 1, {"k": "v"}), made("a", 1, {"k": "v"}), made("b", 1)}) == 2


def test_a_value_is_shown_as_the_standard_library_shows_it() -> None:
    assert repr(ours("a", secret="x")) == repr(theirs("a", secret="x"))
    assert "x" not in repr(ours("a", secret="x"))


def test_a_value_can_be_replaced_matched_and_has_no_other_attributes() -> None:
    match dataclasses.replace(ours("a", 1), size=2):
        case ours(name, size):
            assert (name, size) == ("a", 2)

    with pytest.raises(AttributeError):
        ours("a").other = 1


def test_a_value_that_can_change_has_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(_make(values.dataclass)("a"))


def test_methods_of_the_class_itself_are_kept() -> None:
    @values.dataclass(frozen=True)
    class Own:
        name: str

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    assert (repr(Own("a")), Own("a") == 1, hash(Own("a"))) == ("mine", True, 7)


@values.dataclass(frozen=True, slots=True)
class Nothing:
    """No fields."""


@values.dataclass(frozen=True, slots=True)
class Pair:
    """Two fields."""

    left: int
    right: tuple[int, ...] = ()


def test_values_without_fields_are_equal() -> None:
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())


def test_a_value_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Pair(1, (2,)))) == Pair(1, (2,))
