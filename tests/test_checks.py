"""Numbers that callers give: those in range come back as Python's own, all others are refused with what was wanted."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from vishwamai.checks import check_number, check_whole, make_settings
from vishwamai.errors import InputError


@pytest.mark.parametrize("value", [1, 5, np.int64(3), np.uint8(5)])
def test_a_whole_number_in_range_comes_back_as_an_int(value):
    found = check_whole("n", value, 1, 5)
    assert found == value and type(found) is int


@pytest.mark.parametrize("value", [0, 6, -1, True, np.True_, 2.0, "2", None, [2], math.nan, np.float32(2), 10**30])
def test_what_is_no_whole_number_in_range_is_refused(value):
    with pytest.raises(InputError, match="^n is .*; it must be a whole number from 1 to 5$"):
        check_whole("n", value, 1, 5)


def test_a_whole_number_may_have_no_upper_bound_and_may_be_left_out():
    assert check_whole("n", 10**30, 1) == 10**30
    assert check_whole("n", None, 1, optional=True) is None
    with pytest.raises(InputError, match="^n is 0; it must be a whole number, 1 or more$"):
        check_whole("n", 0, 1)
    with pytest.raises(InputError, match="^n is 0; it must be a whole number, 1 or more, or None$"):
        check_whole("n", 0, 1, optional=True)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1), Fraction(1, 2)])
def test_a_number_in_range_comes_back_as_a_float(value):
    found = check_number("p", value, above=0, most=1)
    assert found == value and type(found) is float


@pytest.mark.parametrize("value", [0, 1.5, True, np.True_, "0.5", None, math.nan, math.inf, -math.inf, 10**400])
def test_what_is_no_number_in_range_is_refused(value):
    with pytest.raises(InputError, match="^p is .*; it must be a number, more than 0 and at most 1$"):
        check_number("p", value, above=0, most=1)


@pytest.mark.parametrize(
    ("bounds", "outside", "wanted"),
    [
        ({"least": 0}, -0.1, "number, 0 or more"),
        ({"least": 0, "most": 1}, 2, "number, 0 or more and at most 1"),
        ({"above": 0}, 0, "number, more than 0"),
        ({"most": 0.5}, 1, "number, at most 0.5"),
        ({}, math.inf, "finite number"),
        ({"least": 0}, math.inf, "number, 0 or more"),
    ],
)
def test_the_bounds_are_said(bounds, outside, wanted):
    with pytest.raises(InputError, match=f"; it must be a {wanted}$"):
        check_number("p", outside, **bounds)


@dataclasses.dataclass(frozen=True)
class Some:
    timeout: float = 1.0


def test_settings_are_known_by_their_names():
    assert make_settings(Some, "Thing", {"timeout": 2.0}) == Some(2.0)
    with pytest.raises(InputError, match="Thing has no setting 'timeot'; did you mean timeout?"):
        make_settings(Some, "Thing", {"timeot": 2.0})
