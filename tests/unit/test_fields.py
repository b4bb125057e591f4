"""Fields of options: what they accept, and what they say of what they do not."""

import math
from dataclasses import MISSING, asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import (
    Declared,
    FieldError,
    choice,
    declarations,
    defaults,
    integer,
    like,
    listed,
    number,
    option,
    shown,
    typed,
    yes,
)

NUMBERS = {
    "from 0 to 1": (number(least=0, most=1), lambda x: 0 <= x <= 1),
    "above 0 and at most 1": (number(above=0, most=1), lambda x: 0 < x <= 1),
    "above 0 and below 100": (number(above=0, below=100), lambda x: 0 < x < 100),
    "0 or more": (number(least=0), lambda x: 0 <= x < math.inf),
    "above 0": (number(above=0, finite=False), lambda x: x > 0),
}


@dataclass(frozen=True, kw_only=True)
class Recipe(Declared):
    """A recipe of these tests."""

    eggs: int = option(kind=integer(1), metavar="N", help="how many")
    salt_share: float = option(0.01, kind=number("a share", least=0, most=1), unit="of all", help="how salty")
    toppings: tuple[str, ...] | None = option(
        None, kind=listed(choice("ham", "leek"), "toppings"), help="on top"
    )
    is_hot: bool = option(False, kind=yes(), negatable=True, help="served hot")
    pan: str = option(
        "iron",
        kind=choice("iron", "clay"),
        flag="--vessel",
        instead={"tin": "take pan=iron, which is the same"},
        help="what it is made in",
    )


@pytest.mark.parametrize("words", NUMBERS)
@given(st.floats() | st.integers(-3, 101))
def test_a_number_is_accepted_where_its_range_says_so(words, value):
    kind, is_right = NUMBERS[words]
    assert kind.range == words
    assert kind.accepts(value) == is_right(value)


@given(st.integers(-5, 5), st.integers(-10, 10))
def test_an_integer_is_accepted_from_the_least_one_on(least, value):
    kind = integer(least)
    assert kind.accepts(value) == (value >= least) and not kind.accepts(float(value))
    assert kind.range == f"{least} or more" and kind.accepts(kind.parse(shown(kind.example)))


@given(st.lists(st.integers(1, 100), min_size=1))
def test_lists_are_typed_with_commas(values):
    assert listed(integer(1), "integers").parse(shown(values)) == tuple(values)


def test_truth_values_are_no_numbers_and_nothing_is_no_list():
    assert not integer(0).accepts(True) and not number(least=0).accepts(True)
    assert not listed(integer(0), "integers").accepts(())


@pytest.mark.parametrize(
    ("values", "library", "command"),
    [
        (
            {"eggs": 0},
            "eggs: expected an integer, 1 or more, got 0; try eggs=1",
            "--eggs: expected an integer, 1 or more, got 0; try --eggs 1",
        ),
        (
            {"eggs": 2, "salt_share": 3},
            "salt_share: expected a share from 0 to 1 of all, got 3; try salt_share=1.0",
            "--salt-share: expected a share from 0 to 1 of all, got 3; try --salt-share 1",
        ),
        (
            {"eggs": 2, "toppings": ("tar",)},
            "toppings: expected toppings separated by commas, got ('tar',); try toppings=('ham', 'ham')",
            "--toppings: expected toppings separated by commas, got ('tar',); try --toppings ham,ham",
        ),
        (
            {"eggs": 2, "is_hot": "very"},
            "is_hot: expected True or False, got 'very'; try is_hot=True",
            "--is-hot: expected True or False, got 'very'; try --is-hot",
        ),
        (
            {"eggs": 2, "pan": "tin"},
            "pan: expected one of iron, clay, got 'tin'; take pan=iron, which is the same",
            "--vessel: expected one of iron, clay, got 'tin'; take --vessel iron, which is the same",
        ),
    ],
)
def test_the_library_names_fields_and_commands_name_options(values, library, command):
    with pytest.raises(FieldError) as refused:
        Recipe(**values)
    assert str(refused.value) == library
    assert typed(refused.value) == command


def test_several_fields_and_other_words_in_a_message():
    error = FieldError("eggs and pan", "expected salt_share=0.5, is_hot=False and x=3, got none")
    assert typed(error) == "--eggs and --vessel: expected --salt-share 0.5, --no-is-hot and x=3, got none"
    assert typed(UserError("eggs=1: stays as it is")) == "eggs=1: stays as it is"


def test_fields_keep_their_values_and_stand_in_the_docstring():
    recipe = Recipe(eggs=2, toppings=("ham",), is_hot=True)
    assert asdict(recipe) == {
        **{"eggs": 2, "salt_share": 0.01, "toppings": ("ham",), "is_hot": True, "pan": "iron"}
    }
    assert "    salt_share: how salty." in (Recipe.__doc__ or "").splitlines()


def test_a_field_like_another_differs_where_it_says_so():
    @dataclass(frozen=True)
    class Other(Declared):
        """Another recipe."""

        pan: str | None = like(Recipe, "pan", None, help="what else")

    assert defaults(Other) == {"pan": None} and defaults(Recipe)["eggs"] is MISSING
    assert declarations(Other)["pan"].flag == "--vessel" and declarations(Other)["pan"].help == "what else"
    assert Other().pan is None
    with pytest.raises(FieldError):
        Other(pan="tin")


def test_one_field_cannot_have_two_options():
    with pytest.raises(TypeError, match="pan: expected --vessel as elsewhere, got --pan"):

        class Wrong(Declared):
            pan: str = option("iron", kind=choice("iron"), help="what it is made in")


def test_options_that_exclude_each_other_stand_together():
    @dataclass(frozen=True)
    class Amount(Declared):
        """Amounts."""

        grams: int = option(1, kind=integer(0), excludes="amount", help="weight")
        colour: str = option("red", kind=choice("red"), help="colour")
        ounces: int | None = option(None, kind=integer(0), excludes="amount", help="the same")

    assert [*declarations(Amount)] == ["grams", "ounces", "colour"]
