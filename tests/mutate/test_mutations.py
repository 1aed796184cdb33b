"""The list of mistakes that `make mutate` makes: each is about code that is there, and every switch has one."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from vishwamai.models.config import Latent, Layer, ModelConfig, Rope

HERE = Path(__file__).parent


def runner():
    """The module beside this file."""
    found = importlib.util.spec_from_file_location("mutate", HERE / "mutate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


mutate = runner()
MUTATIONS = list(mutate.mutations())
REFERENCES = json.loads((HERE.parent / "hf" / "references.json").read_text())
SIZES = {"vocab_size", "d_ff", "n_heads", "head_dim", "max_length", "n_experts", "d_expert"}  # tensors would not fit
SIZES |= {"stacks", "latent"}  # these hold switches of their own


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.what.replace(" ", "-"))
def test_a_mistake_is_made_in_one_place_and_leaves_python(mutation):
    source = (mutate.ROOT / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1 and mutation.old != mutation.new
    compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert mutation.cases and {case.split(":")[-1] for case in mutation.cases} <= REFERENCES.keys()


def test_every_switch_of_a_model_has_a_mistake():
    fields = {field.name for cls in (ModelConfig, Rope, Latent, Layer) for field in dataclasses.fields(cls)}
    assert {mutation.switch for mutation in MUTATIONS} == fields - SIZES
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS) >= 45
