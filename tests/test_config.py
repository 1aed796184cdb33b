"""Strict reading, overriding and explaining of configurations, on classes made for the test."""

import dataclasses
import json
import math
from typing import Literal

import pytest

from vishwamai import config
from vishwamai.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    theta: float = 10000.0
    scaling: Literal["none", "linear"] = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    window: int | None = None
    rope: Rope = Rope()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    pattern: tuple[Layer, ...]
    repeats: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    n_heads: int
    n_kv_heads: int = 1
    stacks: tuple[Stack, ...] = ()
    tied: bool = False

    def __post_init__(self):
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    path: str | None = None
    every: int | str = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    model: Model = Model(n_heads=4, n_kv_heads=2)
    name: str = "run"
    rate: float = 1e-3
    logging: Logging | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    files: tuple[str, ...] = ()


FULL = Run(
    model=Model(n_heads=8, stacks=(Stack(pattern=(Layer(window=4), Layer(rope=Rope(scaling="linear"))), repeats=3),)),
    logging=Logging(path="out"),
    files=("a", "b"),
)


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_round_trip_through_json():
    again = config.from_dict(Run, json.loads(json.dumps(config.to_dict(FULL))))
    assert again == FULL and hash(again) == hash(FULL)
    assert config.from_dict(Run, {}) == Run()


def test_an_integer_serves_where_a_float_is_wanted():
    rate = config.from_dict(Run, {"rate": 1}).rate
    assert type(rate) is float and rate == 1.0


@pytest.mark.parametrize(
    ("data", "place", "sentence"),
    [
        ({"model": {"n_heads": True}}, "model.n_heads", "must be an integer, not true"),
        ({"model": {"n_heads": 4.0}}, "model.n_heads", "must be an integer, not 4.0"),
        ({"model": {"n_heads": "4"}}, "model.n_heads", 'must be an integer, not the string "4"'),
        ({"model": {"n_heads": None}}, "model.n_heads", "must be an integer, not null"),
        ({"model": {}}, "model.n_heads", "is missing"),
        ({"model": [1]}, "model", "must be an object {...}, not a list"),
        ({"model": {"n_heads": 4, "tied": 1}}, "model.tied", "must be true or false, not 1"),
        ({"model": {"n_heads": 4, "n_kv_heads": 3}}, "model", "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"rate": math.nan}, "rate", "must be a finite number, not NaN"),
        ({"rate": True}, "rate", "must be a finite number, not true"),
        ({"rate": 10**400}, "rate", "must be a finite number"),
        ({"name": 3}, "name", "must be a string, not 3"),
        ({"betas": [0.9]}, "betas", "must hold 2 values, not 1"),
        ({"betas": 0.9}, "betas", "must be a list"),
        ({"files": ["a", 1]}, "files.1", "must be a string, not 1"),
        ({"logging": 1}, "logging", "must be an object {...} or null, not 1"),
        ({"logging": {"every": 1.5}}, "logging.every", "must be an integer or a string, not 1.5"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(data, place, sentence):
    message = refusal(config.from_dict, Run, data, "run.json")
    assert message.startswith(f"run.json: {place}: ") and sentence in message


def test_a_wrong_value_deep_in_tuples_is_refused_with_its_place():
    data = config.to_dict(FULL)
    data["model"]["stacks"][0]["pattern"][1]["rope"]["scaling"] = "yarn"
    message = refusal(config.from_dict, Run, data)
    assert message == (
        "model.stacks.0.pattern.1.rope.scaling: must be one of 'none', 'linear', not the string \"yarn\""
    )


def test_an_unknown_key_is_refused_and_the_fields_listed():
    message = refusal(config.from_dict, Run, {"model": {"n_heads": 4, "n_kv_head": 2}}, "run.json")
    assert message == (
        "run.json: model: there is no field 'n_kv_head' (did you mean 'n_kv_heads'?); "
        "the fields are n_heads, n_kv_heads, stacks, tied"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1,\n "b": NaN}', "line 2: holds NaN"),
        ('{"a": [1,\n\n -Infinity]}', "line 3: holds -Infinity"),
        ('{"a": 1e999}', "line 1: holds 1e999"),
        ('{"a": {"b": 1,\n "b": 2}}', "line 2: says the key 'b' twice"),
        ('{"b": 1, "\\u0062": 2}', "says the key 'b' twice"),
        ('{"a": 1,\n}', "line 2: is not JSON"),
        ('{"a": 1} {"b": 2}', "line 1: is not JSON"),
        ("[1]", "line 1: holds a list where an object"),
        ("", "line 1: is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ('{"a": ' + "[" * 32 + "]" * 32 + "}", "deeper than 32 levels"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "deeper than 32 levels"),
        ('{"a": ' + "9" * 5000 + "}", "line 1: holds a number of thousands of digits"),
    ],
)
def test_json_that_is_not_strict_is_refused(tmp_path, text, sentence):
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    message = refusal(config.load_json, path)
    assert message.startswith(f"{path}: ") and sentence in message


def test_json_that_only_looks_wrong_is_read(tmp_path):
    text = r'{"NaN": "Infinity {[", "a\"}": {"NaN": [{"x": 1}, {"x": -2.5e-3}]}, "deep": ' + "[" * 31 + "]" * 31 + "}"
    (tmp_path / "run.json").write_text(text)
    assert config.load_json(tmp_path / "run.json") == json.loads(text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "No such file" in refusal(config.load_json, tmp_path / "none.json")
    assert "cannot be read" in refusal(config.load_json, tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"a":\n "\xe9"}')
    assert "line 2: is not UTF-8" in refusal(config.load_json, tmp_path / "latin.json")
    (tmp_path / "large.json").write_bytes(b'{"a": "' + b"x" * 200 + b'"}')
    assert "over 100 bytes" in refusal(config.load_json, tmp_path / "large.json", max_bytes=100)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("model.n_heads=6", "model.n_heads", 6),
        ("rate=3e-4", "rate", 3e-4),
        ("rate=1", "rate", 1.0),
        ("name=7", "name", "7"),
        ("name=a=b", "name", "a=b"),
        ("name=none", "name", "none"),
        ('name="7"', "name", "7"),
        ('name=" a b "', "name", " a b "),
        ('name="', "name", '"'),
        ('name=say "hi"', "name", 'say "hi"'),
        ('logging.path="none"', "logging.path", "none"),
        ('logging.every="5"', "logging.every", "5"),
        ("model.tied=true", "model.tied", True),
        ("logging.path=none", "logging.path", None),
        ("logging.every=5", "logging.every", 5),
        ("logging.every=often", "logging.every", "often"),
        ("betas=[0, 1]", "betas", (0.0, 1.0)),
        ("betas.1=0.99", "betas.1", 0.99),
        ('files=["x"]', "files", ("x",)),
        ("model.stacks.0.pattern.1.rope.theta=5", "model.stacks.0.pattern.1.rope.theta", 5.0),
        ('logging={"every": 3}', "logging", Logging(every=3)),
    ],
)
def test_an_override_sets_one_value(assignment, path, value):
    changed = config.override(FULL, assignment)
    found = changed
    for step in path.split("."):
        found = found[int(step)] if step.isdecimal() else getattr(found, step)
    assert found == value and type(found) is type(value)
    assert len([p for p, v in leaves(changed).items() if leaves(FULL).get(p, ...) != v]) <= 2


def leaves(run: Run) -> dict:
    return dict(config._leaves(config.to_dict(run)))


@dataclasses.dataclass(frozen=True)
class Bounds:
    value: float | None


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "wanted"),
    [
        ({"least": 1}, [1, 2], [0.9], "1 or more"),
        ({"above": 0}, [0.1], [0, -1], "more than 0"),
        ({"most": 5}, [5, -9], [5.1], "at most 5"),
        ({"below": 5}, [4.9], [5], "less than 5"),
        ({"least": 0, "most": 1}, [0, 1], [-0.1, 1.1], "from 0 to 1"),
        ({"least": 0, "below": 1}, [0, 0.9], [-0.1, 1], "0 or more and less than 1"),
        ({"above": 0, "most": 1}, [0.1, 1], [0, 1.1], "more than 0 and at most 1"),
        ({}, [-9, 9], [math.inf, math.nan], "a finite number"),
    ],
    ids=str,
)
def test_a_number_out_of_bounds_is_refused_with_them(bounds, inside, outside, wanted):
    for value in [*inside, None]:
        config.check_numbers(Bounds(value), "value", **bounds)
    for value in outside:
        said = refusal(config.check_numbers, Bounds(value), "value", section="training.", **bounds)
        assert said == f"training.value is {value}; it must be {wanted}"


def test_an_override_begins_an_optional_section():
    assert config.override(Run(), "logging.path=x").logging == Logging(path="x")


def test_overrides_are_checked_together():
    assert config.override(Run(), "model.n_heads=9", "model.n_kv_heads=3").model.n_heads == 9
    assert "not a multiple" in refusal(config.override, Run(), "model.n_heads=9")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("model.n_head=4", "did you mean 'n_heads'?"),
        ("rate", "not of the form section.field=value"),
        ("=3", "not of the form"),
        ("model..n_heads=3", "not of the form"),
        ("model.n_heads=4.5", "must be an integer, not '4.5'"),
        ("model.tied=yes", "must be true or false, not 'yes'"),
        ("rate=nan", "must be a finite number, not 'nan'"),
        ("rate=NaN", "must be a finite number, not 'NaN'"),
        ("rate=Infinity", "must be a finite number"),
        ("rate=", "must be a finite number, not ''"),
        ("name.first=x", 'name is the string "run", and has nothing below it'),
        ("model.stacks.7.repeats=1", "7 is no place in a list of 1"),
        ("model.stacks.first.repeats=1", "first is no place"),
        ('logging={"every": 1, "every": 2}', "says the key 'every' twice"),
        ("model={}", "n_heads: is missing"),
    ],
)
def test_an_override_that_cannot_be_is_refused(assignment, sentence):
    assert sentence in refusal(config.override, FULL, assignment)


def test_load_layers_file_over_defaults_and_overrides_over_the_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"model": {"n_heads": 8}, "rate": 0.5, "betas": [0, 1]}))
    run, sources = config.load(Run, path, ["rate=0.25", "logging.path=x", "model.n_kv_heads=4"])
    assert run == Run(model=Model(n_heads=8, n_kv_heads=4), rate=0.25, betas=(0.0, 1.0), logging=Logging(path="x"))
    assert sources == {
        "model.n_heads": f"file {path}",
        "model.n_kv_heads": "override model.n_kv_heads=4",
        "model.stacks": "default",
        "model.tied": "default",
        "name": "default",
        "rate": "override rate=0.25",
        "logging.path": "override logging.path=x",
        "logging.every": "default",
        "betas": f"file {path}",
        "files": "default",
    }
    shown = config.explain(run, sources).splitlines()
    assert len(shown) == len(sources)
    assert any(line.split() == ["rate", "=", "0.25", "#", "override", "rate=0.25"] for line in shown)


@pytest.mark.parametrize(
    ("overrides", "sources"),
    [
        (["betas.1=0.5"], {"betas": "override betas.1=0.5", "rate": "file"}),
        (["betas.1=0.5", "betas=[0, 0]"], {"betas": "override betas=[0, 0]"}),
        (["rate=1", "rate=2"], {"rate": "override rate=2", "betas": "file"}),
        (["logging={}"], {"logging.path": "default", "logging.every": "default"}),
        (["logging=none"], {"logging": "override logging=none"}),
        (["logging=none", "logging.every=3"], {"logging.every": "override logging.every=3", "logging.path": "default"}),
        (['logging={"every": 3}'], {"logging.every": 'override logging={"every": 3}', "logging.path": "default"}),
        (["files.0=x"], {"files": "override files.0=x"}),
    ],
)
def test_a_source_is_that_of_the_last_that_set_a_value_or_a_part_of_it(tmp_path, overrides, sources):
    path = tmp_path / "run.json"
    told = {"rate": 0.5, "betas": [0, 1], "logging": {"path": "here", "every": 1}, "files": ["a", "b"]}
    path.write_text(json.dumps(told))
    found = config.load(Run, path, overrides)[1]
    assert {leaf: found.get(leaf) for leaf in sources} == {
        leaf: f"file {path}" if source == "file" else source for leaf, source in sources.items()
    }


def test_an_override_keeps_the_rest_of_a_defaulted_section():
    run, _ = config.load(Run, None, ["model.tied=true"])
    assert run.model == Model(n_heads=4, n_kv_heads=2, tied=True)


def test_an_override_is_blamed_for_its_own_value(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"model": {"n_heads": 8, "n_kv_heads": 4}}')
    said = "model: n_heads 9 is not a multiple of n_kv_heads 4"
    assert refusal(config.load, Run, path, ["rate=1", "model.n_heads=9", "name=x"]) == f"'model.n_heads=9': {said}"
    assert refusal(config.load, Run, None, ["model.n_heads=9"]) == "'model.n_heads=9': " + said.replace("4", "2")
    assert refusal(config.load, Model, None, ["tied=true"]) == "n_heads: is missing, and it has no default"
    assert refusal(config.load, Run, None, ["model={}"]).startswith("'model={}': model.n_heads: is missing")
    path.write_text('{"model": {"n_heads": 9, "n_kv_heads": 4}}')
    assert refusal(config.load, Run, path, ["rate=1", "name=x"]) == f"{path}: {said}"


def test_an_override_does_not_hide_a_bad_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"model": "large"}')
    assert 'model is the string "large"' in refusal(config.load, Run, path, ["model.n_heads=2"])
    path.write_text('{"model": {"n_heads": "x"}}')
    message = refusal(config.load, Run, path, ["model.tied=true"])
    assert message.startswith(f"{path}: model.n_heads: must be an integer")
