"""Checks of what callers give: numbers, whole or not and within a range, and settings by their names.

NumPy's numbers count as Python's; true and false are no numbers. Fields of a configuration are checked in `config`.
"""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

from vishwamai.errors import InputError, suggestion

T = TypeVar("T")


def check_whole(name: str, value: Any, least: int, most: int | None = None, *, optional: bool = False) -> Any:
    """The value as an int, or None where it is `optional`. Raises `InputError` for any other, and out of range."""
    if value is None and optional:
        return None
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        wanted = f"whole number, {least} or more" if most is None else f"whole number from {least} to {most}"
        raise InputError(f"{name} is {value!r}; it must be a {wanted}{', or None' if optional else ''}")
    return int(value)


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf
) -> float:
    """The value as a float. Raises `InputError` for what is no finite number, and out of range."""
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or not least <= number <= most or not number > above:
        lower = f"{least:g} or more" if least > -math.inf else f"more than {above:g}" if above > -math.inf else ""
        upper = f"at most {most:g}" if most < math.inf else ""
        wanted = " and ".join(bound for bound in (lower, upper) if bound)
        raise InputError(f"{name} is {value!r}; it must be a {f'number, {wanted}' if wanted else 'finite number'}")
    return number


def make_settings(kind: type[T], owner: str, given: Mapping[str, Any]) -> T:
    """Returns a dataclass of `owner`'s settings. Raises `InputError` for a name that it has not."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            raise InputError(f"{owner} has no setting {name!r}; {suggestion(name, names)}")
    return kind(**given)
