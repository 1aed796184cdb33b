"""The header of a GGUF file against files of the package `gguf`, and what is said of damaged ones.

The fuzz mutates small files, seeded: whatever comes of it is a header or a sentence.
"""

import re
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from vishwamai.errors import CheckpointError
from vishwamai.gguf_header import TYPES, read_header

VALUES = {
    "general.architecture": "llama",
    "a.count": 7,
    "a.scale": 0.5,
    "a.flag": True,
    "a.name": "größer",
    "a.texts": ["", "Ġa", "日本"],
    "a.numbers": [1, -2, 3],
    "a.scales": [0.25, -1.0],
    "a.flags": [True, False],
}


def write(path: Path, *, tensors: dict[str, np.ndarray] | None = None, **options) -> Path:
    """A file by the package's writer: the values above, and tensors."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_uint32("a.count", 7)
    writer.add_float32("a.scale", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_string("a.name", "größer")
    for key in ("a.texts", "a.numbers", "a.scales", "a.flags"):
        writer.add_array(key, VALUES[key])
    if tensors is None:
        rng = np.random.default_rng(0)
        tensors = {"one.weight": rng.normal(size=(3, 32)).astype(np.float32), "two": np.ones(5, np.float16)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    quantised = gguf.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("three.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def hand_made(path: Path, *, keys: bytes = b"", n_keys: int = 0, tensors: bytes = b"", n_tensors: int = 0, data=b""):
    """A file of these bytes, the data at a multiple of 32."""
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + tensors
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def tensor(name: str | bytes = "t", shape=(32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def test_the_types_are_those_of_the_package():
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: theirs[number] for number in TYPES} == {n: (t.name, t.block, t.size) for n, t in TYPES.items()}


def test_metadata_has_plain_values(model):
    found = read_header(model).metadata
    for key, value in VALUES.items():
        assert np.asarray(found[key]).tolist() == value and type(found[key]) in (type(value), np.ndarray)
    assert isinstance(found["a.numbers"], np.ndarray) and found["a.flags"].dtype == np.bool_
    assert isinstance(found["a.texts"], list)


def test_every_number_of_metadata(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    cases = {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4 * 10**9, "int32": -(2 * 10**9)}
    cases |= {"uint64": 2**63, "int64": -(2**62), "float32": 0.5, "float64": 0.1}
    for kind, value in cases.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_header(tmp_path / "m.gguf").metadata
    assert {kind: found[kind] for kind in cases} == cases
    assert all(type(found[kind]) is type(value) for kind, value in cases.items())


def test_tensors_lie_where_the_package_reads_them(model):
    ours = read_header(model).tensors
    theirs = gguf.GGUFReader(model).tensors
    assert list(ours) == [t.name for t in theirs]
    for t in theirs:
        found = ours[t.name]
        assert (found.start, found.nbytes, found.type) == (t.data_offset, t.n_bytes, t.tensor_type.name)
        assert found.shape == tuple(t.shape.tolist())[::-1] and found.path == model


def test_version_2_is_read_as_version_3(model, tmp_path):
    raw = bytearray(model.read_bytes())
    raw[4] = 2
    (tmp_path / "two.gguf").write_bytes(raw)
    assert read_header(tmp_path / "two.gguf").metadata.keys() == read_header(model).metadata.keys()


def test_a_split_model_is_read_from_any_of_its_files(tmp_path):
    write(tmp_path / "m.gguf", split_max_tensors=1)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [part.name for part in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts:
        found = read_header(part)
        assert found.paths == parts and found.path == parts[0] and found.metadata["a.count"] == 7
        assert set(found.tensors) == {"one.weight", "two", "three.weight"}
    parts[1].rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"no file m-00002-of-00003\.gguf; .* is one of 3"):
        read_header(parts[0])
    (tmp_path / parts[1].name).write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match="m-00002-of-00003.gguf: says that it is part 2 of 3"):
        read_header(parts[0])
    with pytest.raises(CheckpointError, match="their names must end in"):
        read_header(parts[0].rename(tmp_path / "first.gguf"))


ALIGNMENT = text("general.alignment") + struct.pack("<I", 4)
HOSTILE = {
    "no GGUF file": dict(raw=b"PK" + bytes(40)),
    "too short": dict(raw=b"GGUF"),
    "is of version 1": dict(raw=b"GGUF" + struct.pack("<IQQ", 1, 0, 0)),
    "is of version 77": dict(raw=b"GGUF" + struct.pack("<IQQ", 77, 0, 0)),
    "big-endian": dict(raw=b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "claims 1,000,000,000 tensors": dict(n_tensors=10**9),
    "and 1,000,000,000 metadata values": dict(n_keys=10**9),
    "the key of a metadata value takes 1,152,921": dict(n_keys=1, keys=struct.pack("<Q", 2**60)),
    "the key .* is not UTF-8": dict(n_keys=1, keys=text(b"\xff\xfe") + bytes(8)),
    "'k' has the type 99": dict(n_keys=1, keys=text("k") + struct.pack("<IQ", 99, 0)),
    "'k' claims 1,000,000,000 texts": dict(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 8, 10**9) + bytes(64)),
    "'k' takes 4,000,000,000 bytes": dict(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 5, 10**9)),
    "'k' has 2 texts that end behind": dict(
        n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + struct.pack("<Q", 2**63) + bytes(9)
    ),
    "'k' has a text that is not UTF-8": dict(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 8, 1) + text(b"\xff")),
    "'k' is an array of arrays": dict(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 9, 1) * 50),
    "'k' has a truth value": dict(n_keys=1, keys=text("k") + struct.pack("<IB", 7, 3)),
    "has the key 'k' twice": dict(n_keys=2, keys=(text("k") + struct.pack("<IB", 7, 1)) * 2),
    "alignment is 0": dict(n_keys=1, keys=ALIGNMENT + struct.pack("<I", 0)),
    "alignment is 48": dict(n_keys=1, keys=ALIGNMENT + struct.pack("<I", 48)),
    "alignment is 'x'": dict(n_keys=1, keys=text("general.alignment") + struct.pack("<I", 8) + text("x")),
    "has the tensor 't' twice": dict(n_tensors=2, tensors=tensor() + tensor(offset=128), data=bytes(256)),
    "'u': its data overlaps": dict(n_tensors=2, tensors=tensor() + tensor("u", offset=96), data=bytes(256)),
    "no multiple of 32": dict(n_tensors=1, tensors=tensor(offset=4), data=bytes(256)),
    "'t' ends at byte .* of 192": dict(n_tensors=1, tensors=tensor(shape=(33,)), data=bytes(128)),
    "'t' ends at byte 18,446": dict(n_tensors=1, tensors=tensor(offset=2**64 - 32), data=bytes(128)),
    "'t' ends at byte 1,": dict(n_tensors=1, tensors=tensor(shape=(2**62,) * 4), data=bytes(128)),
    "'t' has the type 5,": dict(n_tensors=1, tensors=tensor(kind=5), data=bytes(128)),
    "cannot be of Q4_0, blocks of 32": dict(n_tensors=1, tensors=tensor(shape=(2, 33), kind=2), data=bytes(128)),
    "'t' of shape .3, 0. cannot": dict(n_tensors=1, tensors=tensor(shape=(3, 0)), data=bytes(128)),
    "'t' has 9 axes": dict(n_tensors=1, tensors=tensor(shape=(1,) * 9), data=bytes(128)),
    "'../t' is no name": dict(n_tensors=1, tensors=tensor("../t"), data=bytes(128)),
    "split.count is -1": dict(n_keys=1, keys=text("split.count") + struct.pack("<Ii", 5, -1)),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(said, tmp_path):
    made, path = dict(HOSTILE[said]), tmp_path / "hostile.gguf"
    raw = made.pop("raw", None)
    path.write_bytes(raw) if raw is not None else hand_made(path, **made)
    with pytest.raises(CheckpointError, match=said) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: cannot be read")):
            read_header(path)


def test_a_claim_costs_no_memory(tmp_path):
    """A billion tokens, or a tensor of an exabyte, in a file of 200 bytes."""
    claims = [
        hand_made(tmp_path / "a.gguf", n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 8, 10**9) + bytes(99)),
        hand_made(tmp_path / "b.gguf", n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 11, 10**9)),
        hand_made(tmp_path / "c.gguf", n_tensors=1, tensors=tensor(shape=(2**60,)), data=bytes(64)),
    ]
    tracemalloc.start()
    for path in claims:
        with pytest.raises(CheckpointError):
            read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def mutate(raw: bytearray, rng: np.random.Generator, head: int) -> bytes:
    """A file with a few of its bytes changed, mostly in the header, or numbers made huge, or its end cut off."""
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, head))
        match rng.integers(0, 5):
            case 0:
                raw[at] = rng.integers(0, 256)
            case 1:
                raw[at : at + 8] = struct.pack("<q", int(rng.choice([-1, 2**62, 10**9, 0, 1, 2**31])))
            case 2:
                raw[at] ^= 1 << int(rng.integers(0, 8))
            case 3:
                del raw[at : at + int(rng.integers(1, 9))]
            case 4 if len(raw) > 40:
                del raw[int(rng.integers(4, len(raw))) :]
        head = min(head, max(len(raw) - 8, 1))
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_10_000_mutated_files(seed, model, tmp_path):
    """2,500 for each seed."""
    original, rng, path = model.read_bytes(), np.random.default_rng(seed), tmp_path / "mutated.gguf"
    head = min(t.start for t in read_header(model).tensors.values())
    refused = 0
    for _ in range(2500):
        path.write_bytes(mutate(bytearray(original), rng, head))
        try:
            found = read_header(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            assert all(t.start + t.nbytes <= path.stat().st_size for t in found.tensors.values())
    assert 1500 < refused < 2500
