"""What people's files hold: each is told in a sentence with file and line, or skipped and counted, and nothing is lost.

The table says of each file what is refused with `bad_rows="refuse"`, and what is left with `"skip"`.
"""

import errno
import gzip
import json
from contextlib import contextmanager

import pytest

from vishwamai.data import corpus, readers, tokenise, tokenised
from vishwamai.data.packing import Samples, iterate_pieces
from vishwamai.errors import ConfigError, DataError
from vishwamai.text.tokenizer import VishwamAITokenizer

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

BYTES = VishwamAITokenizer.bytes()
GOOD = b'{"text": "one"}\n'
LAST = b'{"text": "two"}\n'
LONG = json.dumps({"text": "x" * 50_000_000}).encode() + b"\n"


def jsonl(middle: bytes) -> bytes:
    return GOOD + middle + LAST


CUT = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(20_000)))
TABLE = {  # name: (kind, bytes, what is told, (rows, skipped, rows without anything to predict))
    "a byte order mark": ("jsonl", b"\xef\xbb\xbf" + GOOD + LAST, None, (2, 0, 0)),
    "windows' line ends": ("jsonl", (GOOD + LAST).replace(b"\n", b"\r\n"), None, (2, 0, 0)),
    "no last line end": ("jsonl", (GOOD + LAST)[:-1], None, (2, 0, 0)),
    "blank lines": ("jsonl", jsonl(b"\n  \n\t\r\n\xe2\x80\x83\n"), None, (2, 0, 0)),
    "gzip": ("jsonl", gzip.compress(GOOD) + gzip.compress(LAST), None, (2, 0, 0)),
    "a text in gzip": ("text", gzip.compress(b"one\n\ntwo\nthree\n"), None, (2, 0, 0)),
    "a text with windows' line ends": ("text", b"one\r\n\r\ntwo\r\nthree", None, (2, 0, 0)),
    "a line of 50 MB": ("jsonl", jsonl(LONG), "line 2: holds a text of 50,000,000 characters", (2, 1, 0)),
    "a line of 100 MB": ("jsonl", jsonl(LONG[:-1] + LONG[12:]), "line 2: is over 67,108,864 b", (2, 1, 0)),
    "a paragraph of 9 MB": ("text", b"one\n\n" + b"two\n" * 2_250_000, "line 3: holds a text of", (1, 1, 0)),
    "NUL in JSON": ("jsonl", jsonl(b'{"text": "a\0b"}\n'), "line 2: is not JSON .Invalid control", (2, 1, 0)),
    "NUL in a text": ("text", b"one\n\na\0b\n\ntwo", "line 3: holds a NUL character", (2, 1, 0)),
    "UTF-16": ("text", "one\n\ntwo".encode("utf-16"), "line 1: is not UTF-8 text: byte 0", (0, 1, 0)),
    "bytes of no UTF-8": ("jsonl", jsonl(b'{"text": "caf\xe9"}\n'), "line 2: is not UTF-8 text: byte 13", (2, 1, 0)),
    "a text of no UTF-8": ("text", b"one\n\ncaf\xe9\n\ntwo", "line 3: is not UTF-8 text: byte 3", (2, 1, 0)),
    "broken JSON": ("jsonl", jsonl(b'{"text": "a\n'), "line 2: is not JSON", (2, 1, 0)),
    "a key said twice": ("jsonl", jsonl(b'{"text": "", "text": ""}\n'), "line 2: says the key 'text' tw", (2, 1, 0)),
    "a number for a text": ("jsonl", jsonl(b'{"text": 3}\n'), "line 2: holds int for a text", (2, 1, 0)),
    "a list for a row": ("jsonl", jsonl(b'["text"]\n'), "line 2: holds a list where an object", (2, 1, 0)),
    "a text for messages": ("jsonl", jsonl(b'{"messages": "hello"}\n'), "line 2: messages must be a list", (2, 1, 0)),
    "no column of ours": ("jsonl", jsonl(b'{"body": "a"}\n'), "line 2: needs", (2, 1, 0)),
    "a pair": ("jsonl", jsonl(b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'), "line 2: is a pair", (2, 1, 0)),
    "an empty text": ("jsonl", jsonl(b'{"text": ""}\n'), None, (2, 0, 1)),
}


def corpus_of(path, kind, **given):
    source = corpus.Source(kind=kind, name=str(path))
    return corpus.Corpus(corpus.Data(sources=(source,), tokenizer="bytes", stop="first_exhausted", **given), BYTES)


def texts(found) -> list[str]:
    stream = found.samples()
    return sorted(BYTES.decode(stream.read(i)[0].tolist()).removesuffix("<|eos|>") for i in range(stream.end))


@pytest.mark.parametrize("case", TABLE)
def test_a_file_is_refused_by_its_line_or_its_sound_rows_are_kept(case, tmp_path):
    kind, _, told, (rows, skipped, nothing) = TABLE[case]
    path = tmp_path / "a.file"
    path.write_bytes(TABLE[case][1])
    if told is None:
        found = corpus_of(path, kind)
    else:
        with pytest.raises(DataError, match=f"^{path}: {told}"):
            corpus_of(path, kind)
        if not rows:
            with pytest.raises(DataError, match=f"it holds no rows; {path}: {told}"):
                corpus_of(path, kind, bad_rows="skip")
            return
        found = corpus_of(path, kind, bad_rows="skip")
        [problem] = next(iter(found.rows.values())).problems
        assert problem.startswith(f"{path}: {told.split(' .')[0]}")
    facts = next(iter(found.rows.values())).facts
    assert (facts["rows"], facts["skipped"], facts["nothing"]) == (rows, skipped, nothing)
    assert texts(found)[0] == "one" and len(texts(found)) == rows


def test_gzip_that_is_cut_short_keeps_the_rows_before_it(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(CUT[:-20_000])
    with pytest.raises(DataError, match=f"{path}: the gzip file is cut short or damaged after line"):
        corpus_of(path, "jsonl")
    found = corpus_of(path, "jsonl", bad_rows="skip")
    facts = next(iter(found.rows.values())).facts
    kept = sorted(map(int, texts(found)))
    assert facts["skipped"] == 1 and kept == list(range(len(kept))) and 100 < len(kept) < 20_000
    path.write_bytes(CUT[:-8] + b"????" + CUT[-4:])  # its checksum
    with pytest.raises(DataError, match=f"{path}: cannot be read after line 19999 of it: CRC check failed"):
        corpus_of(path, "jsonl")


def test_of_many_rows_that_break_ten_are_told_by_line_and_all_are_counted(tmp_path, monkeypatch):
    for module in (readers, tokenised):
        monkeypatch.setattr(module, "PART_BYTES", 200)  # lines are counted across parts
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "%d"}\n' % i if i % 3 else b"broken\n" for i in range(90)))
    found = corpus_of(path, "jsonl", bad_rows="skip", processes=1)
    [rows] = found.rows.values()
    assert (rows.facts["rows"], rows.facts["skipped"], len(rows.problems)) == (60, 30, 10)
    assert [int(text.split("line ")[1].split(":")[0]) for text in rows.problems] == list(range(1, 31, 3))
    [words] = found.describe()
    assert words.startswith(f"{path}: 60 rows of ") and "; 30 could not be read and were skipped, the first:\n" in words
    assert words.count(f"\n  {path}: line ") == 10


def test_a_row_longer_than_the_context_comes_in_pieces_and_one_of_masked_tokens_is_counted(tmp_path):
    lines = [{"text": "abc" * 30}, {"prompt": "a question", "completion": ""}, {"prompt": "", "completion": "yes"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = corpus_of(tmp_path / "a.jsonl", "jsonl")
    stream = found.samples()
    pieces = [piece for piece, _ in iterate_pieces(stream, (0, 0), 16)]
    assert max(piece.size for piece in pieces) == 16
    assert sum(piece.size - 1 for piece in pieces if stream.length(piece.number) > 16) == 90  # of 91 tokens
    masked = Samples(lambda i: ([1, 2, 3], [0.0] * 3), end=4)
    assert list(iterate_pieces(masked, (0, 0), 16)) == []


def test_empty_files_and_folders_are_told(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.rst").write_text("no rows")
    for name, kind, words in (
        ("empty.jsonl", "jsonl", "empty.jsonl: it holds no rows"),
        ("empty.jsonl", "text", "empty.jsonl: it holds no rows"),
        ("empty.jsonl", "parquet", "empty.jsonl is no whole Parquet file"),
        ("folder", "jsonl", "the folder holds no file that ends with .jsonl or"),
        ("folder", "parquet", "the folder holds no file that ends with .parquet"),
        ("folder", "datasets", "is no folder that datasets saved"),
        ("none/*.jsonl", "jsonl", "no file matches"),
        ("none.parquet", "parquet", "cannot read .*none.parquet: No such file"),
    ):
        with pytest.raises(DataError, match=words):
            corpus_of(tmp_path / name, kind)
    with pytest.raises(ConfigError, match="the source 'mine' is in memory: train.*records"):
        corpus_of("mine", "memory")


def test_a_column_that_is_missing_from_a_parquet_file_is_told_with_those_that_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "id": [1]}), path)
    with pytest.raises(DataError, match="a.parquet has the columns body, id and none of text, .*rows.columns"):
        corpus_of(path, "parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "id": [1, 2]}), path)
    with pytest.raises(DataError, match="a.parquet: row 1: needs"):
        corpus_of(path, "parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "two"]}), path)
    with pytest.raises(DataError, match="a.parquet: row 2: needs"):
        corpus_of(path, "parquet")
    assert texts(corpus_of(path, "parquet", bad_rows="skip")) == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="a.parquet is no whole Parquet file"):
        corpus_of(path, "parquet")


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + LAST)
    return tmp_path / "a.jsonl"


def test_a_cache_that_cannot_be_written_is_told_with_the_setting(rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file.*rows cannot be kept there .*Not a directory.*training.data.cache"):
        corpus_of(rows, "jsonl", cache=str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_disk_that_is_full_leaves_nothing_that_is_taken_for_whole(rows, tmp_path, monkeypatch, after):
    written = []

    @contextmanager
    def replace_file(path, real=tokenised.replace_file):
        written.append(path)
        if len(written) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        with real(path) as partial:
            yield partial

    for module in (tokenise, tokenised):
        monkeypatch.setattr(module, "replace_file", replace_file)
    with pytest.raises(DataError, match="rows cannot be kept there .No space left on device.; make room"):
        corpus_of(rows, "jsonl", cache=str(tmp_path / "cache"))
    monkeypatch.undo()
    assert texts(corpus_of(rows, "jsonl", cache=str(tmp_path / "cache"))) == ["one", "two"]


@pytest.mark.parametrize("name", ["00000.rows", "index.npy", "meta.json"])
def test_damage_in_the_cache_is_told_or_made_good(rows, tmp_path, name):
    corpus_of(rows, "jsonl", cache=str(tmp_path / "cache"))
    [path] = (tmp_path / "cache").glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[-3] ^= 255
    path.write_bytes(data)
    found = corpus_of(rows, "jsonl", cache=str(tmp_path / "cache"))
    if name == "00000.rows":
        with pytest.raises(DataError, match=f"{path.parent}: row 1 is not what was written; remove the folder"):
            texts(found)
    else:
        assert texts(found) == ["one", "two"]


def test_what_another_tokenizer_or_another_reading_makes_is_kept_apart(rows, tmp_path):
    def folders():
        return {path.parent.name for path in (tmp_path / "cache").glob("*/meta.json")}

    kept = str(tmp_path / "cache")
    corpus_of(rows, "jsonl", cache=kept)
    first = folders()
    assert len(first) == 1
    (tmp_path / "copy.jsonl").write_bytes(rows.read_bytes())
    corpus_of(tmp_path / "copy.jsonl", "jsonl", cache=kept)
    assert folders() == first  # the same content, however it is called
    corpus_of(rows, "text", cache=kept)
    assert len(folders()) == 2
    corpus_of(rows, "jsonl", cache=kept, bad_rows="skip")
    assert len(folders()) == 3
    rows.write_bytes(GOOD + LAST.replace(b"two", b"six"))
    assert texts(corpus_of(rows, "jsonl", cache=kept)) == ["one", "six"] and len(folders()) == 4
