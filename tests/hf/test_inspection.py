"""What is told of a folder without its weights: counts against loading, and every problem of a spoilt one at once."""

import importlib.util
import json
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from vishwamai import hub
from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf import config, inspection, safetensors, saving, weights
from vishwamai.hf.folder import Folder
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import cost

loaded = importlib.util.spec_from_file_location("written_cases", Path(__file__).with_name("test_references.py"))
references = importlib.util.module_from_spec(loaded)
loaded.loader.exec_module(references)

CASE = references.CASES["gemma2"]


@pytest.fixture
def folder(tmp_path):
    """A Gemma 2 that a test may spoil."""
    references.write(tmp_path, CASE)
    return tmp_path


def change(folder, **values):
    (folder / "config.json").write_text(json.dumps(CASE | values))


def rewrite(folder, spoil):
    found = safetensors.read_folder(folder)
    tensors = {name: np.array(t.view(safetensors.open_map(t.path))) for name, t in found.items()}
    spoil(tensors)
    outgoing = [LazyTensor(n, x.shape, x.dtype, lambda x=x: x) for n, x in tensors.items()]
    safetensors.write_folder(folder, outgoing, max_file_bytes=2**30)


def problems(folder):
    return {problem.name: problem.why for problem in inspection.inspect_checkpoint(folder).problems}


@pytest.mark.parametrize("case", references.CASES)
def test_every_family_is_supported_and_counted_as_its_files_are(case, tmp_path):
    references.write(tmp_path, references.CASES[case])
    found = inspection.inspect_checkpoint(tmp_path)
    assert found.problems == () and not found.partial
    assert found.model_type == references.CASES[case]["model_type"]
    [stored] = found.stored
    tensors = safetensors.read_folder(tmp_path)
    assert (stored.dtype, stored.tensors) == ("float32", len(tensors))
    assert stored.numbers == found.parameters["total"] == stored.size // 4
    assert sum(found.parameters.values()) == 2 * stored.numbers + found.parameters["active for a token"]
    memory = found.memory["weights"]
    assert (memory["float32"], memory["bfloat16"]) == (stored.size, stored.size // 2)
    assert memory["int4"] <= memory["int8"] == memory["fp8"] <= memory["bfloat16"]


def test_switches_are_what_differs_from_the_defaults(folder):
    found = inspection.inspect_checkpoint(folder, batch=3, length=7)
    assert found.switches["attn_softcap"] == 0.7 and found.switches["post_norms"] is True
    assert "qk_norm" not in found.switches and found.switches["rope"] == {"theta": 10000.0}
    assert found.layers == ["1 x (window 5)", "1 x (full)", "1 x (window 5)"]
    cfg = config.read_pretrained(folder).model
    assert found.memory["cache, 3 x 7"]["bfloat16"] == cost.cache_bytes(cfg, 3, 7)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (
            {"torch_dtype": "bfloat16"},
            "it is loaded in bfloat16, and in float32 on a CPU: the checkpoint's bfloat16 is",
        ),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, "it is loaded in bfloat16, and in float32 on a CPU"),
        ({"dtype": "float16"}, "it is loaded in float16"),
        ({"dtype": "torch.float32"}, "it is loaded in float32"),
        ({"torch_dtype": "auto"}, "it is loaded in float32"),  # as its numbers are stored
        ({"dtype": "float64"}, "it is loaded in float32"),
    ],
    ids=str,
)
def test_the_dtype_that_it_is_loaded_in(folder, values, note):
    change(folder, **values)
    [found] = inspection.inspect_checkpoint(folder).notes
    assert found.startswith(note) and (", and" in found) == (", and" in note)


def test_what_of_generating_is_not_followed(folder):
    (folder / "generation_config.json").write_text('{"suppress_tokens": [3], "eos_token_id": 2}')
    assert (
        inspection.inspect_checkpoint(folder).notes[1]
        == "in generating it asks for suppress_tokens=[3], which is not followed"
    )


def test_kinds_of_positions_are_told_apart(tmp_path):
    references.write(tmp_path, references.CASES["gemma3_text"])
    found = inspection.inspect_checkpoint(tmp_path)
    assert found.switches["rope 1"] == {"theta": 50.0} and found.switches["rope 2"]["scaling"] == "linear"
    assert found.layers[0].startswith("2 x (window 5 rope 1, window 5 rope 1, full rope 2)")
    references.write(tmp_path, references.CASES["smollm3"])
    assert "full without positions" in inspection.inspect_checkpoint(tmp_path).layers[0]


def test_all_attributes_that_are_not_supported_are_told_at_once(folder):
    change(folder, auto_map={"AutoModel": "x.Y"}, banana=3, hidden_activation="relu", rms_norm_eps=-1, head_dim="16")
    found = inspection.inspect_checkpoint(folder)
    assert {p.name: p.why for p in found.problems} == {
        "auto_map": "names code to be run from the checkpoint, which is never done",
        "banana": "is not known for gemma2, so it is not loaded",
        "hidden_activation": "is 'relu'; only 'gelu_pytorch_tanh' is known",
        "rms_norm_eps": "is -1; it must lie in 1e-30..1000000000000.0",
        "head_dim": "must be a whole number, not '16'",
    }
    assert not found.parameters and found.stored[0].tensors == len(safetensors.read_folder(folder))
    assert {p.value for p in found.problems} >= {"3", "'relu'", "-1", "'16'"}


def test_the_raised_error_is_the_first_of_those_that_are_told(folder):
    change(folder, banana=3, mango=4)
    first, second = list(config.config_problems(folder))
    with pytest.raises(ConfigError, match=f"config.json: 'banana' {first.why}"):
        config.read_pretrained(folder)
    assert second.name == "mango"


def test_what_is_left_is_counted_without_what_is_not_supported(folder):
    whole = inspection.inspect_checkpoint(folder)
    change(folder, quantization_config={"quant_method": "awq"}, hidden_activation="relu")
    found = inspection.inspect_checkpoint(folder)
    assert found.partial and found.parameters == whole.parameters and found.stored == whole.stored
    assert {p.name for p in found.problems} == {"quantization_config", "hidden_activation"}
    change(folder, hidden_size=None)
    found = inspection.inspect_checkpoint(folder)
    assert not found.partial and not found.parameters and found.stored == whole.stored


def test_values_that_contradict_one_another(folder):
    change(folder, num_key_value_heads=3, eos_token_id=["x"], banana=1)
    found = inspection.inspect_checkpoint(folder)
    assert [p.name for p in found.problems] == ["banana", "config.json", "config.json"]
    assert "n_heads 4 is not a multiple of n_kv_heads 3" in found.problems[1].why
    assert "eos_token_id" in found.problems[2].why and str(folder) not in found.problems[1].why
    assert not found.parameters


def test_an_attribute_of_a_text_model_inside_is_named(tmp_path):
    text = references.CASES["gemma3_text"] | {"banana": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert list(problems(tmp_path)) == ["text_config.banana"]


AT = "model.layers.1."


def test_all_tensors_that_do_not_fit_are_told_at_once(folder):
    def spoil(tensors):
        del tensors[AT + "mlp.up_proj.weight"]
        tensors["visual.x"] = np.zeros(3, np.float32)
        tensors[AT + "self_attn.q_proj.weight"] = np.zeros((2, 3), np.float32)
        tensors[AT + "self_attn.k_proj.weight"] = tensors[AT + "self_attn.k_proj.weight"].astype(np.int8)

    rewrite(folder, spoil)
    assert problems(folder) == {
        AT + "mlp.up_proj.weight": "missing from the weights",
        "visual.x": "in the weights, and the configuration has no place for it",
        AT + "self_attn.q_proj.weight": "of shape [2, 3] in the file, and [64, 32] by the configuration",
        AT + "self_attn.k_proj.weight": "int8, which is not read as weights",
    }
    with pytest.raises(CheckpointError, match="up_proj.weight' is missing from the weights"):
        weights.load_weights(folder, config.read_pretrained(folder))
    by_name = {problem.name: problem for problem in inspection.inspect_checkpoint(folder).problems}
    assert by_name["visual.x"].value == "float32 [3]"
    assert [row.dtype for row in inspection.inspect_checkpoint(folder).stored] == ["float32", "int8"]


def test_an_unknown_family_is_named_and_its_tensors_are_counted(folder):
    change(folder, model_type="mamba")
    found = inspection.inspect_checkpoint(folder)
    assert found.model_type == "mamba" and not found.parameters and found.stored[0].size > 0
    [problem] = found.problems
    assert "'mamba' is not known; known are LlamaForCausalLM (llama)" in problem.why
    for wrong in (None, 5, ["llama"]):
        change(folder, model_type=wrong)
        assert "must name the architecture" in problems(folder)["config.json"]


def test_no_value_is_read(folder, monkeypatch):
    monkeypatch.setattr(Folder, "view", lambda *_: pytest.fail("a value was read"))
    monkeypatch.setattr(safetensors.Tensor, "view", lambda *_: pytest.fail("a value was read"))
    rewrite_header_only(folder)
    assert inspection.inspect_checkpoint(folder).problems == ()


def rewrite_header_only(folder):
    """The file's values become holes that are never written: a header and a length."""
    path = folder / "model.safetensors"
    raw, size = path.read_bytes(), path.stat().st_size
    with path.open("wb") as file:
        file.write(raw[: 8 + struct.unpack("<Q", raw[:8])[0]])
        file.truncate(size)


def test_damaged_weights_are_a_problem_and_no_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    found = inspection.inspect_checkpoint(folder)
    assert found.parameters and found.stored == [] and "truncated" in problems(folder)["weights"]
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "is a pickle, which is never read" in problems(folder)["weights"]
    (folder / "pytorch_model.bin").unlink()
    assert inspection.inspect_checkpoint(folder).stored is None and problems(folder) == {}


def test_a_cached_repository_without_its_weights_is_no_problem(folder, tmp_path_factory):
    snapshot = tmp_path_factory.mktemp("hub") / "snapshots" / "0" / "x"
    snapshot = snapshot.parent.parent / ("0" * 40)
    shutil.copytree(folder, snapshot)
    assert inspection.inspect_checkpoint(snapshot).stored
    (snapshot / "model.safetensors").unlink()
    (snapshot / hub.INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert inspection.inspect_checkpoint(snapshot).stored is None and problems(snapshot) == {}


def test_our_own_format(folder, tmp_path_factory):
    w, found, own = (
        weights.load_weights(folder, config.read_pretrained(folder)),
        config.read_pretrained(folder),
        tmp_path_factory.mktemp("own"),
    )
    saving.save_model(own, w, found.model, model_type="vishwamai")
    assert (
        inspection.inspect_checkpoint(own).problems == ()
        and inspection.inspect_checkpoint(own).switches["attn_softcap"] == 0.7
    )
    data = json.loads((own / "config.json").read_text())
    data["model"]["banana"] = 1
    (own / "config.json").write_text(json.dumps(data))
    assert "there is no field 'banana'" in problems(own)["config.json"]


def test_a_configuration_alone(folder):
    cfg = config.read_pretrained(folder).model
    found = inspection.inspect_model(cfg, length=9)
    assert found.parameters["total"] == sum(
        x.size for x in jax.tree.leaves(weights.load_weights(folder, config.read_pretrained(folder)))
    )
    assert found.stored is None and "cache, 1 x 9" in found.memory
