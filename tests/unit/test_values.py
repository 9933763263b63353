"""The dataclass decorator of `values` beside the standard library's."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import Any, ClassVar, cast

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


@pytest.mark.parametrize("decorator", [values.dataclass, dataclasses.dataclass], ids=["ours", "theirs"])
def test_the_initializer_has_defaults_keywords_and_fields_of_its_own(decorator: Any) -> None:
    @decorator(slots=True)
    class Thing:
        name: str
        notes: list[str] = dataclasses.field(default_factory=list)
        size: int = dataclasses.field(default=3, kw_only=True)
        length: int = dataclasses.field(init=False)
        level: int = dataclasses.field(default=7, init=False)
        parts: list[str] = dataclasses.field(default_factory=list, init=False)

        def __post_init__(self) -> None:
            self.length = len(self.name)

    make: Any = Thing
    first, second = make("ab", size=4), make("c", ["x"])
    assert (first.name, first.notes, first.size, first.length, first.level, first.parts) == ("ab", [], 4, 2, 7, [])
    assert (second.notes, second.size) == (["x"], 3)
    assert first.notes is not make("d").notes
    for _ in range(2):
        with pytest.raises(TypeError, match=r"Thing\.__init__\(\) missing 1 required positional argument: 'name'"):
            make()

    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments but 4"):
        make("a", [], 3)


@pytest.mark.parametrize("decorator", [values.dataclass, dataclasses.dataclass], ids=["ours", "theirs"])
def test_a_derived_class_has_an_initializer_of_its_own(decorator: Any) -> None:
    @decorator(frozen=True)
    class Base:
        left: int

    @decorator(frozen=True)
    class Derived(Base):
        right: int = 2

    class Plain(Base):
        pass

    base, derived, plain = (cast("Any", each) for each in (Base, Derived, Plain))
    assert (derived(1).right, plain(3).left, base(4).left, derived(5, 6).right) == (2, 3, 4, 6)


@pytest.mark.parametrize("decorator", [values.dataclass, dataclasses.dataclass], ids=["ours", "theirs"])
def test_an_initializer_that_the_class_has_itself_is_kept(decorator: Any) -> None:
    @decorator
    class Own:
        name: str

        def __init__(self, number: int) -> None:
            self.name = str(number)

    assert Own(3).name == "3"


def test_values_sort_by_their_compared_fields() -> None:
    ordered = _make(values.dataclass, frozen=True, order=True)
    assert sorted([ordered("b"), ordered("a", 2), ordered("a", 1)]) == [ordered("a", 1), ordered("a", 2), ordered("b")]
    assert ordered("a") <= ordered("a", secret="x") >= ordered("a")
    with pytest.raises(TypeError, match="not supported"):
        assert ordered("a") < Pair(1)


def test_a_pattern_is_compiled_when_it_is_used_first() -> None:
    broken, digits = values.pattern("("), values.pattern(r"[a-z]+", re.IGNORECASE)
    assert digits.fullmatch("aB")
    assert digits.fullmatch("1") is None
    assert digits.pattern == r"[a-z]+"
    assert digits.sub("", "1aB2") == "12"
    with pytest.raises(re.error):
        broken.match("")


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


@pytest.mark.parametrize("decorator", [values.dataclass, dataclasses.dataclass], ids=["ours", "theirs"])
def test_the_first_instances_are_as_later_ones_and_wrong_arguments_are_refused_at_once(decorator: Any) -> None:
    @decorator(slots=True)
    class Base:
        kinds: ClassVar[tuple[str, ...]] = ("x",)
        name: str
        size: int = 0

    @decorator(slots=True, kw_only=True)
    class Derived(Base):
        size: int = 5
        parts: list[str] = dataclasses.field(default_factory=list)

    base, make = (cast("Any", each) for each in (Base, Derived))
    for _ in range(40):
        assert repr(make("a", parts=["p"])).endswith("Derived(name='a', size=5, parts=['p'])")
        assert make("a", size=6) == make(name="a", size=6)

    for arguments, named in ((("a", 1), {}), (("a",), {"name": "b"}), (("a",), {"other": 1}), ((), {})):
        wrong: Any = _derived(decorator)
        with pytest.raises(TypeError):
            wrong(*arguments, **named)

    assert [each.name for each in dataclasses.fields(make)] == ["name", "size", "parts"]
    assert [each.kw_only for each in dataclasses.fields(make)] == [False, True, True]
    assert (make.__match_args__, base.__match_args__) == (("name",), ("name", "size"))
    assert make.kinds == ("x",)
    assert not hasattr(make("a"), "__dict__")


def _derived(decorator: Any) -> Any:
    @decorator(slots=True, kw_only=True)
    class Derived:
        name: str = dataclasses.field(kw_only=False)
        size: int = 5

    return Derived


def test_a_class_with_hints_that_are_no_texts_is_made_by_the_standard_library() -> None:
    hints = {"name": str, "kind": ClassVar[str]}
    made: Any = values.dataclass(slots=True)(type("Thing", (), {"__annotations__": hints, "__module__": __name__}))
    assert made("a").name == "a"
    assert [each.name for each in dataclasses.fields(made)] == ["name"]
