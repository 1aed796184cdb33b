"""The kinds of sources give the same rows, and the parts of a file give all of its records, however large they are."""

import gzip
import json

import pytest

from vishwamai.data import corpus, readers, tokenised
from vishwamai.data.forms import Columns, RowFormat
from vishwamai.text.tokenizer import VishwamAITokenizer

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("pyarrow.ipc")

BYTES = VishwamAITokenizer.bytes()
RECORDS = [{"id": i, "text": f"row {i}\n" + "é" * (i % 7)} for i in range(500)]


def texts(kind, name, form=None, records=None, **given):
    source = corpus.Source(kind=kind, name=str(name), rows=form or RowFormat())
    data = corpus.Data(sources=(source,), tokenizer="bytes", stop="first_exhausted", **given)
    stream = corpus.Corpus(data, BYTES, records).samples()
    return sorted(BYTES.decode(stream.read(i)[0].tolist()).removesuffix("<|eos|>") for i in range(stream.end))


EXPECTED = sorted(record["text"].strip() for record in RECORDS)


def write_jsonl(path, records):
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def stripped(found):
    return sorted(text.strip() for text in found)


@pytest.mark.parametrize("size", [10, 333, 5000, 2**25])
@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_parts_of_any_size_give_every_record_once(tmp_path, monkeypatch, kind, size):
    for module in (readers, tokenised):
        monkeypatch.setattr(module, "PART_BYTES", size)
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        write_jsonl(path, RECORDS[:100])
    else:
        path.write_text("\n\n \n".join(record["text"] for record in RECORDS[:100]), encoding="utf-8")
    found = texts(kind, path, cache=str(tmp_path / "cache"), processes=1)
    assert stripped(found) == sorted(record["text"].strip() for record in RECORDS[:100])
    assert len(readers.find_parts(kind, path)) == 1 or size < 2**20


def test_a_folder_and_a_glob_give_their_files(tmp_path):
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "a.jsonl", RECORDS[:100])
    write_jsonl(tmp_path / "in" / "b.jsonl.gz", RECORDS[100:400])
    write_jsonl(tmp_path / "c.ndjson", RECORDS[400:])
    (tmp_path / ".hidden").mkdir()
    write_jsonl(tmp_path / ".hidden" / "a.jsonl", RECORDS)
    (tmp_path / "notes.rst").write_text("no rows")
    assert stripped(texts("jsonl", tmp_path)) == EXPECTED
    assert len(texts("jsonl", tmp_path / "*.jsonl")) == 100
    assert len(texts("jsonl", tmp_path / "**" / "b*")) == 300


def test_parquet_gives_rows_of_the_columns_that_the_configuration_names(tmp_path, monkeypatch):
    for module in (readers, tokenised):
        monkeypatch.setattr(module, "PART_BYTES", 2000)
    table = pyarrow.table(
        {"id": range(500), "body": [record["text"] for record in RECORDS], "x": [[float("nan")]] * 500}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    form = RowFormat(columns=Columns(text="body"))
    assert len(readers.find_parts("parquet", tmp_path / "a.parquet")) > 1
    assert stripped(texts("parquet", tmp_path / "a.parquet", form)) == EXPECTED


def test_conversations_of_parquet_have_no_keys_of_their_neighbours(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    talks = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        [{"role": "user", "content": "Do"}, {"role": "assistant", "content": "ne", "tool_calls": [call]}],
    ]
    pyarrow.parquet.write_table(pyarrow.table({"messages": talks[:1] * 2}), tmp_path / "a.parquet")
    assert len(texts("parquet", tmp_path / "a.parquet")) == 2
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"messages": talk} for talk in talks]), tmp_path / "b.parquet"
    )
    [record, _] = readers.read_part("parquet", readers.find_parts("parquet", tmp_path / "b.parquet")[0], ("messages",))
    assert record.value["messages"][1].get("tool_calls") is None
    write_jsonl(tmp_path / "a.jsonl", [{"messages": talks[0]}])
    assert texts("parquet", tmp_path / "a.parquet")[:1] == texts("jsonl", tmp_path / "a.jsonl")


def save_to_disk(folder, records):
    """What `datasets.Dataset.save_to_disk` writes: Arrow streams, and a state that names them."""
    folder.mkdir(parents=True)
    halves = [records[: len(records) // 2], records[len(records) // 2 :]]
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for name, half in zip(names, halves, strict=True):
        table = pyarrow.Table.from_pylist(half)
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_a_folder_that_datasets_saved_is_read_without_it(tmp_path):
    save_to_disk(tmp_path / "train", RECORDS)
    assert stripped(texts("datasets", tmp_path / "train")) == EXPECTED
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="holds the splits train, test; name one of them, such as .*train"):
        texts("datasets", tmp_path)


def test_records_in_memory_are_a_sequence_or_anything_that_gives_them(tmp_path):
    class Dataset:  # as `datasets` has it
        def __len__(self):
            return len(RECORDS)

        def __getitem__(self, i):
            return RECORDS[i]

    for records in (RECORDS, Dataset(), (record for record in RECORDS)):
        assert stripped(texts("memory", "mine", records={"mine": tokenised.open_given(records)})) == EXPECTED
    with pytest.raises(ValueError, match="mine: row 2: is str, and a record is a mapping"):
        texts("memory", "mine", records={"mine": [{"text": "a"}, "b"]})


def test_a_file_that_changes_is_read_again_and_one_that_does_not_is_not(tmp_path, monkeypatch):
    path, read = tmp_path / "a.jsonl", []
    write_jsonl(path, RECORDS[:3])
    monkeypatch.setattr(
        tokenised, "digest_file", lambda path, real=tokenised.digest_file: read.append(path) or real(path)
    )
    for _ in range(3):
        crc = tokenised.digest_known_file(path, tmp_path / "cache")
    assert read == [path]
    write_jsonl(path, RECORDS[3:6])
    assert tokenised.digest_known_file(path, tmp_path / "cache") != crc and read == [path, path]
