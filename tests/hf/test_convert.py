"""Conversion tensor by tensor against loading the whole model and saving it: the same bytes."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vishwamai.errors import CheckpointError, ConfigError, InputError
from vishwamai.hf import config, convert, export, safetensors, saving, weights
from vishwamai.hf.safetensors import LazyTensor

spec = importlib.util.spec_from_file_location("stored_cases", Path(__file__).with_name("test_references.py"))
references = importlib.util.module_from_spec(spec)
spec.loader.exec_module(references)

OWN = "vishwamai"
CASES = [  # case, family to write it as (None: its own), dtype (None: as stored)
    ("gpt_oss", None, "bfloat16"),
    ("phi3", OWN, None),
    ("gpt2", None, "float16"),
    ("granitemoe", OWN, "float32"),
    ("qwen3_moe", OWN, "bfloat16"),
    ("gemma2", OWN, "float32"),
    ("deepseek_v3", OWN, "bfloat16"),
    ("llama", "phi3", "bfloat16"),
    ("apertus", None, "bfloat16"),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """`stored(case)`: a folder with a case of the references, in float32."""

    @functools.cache
    def make(case: str) -> Path:
        folder = tmp_path_factory.mktemp(case)
        references.write(folder, references.CASES[case])
        return folder

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save_whole(source: Path, target: Path, model_type: str | None, dtype: str | None) -> None:
    found = config.read_pretrained(source)
    w = weights.load_weights(source, found, dtype=dtype or "float32")
    kind = export.choose_family(found.model, model_type or found.model_type)
    saving.save_model(target, w, found.model, model_type=kind, generation=found.generation)


@pytest.mark.parametrize(("case", "model_type", "dtype"), CASES)
def test_it_writes_what_loading_and_saving_writes(case, model_type, dtype, stored, tmp_path):
    source = stored(case)
    done = convert.convert_checkpoint(source, tmp_path / "a", model_type=model_type, dtype=dtype)
    save_whole(source, tmp_path / "b", model_type, dtype)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert done.size == sum(map(len, contents(tmp_path / "a").values()))


@pytest.mark.parametrize("case", references.CASES)
def test_every_family_goes_into_our_own_format_and_comes_back(case, stored, tmp_path):
    kind = references.CASES[case]["model_type"]
    convert.convert_checkpoint(stored(case), tmp_path / "ours", model_type=OWN)
    convert.convert_checkpoint(tmp_path / "ours", tmp_path / "back", model_type=kind)
    convert.convert_checkpoint(stored(case), tmp_path / "straight")
    assert contents(tmp_path / "back") == contents(tmp_path / "straight")
    given, back = read(stored(case)), read(tmp_path / "back")
    assert given.keys() == back.keys() and all(np.array_equal(x, back[name]) for name, x in given.items())


def read(folder: Path) -> dict[str, np.ndarray]:
    found = safetensors.read_folder(folder)
    return {name: np.array(t.view(safetensors.open_map(t.path))) for name, t in found.items()}


def test_each_tensor_keeps_its_dtype_if_none_is_asked_for(stored, tmp_path):
    source = recast(stored("qwen3_moe"), tmp_path / "mixed", lambda n: "float32" if "norm" in n else "bfloat16")
    assert convert.convert_checkpoint(source, tmp_path / "new").dtype == "bfloat16"
    for name, tensor in safetensors.read_folder(tmp_path / "new").items():
        assert tensor.dtype.name == ("float32" if "norm" in name else "bfloat16"), name
    assert json.loads((tmp_path / "new/config.json").read_text())["dtype"] == "bfloat16"


def test_parts_of_unlike_dtypes_are_joined_in_float32(stored, tmp_path):
    source = recast(stored("llama"), tmp_path / "mixed", lambda n: "float16" if "gate_proj" in n else "bfloat16")
    convert.convert_checkpoint(source, tmp_path / "new", model_type="phi3")
    kinds = {name.rsplit(".", 2)[-2]: t.dtype.name for name, t in safetensors.read_folder(tmp_path / "new").items()}
    assert (kinds["gate_up_proj"], kinds["qkv_proj"]) == ("float32", "bfloat16")


def recast(source: Path, target: Path, dtype_of) -> Path:
    """A copy of a folder whose tensors have other dtypes."""
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    cast = {name: x.astype(safetensors.TENSOR_DTYPES[SHORT[dtype_of(name)]]) for name, x in read(source).items()}
    write(target, cast)
    return target


def write(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    outgoing = [LazyTensor(n, x.shape, x.dtype, lambda x=x: x) for n, x in tensors.items()]
    safetensors.write_folder(folder, outgoing, max_file_bytes=2**30)


SHORT = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def test_float64_is_read_as_loading_reads_it(stored, tmp_path):
    source = recast(stored("llama"), tmp_path / "double", lambda n: "float64")
    tensors = read(source)
    tensors["model.norm.weight"][0] = 1 + 2**-11 + 2**-40  # in float32 it lies between two of float16's numbers
    write(source, tensors)
    convert.convert_checkpoint(source, tmp_path / "a", dtype="float16")
    save_whole(source, tmp_path / "b", None, "float16")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert read(tmp_path / "a")["model.norm.weight"][0] == 1
    assert convert.convert_checkpoint(source, tmp_path / "c").dtype == "float32"


def test_several_files_are_told_of_as_they_are_made(stored, tmp_path):
    told = []
    convert.convert_checkpoint(
        stored("llama"), tmp_path / "a", max_file_bytes=20_000, progress=lambda *n: told.append(n)
    )
    save_whole(stored("llama"), tmp_path / "b", None, None)
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
    assert all(np.array_equal(a, b) for a, b in zip(*(read(tmp_path / x).values() for x in "ab"), strict=True))
    assert told == sorted(told) and told[-1] == (told[0][1], sum(t.nbytes for t in read(tmp_path / "a").values()))


def test_the_tokenizer_is_copied_byte_for_byte(stored, tmp_path):
    source = recast(stored("llama"), tmp_path / "source", lambda n: "bfloat16")
    files = {"tokenizer.json": b'{"a":  1}\r\n', "tokenizer.model": b"\x00\xff", "chat_template.jinja": b"{{ x }}\n"}
    files |= {"special_tokens_map.json": b"{ }", "additional_chat_templates/tools.jinja": b"{{ tools }}"}
    (source / "additional_chat_templates").mkdir()
    for name, raw in (files | {"notes.txt": b"mine"}).items():
        (source / name).write_bytes(raw)
    convert.convert_checkpoint(source, tmp_path / "new")
    assert {name: (tmp_path / "new" / name).read_bytes() for name in files} == files
    assert not (tmp_path / "new/notes.txt").exists()


def test_a_link_out_of_the_folder_is_not_followed(stored, tmp_path):
    source = recast(stored("llama"), tmp_path / "source", lambda n: "bfloat16")
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        convert.convert_checkpoint(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_numbers_beyond_float16_are_refused_and_nothing_is_left(stored, tmp_path):
    source = recast(stored("llama"), tmp_path / "source", lambda n: "float32")
    tensors = read(source)
    tensors["model.norm.weight"][3] = 1e5
    write(source, tensors)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' has numbers that float16 does not hold"):
        convert.convert_checkpoint(source, tmp_path / "new", dtype="float16")
    assert not (tmp_path / "new").exists()
    convert.convert_checkpoint(source, tmp_path / "new", dtype="bfloat16")


def test_an_interrupted_conversion_leaves_nothing(stored, tmp_path):
    def interrupt(done, total):
        if done > total / 2:
            assert any((tmp_path / "new").iterdir()) and not (tmp_path / "new/config.json").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.convert_checkpoint(stored("llama"), tmp_path / "new", max_file_bytes=20_000, progress=interrupt)
    assert not (tmp_path / "new").exists()


def test_config_json_is_the_last_file(stored, tmp_path, monkeypatch):
    written, whole = [], safetensors.write_bytes
    for module in (safetensors, export):
        monkeypatch.setattr(
            module, "write_bytes", lambda path, chunks: (written.append(path.name), whole(path, chunks))
        )
    convert.convert_checkpoint(stored("llama"), tmp_path / "new")
    assert written == ["model.safetensors", "generation_config.json", "config.json"]


def test_targets_that_cannot_be(stored, tmp_path, monkeypatch):
    source = stored("llama")
    for target, message in ((source, "is there already"), (source / "new", "lies in the folder that is read")):
        with pytest.raises(InputError, match=message):
            convert.convert_checkpoint(source, target)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        convert.convert_checkpoint(source, tmp_path / "file/new")
    with pytest.raises(ConfigError, match=r"gemma2 \("):
        convert.convert_checkpoint(source, tmp_path / "new", model_type="gemma2")
    usage = convert.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match="GiB are needed, and 0.00 GiB are free"):
        convert.convert_checkpoint(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


MEASURE = """
import re, sys
from pathlib import Path
from vishwamai.hf import convert
def peak():
    return 1024 * int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace("\\t", " "))[1])
small, large, target, kind = sys.argv[1:]
convert.convert_checkpoint(Path(small), Path(target) / "a", model_type=kind, dtype="float32")
before = peak()
convert.convert_checkpoint(Path(large), Path(target) / "b", model_type=kind, dtype="float32")
print(peak() - before)
"""


@pytest.mark.by_turns
@pytest.mark.parametrize(("case", "kind"), [("llama", "phi3"), ("gpt_oss", OWN)])
def test_memory_is_that_of_a_tensor_and_not_of_the_model(case, kind, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 3000, "num_hidden_layers": 8 if case == "llama" else 2}
    large = grown(case, tmp_path / "large", sizes)
    small = grown(case, tmp_path / "small", {"num_hidden_layers": 1})
    tensors = [t.end - t.start for t in safetensors.read_folder(large).values()]
    command = [sys.executable, "-c", MEASURE, *map(str, (small, large, tmp_path, kind))]
    grew = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout)
    largest = max(t.end - t.start for at in (large, tmp_path / "b") for t in safetensors.read_folder(at).values())
    assert sum(tensors) > 145e6 and grew < 2 * largest + 8e6


def grown(case: str, folder: Path, sizes: dict) -> Path:
    """A case in other sizes and all weights zero."""
    folder.mkdir()
    data = references.CASES[case] | sizes
    data.pop("layer_types", None)
    value, references.value = references.value, lambda name, shape: np.zeros(shape, np.float32)
    try:
        references.write(folder, data)
    finally:
        references.value = value
    return folder
