"""safetensors files: read what the reference library writes, write what it reads, and refuse what is damaged."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest

from vishwamai.errors import CheckpointError
from vishwamai.hf import safetensors
from vishwamai.hf.safetensors import LazyTensor, read_folder, read_header, write_folder

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.half": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16),
    "c": np.array([[1, -1]], np.int64),
    "d": np.array(0.5, np.float16),
    "e8": np.array([0.5, 448.0], ml_dtypes.float8_e4m3fn),
}


def values(tensors):
    return {name: np.array(t.view(safetensors.open_map(t.path))) for name, t in tensors.items()}


def outgoing(arrays):
    return [LazyTensor(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()]


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        assert found[name].tobytes() == x.tobytes()


def raw(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(begin, end, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_what_is_written_is_read(tmp_path):
    write_folder(tmp_path, outgoing(ARRAYS), max_file_bytes=10**6)
    assert_equal(values(read_folder(tmp_path)), ARRAYS)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_several_files_and_their_index(tmp_path):
    write_folder(tmp_path, outgoing(ARRAYS), max_file_bytes=20)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == ARRAYS.keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in ARRAYS.values())
    assert not (tmp_path / "model.safetensors").exists()
    assert_equal(values(read_folder(tmp_path)), ARRAYS)


def test_a_second_save_leaves_nothing_of_the_first(tmp_path):
    write_folder(tmp_path, outgoing(ARRAYS), max_file_bytes=20)
    write_folder(tmp_path, outgoing({"z": np.zeros(3, np.float32)}), max_file_bytes=10**6)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_reference_library_reads_ours_and_we_read_its(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the package safetensors comes with transformers only")
    arrays = {k: x for k, x in ARRAYS.items() if k != "e8"}
    write_folder(tmp_path, outgoing(arrays), max_file_bytes=10**6)
    assert_equal(library.load_file(tmp_path / "model.safetensors"), arrays)
    library.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert_equal(values(read_header(tmp_path / "theirs.safetensors")), arrays)


ONE = {"x": entry(0, 4)}
DAMAGED = {
    "empty": (b"", "is damaged or no safetensors file"),
    "a few bytes": (b"\x01\x02", "is damaged or no safetensors file"),
    "header of 2^63": (raw(ONE, b"0123", 2**63), "is damaged or no safetensors file"),
    "header past the end": (raw(ONE, b"0123", 200_000_000), "is damaged or no safetensors file"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94." + b"x" * 40, "no safetensors file"),
    "no JSON": (raw(b"{'x': 1}"), "is not JSON"),
    "no object": (raw(b"[1, 2]"), "where an object"),
    "no UTF-8": (raw(b'{"\xff": 1}'), "not UTF-8"),
    "deep": (raw(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested deeper"),
    "name twice": (raw(b'{"x":' + json.dumps(ONE["x"]).encode() + b',"x":{}}', b"0123"), "twice"),
    "name of a path": (raw({"../../x": entry(0, 4)}, b"0123"), "no name for a tensor"),
    "name with NUL": (raw({"x\0y": entry(0, 4)}, b"0123"), "no name for a tensor"),
    "name without end": (raw({"x" * 5000: entry(0, 4)}, b"0123"), "no name for a tensor"),
    "no entry": (raw({"x": 4}, b"0123"), "dtype, shape and data_offsets"),
    "other keys": (raw({"x": entry(0, 4) | {"z": 1}}, b"0123"), "dtype, shape and data_offsets"),
    "unknown dtype": (raw({"x": entry(0, 4, dtype="F7")}, b"0123"), "dtype 'F7' is not known"),
    "negative size": (raw({"x": entry(0, 4, [-4])}, b"0123"), "whole numbers"),
    "size true": (raw({"x": entry(0, 1, [True])}, b"0"), "whole numbers"),
    "three offsets": (raw({"x": entry(0, 4) | {"data_offsets": [0, 2, 4]}}, b"0123"), "whole numbers"),
    "huge product": (raw({"x": entry(0, 0, [2**61, 2**61])}), "does not take"),
    "wrong length": (raw({"x": entry(0, 4, [3])}, b"0123"), r"U8 of shape \[3\] does not take the 4 bytes"),
    "reversed": (raw({"x": entry(4, 0)}, b"0123"), "whole numbers|does not take"),
    "overlap": (raw({"x": entry(0, 4), "y": entry(2, 6)}, b"012345"), "'y': its data overlaps"),
    "hole": (raw({"x": entry(0, 2), "y": entry(4, 6)}, b"012345"), "'y': its data leaves a hole"),
    "truncated": (raw(ONE, b"01"), "is truncated: tensor 'x'"),
    "trailing": (raw(ONE, b"0123PK\x03\x04"), "4 bytes after its last tensor"),
    "infinite number": (raw(b'{"x": 1e999}'), "not a finite number"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_and_named(case, tmp_path):
    content, message = DAMAGED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_folder(tmp_path)
    assert "model.safetensors" in str(raised.value)


def indexed(folder, weight_map, **files):
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


X, Y = raw({"x": entry(0, 4)}, b"0123"), raw({"y": entry(0, 4)}, b"0123")


def test_a_file_of_too_many_tensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 10)
    (tmp_path / "model.safetensors").write_bytes(raw({f"x{i}": entry(0, 0) for i in range(11)}))
    with pytest.raises(CheckpointError, match="claims 11 tensors, more than 10"):
        read_folder(tmp_path)


INDEXES = {
    "path": ({"x": "../../etc/passwd"}, "'../../etc/passwd' is not a plain file name"),
    "absolute": ({"x": "/etc/passwd"}, "not a plain file name"),
    "newline": ({"x": "a\n.safetensors"}, "not a plain file name"),
    "right to left": ({"x": "a\u202e.safetensors"}, "not a plain file name"),
    "missing file": ({"x": "a.safetensors", "z": "c.safetensors"}, "no file c.safetensors"),
    "missing tensor": ({"x": "a.safetensors", "z": "a.safetensors"}, "a.safetensors: the tensor 'z'"),
    "unlisted tensor": ({"x": "a.safetensors", "z": "b.safetensors"}, "b.safetensors: holds tensor 'y'"),
    "number": ({"x": 3}, "must map tensors to file names"),
    "no map": (None, "must map tensors to file names"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_does_not_fit_is_refused(case, tmp_path):
    weight_map, message = INDEXES[case]
    indexed(tmp_path, weight_map, a=X, b=Y)
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    two = raw({"x": entry(0, 4), "y": entry(4, 8)}, b"01234567")
    indexed(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"}, a=X, b=two)
    with pytest.raises(CheckpointError, match="'x' is in both a.safetensors and b.safetensors"):
        read_folder(tmp_path)


def test_a_link_out_of_the_folder_and_a_pipe_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(X)
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        read_folder(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_folder(folder)


def test_a_folder_without_weights_says_so_and_pickles_are_never_read(tmp_path):
    with pytest.raises(CheckpointError, match="there are no weights"):
        read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle, which is never read"):
        read_folder(tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_folder(tmp_path, outgoing(ARRAYS), max_file_bytes=10**6)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_folder(tmp_path, [LazyTensor("x", (1,), np.dtype(np.float32), fail)], max_file_bytes=10**6)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
