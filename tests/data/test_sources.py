"""Sources: files read strictly, passes shuffled, mixtures in proportion."""

import json
from collections import Counter

import pytest

from vishwamai.data import corpus, sources
from vishwamai.data.forms import PLAIN
from vishwamai.data.readers import find_files, find_parts
from vishwamai.data.records import read_row
from vishwamai.data.rows import Row, encode_row
from vishwamai.data.tokenise import read_rows
from vishwamai.errors import ConfigError, DataError
from vishwamai.text.backend import MAX_CHARACTERS
from vishwamai.text.templates import ROLE_TEMPLATE
from vishwamai.text.tokenizer import VishwamAITokenizer

BYTES = VishwamAITokenizer.bytes()


def read(path):
    """The rows of a file in their order; raises for the first that breaks."""
    kind = {".txt": "text", ".jsonl": "jsonl"}[path.suffix]
    found = []
    for part in (part for file in find_files(kind, str(path)) for part in find_parts(kind, file)):
        for row in read_rows(kind, part, (), None, lambda value, *place: read_row(kind, value, PLAIN, *place)):
            if isinstance(row, DataError):
                raise row
            found.append(row)
    return found


def samples_of(source, split="train", **given):
    return corpus.Corpus(corpus.Data(sources=(source,), tokenizer="bytes", **given), BYTES).samples(split)


def texts(samples, numbers):
    """What was tokenised of samples by their numbers, without its end token."""
    return [BYTES.decode(samples.read(i)[0].tolist()).removesuffix("<|eos|>") for i in numbers]


def test_paragraphs_of_a_text_come_once_a_pass_in_another_order(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i}" for i in range(20)))
    source = corpus.Source(kind="text", name=str(tmp_path / "a.txt"))
    found, again, other = (samples_of(source, seed=seed) for seed in (3, 3, 4))
    first, second = texts(found, range(20)), texts(found, range(20, 40))
    assert sorted(first) == sorted(second) == sorted(f"paragraph {i}" for i in range(20))
    assert first != second and first == texts(again, range(20)) != texts(other, range(20))


def test_jsonl_rows_keep_prompts_out_of_the_loss(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "q", "completion": "a"}\r\n\n{"text": "t\u2028u"}\n', "utf-8", newline=""
    )
    assert read(tmp_path / "a.jsonl") == [Row((("q", 0.0), ("a", 1.0))), Row((("t\u2028u", 1.0),))]


@pytest.mark.parametrize("line", ["{", '{"prompt": "q"}', '{"text": 3}', "[]"])
def test_bad_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n' + line)
    with pytest.raises(DataError, match="a.jsonl: line 2"):
        read(tmp_path / "a.jsonl")


def test_a_chat_is_learnt_by_its_replies_alone_and_typed_text_is_no_control_token(tmp_path):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi<|eos|>"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Go"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages, "id": 7}) + "\n")
    [row] = read(tmp_path / "a.jsonl")
    tokenizer = VishwamAITokenizer.bytes()
    ids, weights = encode_row(tokenizer, row)
    turns = "<|user|>Hi<|eos|><|eos|><|assistant|>Ho<|eos|><|user|>Bye<|eos|><|assistant|>Go<|eos|>"
    assert tokenizer.decode(ids) == f"<|system|>Be kind.<|eos|>{turns}"
    learnt = [i for i, weight in zip(ids, weights, strict=True) if weight == 1.0]
    assert learnt == [*b"Ho", tokenizer.eos_token_id, *b"Go", tokenizer.eos_token_id]
    assert set(weights) == {0.0, 1.0} and ids.count(tokenizer.eos_token_id) == 5


def test_a_chat_that_its_template_does_not_show_is_named_by_its_line(tmp_path):
    message = {"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps({"messages": message}))
    [row] = read(tmp_path / "a.jsonl")
    last_alone = VishwamAITokenizer.bytes().with_tokens(templates=(("default", corpus.LAST_QUESTION),))
    with pytest.raises(DataError, match=r"a.jsonl: line 2: .*messages\[0\]"):
        encode_row(last_alone, row)


def test_a_tokenizer_trained_on_chats_renders_roles(tmp_path):
    lines = [json.dumps({"messages": [{"role": "assistant", "content": f"reply {i}"}]}) for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = corpus.Data(sources=(corpus.Source(kind="jsonl", name=str(tmp_path / "a.jsonl")),), tokenizer_rows=20)
    assert corpus.tokenizer(data, 300, tmp_path / "t").chat_template == ROLE_TEMPLATE


DEEP = '{"text": "t", "meta": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a\\ud800b"}', "half of a surrogate pair"),
        ('{"prompt": "\\udfff", "completion": "a"}', "half of a surrogate pair"),
        ('{"prompt": "q", "completion": "a\\udc00\\ud800"}', "half of a surrogate pair"),
        (DEEP, "nested deeper than 32"),
        ('{"meta": ' + '{"a": ' * 40 + "1" + "}" * 40 + ', "text": "t"}', "nested deeper than 32"),
        ('{"text": "t", "n": ' + "9" * 5000 + "}", "thousands of digits"),
        ('{"text": "t", "text": "u"}', "says the key 'text' twice"),
        ('{"text": "t", "score": NaN}', "holds NaN, which is not a finite number"),
        ('{"text": "t", "prompt": "q", "completion": "a"}', "has text beside prompt and completion"),
        ('{"completion": "a", "text": "t"}', "has text beside completion"),
        ('{"prompt": "q", "completion": 3}', "all of them strings"),
        ('{"messages": [{"role": "assistant", "content": "a"}], "tools": [1]}', "tools is .1.; it is a list of map"),
        ('{"messages": [{"role": "assistant", "content": "a"}], "tools": "x"}', "tools is 'x'; it is a list of map"),
        ('{"messages": []}', "messages must be a list"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] has no content"),
        ('{"messages": [{"role": "boss", "content": "a"}]}', "has the role 'boss'"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no message of the assistant"),
        ('{"messages": [{"role": "assistant", "content": "a"}], "text": "t"}', "has text beside messages|has messages"),
        (
            '{"text": "' + "a" * (MAX_CHARACTERS + 1) + '"}',
            "holds a text of 8,388,609 characters, and a tokenizer takes 8,388,608; part",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_lines_that_json_or_python_would_let_through_are_named(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n\n' + line + '\n{"text": "u"}\n')
    for held_out in (0.0, 0.5):
        data = corpus.Data(sources=(corpus.Source(kind="jsonl", name=str(tmp_path / "a.jsonl"), held_out=held_out),))
        with pytest.raises(DataError, match=f"a.jsonl: line 3: .*{words}"):
            corpus.Corpus(data, BYTES)


def test_whole_surrogate_pairs_and_columns_that_are_null_are_read(tmp_path):
    lines = ['{"text": "\\ud83d\\ude00", "prompt": null, "id": 7}', '{"text": null, "prompt": "q", "completion": "a"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [row.text for row in read(tmp_path / "a.jsonl")] == ["\U0001f600", "qa"]


@pytest.mark.parametrize("kind", ["text", "jsonl"])
@pytest.mark.parametrize("name", ["a\0b", "a" * 5000], ids=["nul", "long"])
def test_names_that_are_no_file_s_are_refused(kind, name):
    with pytest.raises(DataError, match="cannot read"):
        corpus.Corpus(corpus.Data(sources=(corpus.Source(kind=kind, name=name),)), BYTES)


@pytest.mark.parametrize(
    "text",
    ["one\n  \ntwo\n\t\nthree", "one\r\n\r\ntwo\r\n \r\nthree", "\n \none\n\n\n\ntwo\n\u3000\n\xa0\nthree\n \n"],
    ids=["spaces", "windows", "many"],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_lines_of_spaces_part_paragraphs_and_a_byte_order_mark_is_no_text(tmp_path, text, mark):
    (tmp_path / "a.txt").write_bytes(mark + text.encode())
    assert [row.text for row in read(tmp_path / "a.txt")] == ["one", "two", "three"]


def test_a_byte_order_mark_before_jsonl_is_no_text_either(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "t"}\n   \n\t\r\n{"text": "u"}')
    assert [row.text for row in read(tmp_path / "a.jsonl")] == ["t", "u"]


def test_one_line_between_paragraphs_and_indents_inside_them_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text("def f():\n    return 1\n\nend")
    assert [row.text for row in read(tmp_path / "a.txt")] == ["def f():\n    return 1", "end"]


def test_a_paragraph_too_large_is_named_by_its_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n \n" + "x" * (MAX_CHARACTERS + 1))
    with pytest.raises(DataError, match="a.txt: line 5: holds a text of 8,388,609 characters"):
        read(tmp_path / "a.txt")


def test_missing_empty_and_undecodable_files_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, words in (("none.txt", "cannot read"), ("empty.txt", "no rows"), ("latin.txt", "byte 3")):
        with pytest.raises(DataError, match=words):
            samples_of(corpus.Source(kind="text", name=str(tmp_path / name)))


def test_rows_held_out_of_a_file_are_never_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i}" for i in range(200)))
    source = corpus.Source(kind="text", name=str(tmp_path / "a.txt"), held_out=0.1)
    train, held = (
        set(texts(samples, range(1000))) for samples in (samples_of(source, split) for split in ("train", "held_out"))
    )
    assert train | held == {f"paragraph {i}" for i in range(200)} and not train & held and 8 <= len(held) <= 35


def test_one_file_may_be_named_twice(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    named = [corpus.Source(kind="text", name=str(tmp_path / "a.txt"), weight=w) for w in (1.0, 0.0)]
    assert texts(corpus.Corpus(corpus.Data(sources=tuple(named)), BYTES).samples(), [0]) == ["one"]


def _numbered(name):
    """Row number i of an endless source says its number."""
    return lambda i: Row(((f"{name}{i}", 1.0),))


def test_a_mixture_draws_by_weight():
    row = sources.mix([(_numbered("a"), 3.0), (_numbered("b"), 1.0)], seed=1)
    counts = Counter(row(i).text[0] for i in range(sources.BLOCK))
    assert counts == {"a": 7500, "b": 2500}
    assert 0.7 < Counter(row(i).text[0] for i in range(2000))["a"] / 2000 < 0.8  # not all of one and then the other
    for weights in ([0.0], [1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0], []):
        with pytest.raises(DataError, match="weights"):
            sources.mix([(_numbered("a"), weight) for weight in weights])


def test_each_source_of_a_mixture_gives_its_own_rows_in_order_across_blocks():
    row = sources.mix([(_numbered("a"), 1.0), (_numbered("b"), 2.0), (_numbered("c"), 1e-9)], seed=2)
    texts = [row(i).text for i in range(3 * sources.BLOCK)]
    for name, share in (("a", 1 / 3), ("b", 2 / 3), ("c", 1 / sources.BLOCK)):
        own = [text for text in texts if text.startswith(name)]
        assert own == [f"{name}{i}" for i in range(len(own))]
        assert abs(len(own) - share * len(texts)) <= 3


def test_a_row_of_a_mixture_is_the_same_whatever_was_read_before_it():
    parts = [(_numbered("a"), 1.0), (_numbered("b"), 9.0)]
    ahead, again = (sources.mix(parts, seed=4) for _ in range(2))
    far = 10**12 + 17
    assert ahead(far) == again(far) and [ahead(i) for i in range(50)] == [again(i) for i in reversed(range(50))][::-1]
    assert [sources.mix(parts, seed=5)(i) for i in range(50)] != [again(i) for i in range(50)]
    assert [again(i).text[0] for i in range(200)] != [again(sources.BLOCK + i).text[0] for i in range(200)]


def test_a_source_of_weight_0_gives_no_row_and_one_source_alone_gives_them_all():
    row = sources.mix([(_numbered("a"), 0.0), (_numbered("b"), 0.2)])
    assert [row(i).text for i in range(20)] == [f"b{i}" for i in range(20)]


def test_a_corpus_tokenises_by_pieces_and_keeps_its_tokenizer(tmp_path):
    data = corpus.Data(sources=(corpus.Source(kind="generated", name="game24"),), tokenizer_rows=200)
    made = corpus.tokenizer(data, 600, tmp_path)
    assert isinstance(made, VishwamAITokenizer) and (tmp_path / "tokenizer.json").exists()
    assert all(len(made.encode(f" {i}")) == 1 for i in range(201))
    assert corpus.tokenizer(data, 600, tmp_path).encode("Make 24 from") == made.encode("Make 24 from")
    tokens, weights = corpus.Corpus(data, made).samples().read(0)
    assert len(tokens) == len(weights) and tokens[-1] == made.eos_token_id and weights[0] == 0.0


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    data = corpus.Data(sources=(corpus.Source(kind="generated", name="game24"),), tokenizer="bytes")
    size = len(corpus.tokenizer(data, 1000, tmp_path))
    assert len(corpus.tokenizer(data, size, tmp_path)) == size
    with pytest.raises(ConfigError, match=f"has {size} tokens and the model has a place for {size - 1}"):
        corpus.tokenizer(data, size - 1, tmp_path)


def test_a_source_of_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="generated, text, jsonl"):
        corpus.Source(kind="csv", name="x")
    with pytest.raises(ConfigError, match="held_out is 1.0; it must be 0 or more and less than 1"):
        corpus.Source(kind="text", name="x", held_out=1.0)
    with pytest.raises(ConfigError, match="rows of its own"):
        corpus.Source(kind="generated", name="game24", held_out=0.1)


def test_another_chat_template_means_other_rows(tmp_path):
    data, found = corpus.Data(sources=(corpus.Source(kind="generated", name="game24"),)), []
    VishwamAITokenizer.bytes().save_pretrained(tmp_path)
    for template in ("{{ messages }}", "{{ messages[0].content }}"):
        (tmp_path / "chat_template.jinja").write_text(template)
        found.append(corpus.Corpus(data, VishwamAITokenizer.from_pretrained(tmp_path)).digests)
    was, now = found
    assert was["the tokenizer"] == now["the tokenizer"] and was["the chat template"] != now["the chat template"]
