"""Frozen dataclasses from JSON, changed by `a.b=value`, and where each of their values came from.

It reads strictly: a key that no field bears, a value of another type, a key said twice or a number that is not finite
is refused in a sentence that names the file and the place. It knows no model and no JAX: a configuration's class stands
in the file of what it configures, and its own checks stand in its `__post_init__`.
"""

import copy
import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vishwamai.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32

T = TypeVar("T")

_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<key>\s*:)?|[{}\[\]]|-?Infinity|NaN|-?[0-9][0-9.eE+-]*')


def load_json(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file, read strictly.

    Refuses, with a `ConfigError` that names the file and the line: a missing file, one over `max_bytes`, text that is
    not UTF-8, nesting over 32 levels, NaN and infinite numbers, a key said twice, and a top that is no object.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError:  # of a path with a NUL in it
        raise ConfigError(f"{str(path)!r}: is no file's name; check the path") from None
    if len(raw) > max_bytes:
        raise ConfigError(f"{path}: is over {max_bytes:,} bytes, too large for a JSON configuration")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse_json(text, str(path))


def parse_json(text: str, where: str, first_line: int = 1) -> dict[str, Any]:
    """The object that a JSON text holds, under the rules of `load_json`; `where` names the text in errors.

    `first_line` is the number of the text's first line there.
    """
    data = None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise ConfigError(f"{where}: line {line}: is not JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError):
        pass  # nested too deep, or an integer of thousands of digits: `_scan` finds where
    _scan(text, where, first_line)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: line {first_line}: holds {_kind(data)} where an object {{...}} is needed")
    return data


def _scan(text: str, where: str, first_line: int = 1) -> None:
    """Refuse what `json` lets through: depth, keys said twice, numbers that are not finite. `text` is valid JSON."""
    open_keys: list[set[str]] = []
    for match in _TOKEN.finditer(text):
        token, problem = match[0], None
        if token in "{[":
            open_keys.append(set())
            if len(open_keys) > MAX_DEPTH:
                problem = f"is nested deeper than {MAX_DEPTH} levels"
        elif token in "}]":
            open_keys.pop()
        elif match["key"]:
            key = json.loads(match["text"])
            if key in open_keys[-1]:
                problem = f"says the key {key!r} twice in one object"
            open_keys[-1].add(key)
        elif not match["text"] and not _is_finite(token):
            problem = f"holds {token[:20]}, which is not a finite number"
            problem = problem if len(token) < 1000 else "holds a number of thousands of digits"
        if problem:
            line = text.count("\n", 0, match.start()) + first_line
            raise ConfigError(f"{where}: line {line}: {problem}")


def _is_finite(number: str) -> bool:
    return math.isfinite(float(number.replace("Infinity", "inf")))


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain JSON values, its nested dataclasses and tuples included.

    `where` (a file's name, say) opens each error. Types are strict: `true` is no integer, `1.0` is no integer, a string
    is no number; an integer serves where a float is wanted. Keys that no field bears are refused, the fields listed.
    """
    return _build(cls, data, where, "")


def to_dict(obj: Any) -> Any:
    """The plain JSON values of a dataclass: what `from_dict` reads back to an equal one."""
    if dataclasses.is_dataclass(obj):
        return {field.name: to_dict(getattr(obj, field.name)) for field in _fields(obj)}
    return [to_dict(item) for item in obj] if isinstance(obj, tuple | list) else obj


def _build(cls: Any, data: Any, where: str, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(_at(where, path, f"must be an object {{...}}, not {_kind(data)}"))
    fields, hints = {field.name: field for field in _fields(cls)}, typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise ConfigError(_at(where, path, _unknown(key, list(fields))))
    for name, field in fields.items():
        if name not in data and _is_required(field):
            raise ConfigError(_at(where, _join(path, name), "is missing, and it has no default"))
    values = {key: _value(hints[key], value, where, _join(path, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(_at(where, path, str(error))) from None


def _value(kind: Any, value: Any, where: str, path: str) -> Any:
    """`value` as the type `kind`, or a `ConfigError` that says what was wanted."""
    for member in _members(kind):
        if _fits(member, value):
            return _convert(member, value, where, path)
    raise ConfigError(_at(where, path, f"must be {_describe_type(kind)}, not {_kind(value)}"))


def _fits(kind: Any, value: Any) -> bool:
    """Whether a JSON value is of this type's outward form; what is inside it is checked when it is converted."""
    if typing.get_origin(kind) is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list | tuple)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= 1e308
    return type(value) is kind


def _convert(kind: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where, path)
    if typing.get_origin(kind) is tuple:
        kinds = _item_types(kind, len(value))
        if len(kinds) != len(value):
            raise ConfigError(_at(where, path, f"must hold {len(kinds)} values, not {len(value)}"))
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_value(item, part, where, _join(path, i)) for i, (item, part) in pairs)
    return float(value) if kind is float else value


def check_numbers(
    obj: Any, *names: str, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None, section: str = "",
) -> None:  # fmt: skip
    """Raises `ConfigError` where one of a dataclass's numbers is not finite or out of bounds; None is no number."""
    for name in names:
        value = getattr(obj, name)
        if value is None or (
            (isinstance(value, int) or math.isfinite(value))
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        ):
            continue
        lower = f"{least} or more" if least is not None else None if above is None else f"more than {above}"
        upper = f"at most {most}" if most is not None else None if below is None else f"less than {below}"
        wanted = " and ".join(bound for bound in (lower, upper) if bound) or "a finite number"
        wanted = wanted if least is None or most is None else f"from {least} to {most}"
        raise ConfigError(f"{section}{name} is {value}; it must be {wanted}")


def override(obj: T, *assignments: str) -> T:
    """`obj` with each `a.b=value` set, and its checks run once, on the whole.

    A value is read as its field's type says: `training.steps=10`, `training.name=run7`, `model.window=none`,
    `data.files=["a","b"]`; an item of a tuple is named by its place: `model.stacks.0.repeats=4`.
    """
    data = to_dict(obj)
    for assignment in assignments:
        _assign(data, type(obj), assignment)
    return from_dict(type(obj), data)


def _assign(data: dict[str, Any], cls: type, assignment: str) -> tuple[str, Any]:
    """Set `a.b=value` in plain values that stand for a `cls`. Returns the path and the value read."""
    path, equals, text = assignment.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{assignment!r}: is not of the form section.field=value")
    kind, target = cls, data
    for depth, step in enumerate(steps):
        if depth:
            target, kind = _enter(target, kind, steps[depth - 1], assignment)
        key, kind = _child(kind, step, target, assignment)
        steps[depth] = key
    target[steps[-1]] = value = _read(kind, text.strip(), assignment)
    return ".".join(str(step) for step in steps), value


def _enter(target: Any, kind: Any, key: str | int, assignment: str) -> tuple[Any, Any]:
    """The plain values under `key` and their type; an unset optional section is begun here."""
    inner = [member for member in _members(kind) if dataclasses.is_dataclass(member) or _is_tuple(member)]
    if inner and target[key] is None:
        target[key] = [] if _is_tuple(inner[0]) else {}
    for member in inner:
        if isinstance(target[key], list if _is_tuple(member) else dict):
            return target[key], member
    raise ConfigError(f"{assignment!r}: {key} is {_kind(target[key])}, and has nothing below it")


def _child(kind: Any, step: str, target: Any, assignment: str) -> tuple[Any, Any]:
    """The key that a step of the path names in `target`, and the type of what stands under it."""
    if _is_tuple(kind):
        if not (step.isdecimal() and int(step) < len(target)):
            raise ConfigError(f"{assignment!r}: {step} is no place in a list of {len(target)}")
        return int(step), _item_types(kind, len(target))[int(step)]
    fields = {field.name: field for field in _fields(kind)}
    if step not in fields:
        raise ConfigError(f"{assignment!r}: {_unknown(step, list(fields))}")
    if step not in target:
        target[step] = None if _is_required(fields[step]) else to_dict(_default(fields[step]))
    return step, typing.get_type_hints(kind)[step]


def _read(kind: Any, text: str, assignment: str) -> Any:
    """The plain value that a user's text means for a field of this type."""
    members = _members(kind)
    if types.NoneType in members and text.lower() in ("none", "null"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, dict | list):
        _scan(text, repr(assignment))
    for member in members:
        for candidate in (value, text):
            if _fits(member, candidate):
                return candidate
    raise ConfigError(f"{assignment!r}: must be {_describe_type(kind)}, not {text!r}")


def load(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> tuple[T, dict[str, str]]:
    """A configuration from its defaults, then a file, then overrides; and the source of each value in it.

    The sources map `section.field` to `default`, `file NAME` or `override a.b=value`. Checks run once, on the whole.
    """
    where, file = "" if path is None else str(path), {} if path is None else load_json(path)
    data, given = copy.deepcopy(file), {leaf: f"file {path}" for leaf in _leaf_paths(file)}
    for assignment in overrides:
        changed, value = _assign(data, cls, assignment)
        given = {leaf: source for leaf, source in given.items() if not _is_under(leaf, changed)}
        given |= {leaf: f"override {assignment}" for leaf in _leaf_paths(value, changed)}
    try:
        obj = from_dict(cls, data, where)
    except ConfigError as error:
        raise ConfigError(_find_culprit(cls, file, overrides, where, str(error))) from None
    return obj, {leaf: _source(leaf, given) for leaf in _leaf_paths(to_dict(obj))}


def _find_culprit(cls: type, file: dict[str, Any], overrides: Sequence[str], where: str, said: str) -> str:
    """What was said of the whole, of the last override without which it is not so, or else of the file."""
    for i in reversed(range(len(overrides))):
        data = copy.deepcopy(file)
        try:
            for assignment in [*overrides[:i], *overrides[i + 1 :]]:
                _assign(data, cls, assignment)
            from_dict(cls, data, where)
        except ConfigError as error:
            if str(error) == said or said.endswith("is missing, and it has no default"):
                continue
        return f"{overrides[i]!r}: {said.removeprefix(where).removeprefix(': ')}"
    return said


def _source(leaf: str, given: Mapping[str, str]) -> str:
    """Where a leaf came from: the last that set it, or a part of it."""
    return next((source for path, source in reversed(list(given.items())) if _is_under(path, leaf)), "default")


def explain(obj: Any, sources: Mapping[str, str]) -> str:
    """Every value of a configuration with where it came from, one a line: what `--explain` prints."""
    leaves = dict(_leaves(to_dict(obj)))
    shown = [(path, json.dumps(value, ensure_ascii=False)) for path, value in leaves.items()]
    left = max((len(path) for path, _ in shown), default=0)
    right = min(40, max((len(value) for _, value in shown), default=0))
    return "\n".join(f"{path:<{left}} = {value:<{right}}  # {sources.get(path, 'default')}" for path, value in shown)


def find_differences(old: Any, new: Any) -> dict[str, str]:
    """How two configurations differ: `old -> new` by the path of each value that is not the same."""
    before, after = (dict(_leaves(to_dict(obj))) for obj in (old, new))

    def show_leaf(leaves: dict[str, Any], path: str) -> str:
        return json.dumps(leaves[path], ensure_ascii=False) if path in leaves else "nothing"

    paths = [path for path in {**before, **after} if show_leaf(before, path) != show_leaf(after, path)]
    return {path: f"{show_leaf(before, path)} -> {show_leaf(after, path)}" for path in paths}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The (path, value) pairs of plain values, going into objects and into lists of objects."""
    if isinstance(value, dict) and (value or not path):
        inside = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        inside = list(enumerate(value))
    else:
        yield path, value
        return
    for key, item in inside:
        yield from _leaves(item, _join(path, key))


def _leaf_paths(value: Any, path: str = "") -> list[str]:
    return [leaf for leaf, _ in _leaves(value, path)]


def _is_under(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor}.")


def _fields(cls: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a value of `kind` may have; text comes last, since any word is one."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return (kind,)
    return tuple(sorted(typing.get_args(kind), key=lambda member: member is str))


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _item_types(kind: Any, length: int) -> tuple[Any, ...]:
    items = typing.get_args(kind)
    return items[:1] * length if items[-1:] == (Ellipsis,) else items


def _join(path: str, step: str | int) -> str:
    return f"{path}.{step}" if path else str(step)


def _at(where: str, path: str, sentence: str) -> str:
    return ": ".join(part for part in (where, path, sentence) if part)


def _unknown(key: str, fields: list[str]) -> str:
    near = difflib.get_close_matches(key, fields, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"there is no field {key!r}{hint}; the fields are {', '.join(fields)}"


_NAMES = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false", types.NoneType: "null"}


def _describe_type(kind: Any) -> str:
    def name(member: Any) -> str:
        if typing.get_origin(member) is typing.Literal:
            return "one of " + ", ".join(repr(choice) for choice in typing.get_args(member))
        return _NAMES.get(member) or ("a list [...]" if _is_tuple(member) else "an object {...}")

    return " or ".join(name(member) for member in _members(kind))


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return f"the string {shown[:60]}" if isinstance(value, str) else shown[:60]
