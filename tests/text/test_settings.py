"""What a tokenizer's folder says: each place where special tokens and templates may stand, and what is refused."""

import json
import shutil

import pytest
from tokenizers import AddedToken, normalizers

from vishwamai.errors import TokenizerError
from vishwamai.text.settings import DeclaredToken, Settings, read_settings, write_settings
from vishwamai.text.tokenizer import VishwamAITokenizer


def folder_with(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace("_jinja", ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_an_empty_folder_says_nothing(tmp_path):
    assert read_settings(tmp_path) == Settings()


def test_tokens_are_texts_or_objects(tmp_path):
    config = {
        "bos_token": {"content": "<s>", "lstrip": False, "__type": "AddedToken"},
        "eos_token": "</s>",
        "pad_token": None,
        "add_bos_token": True,
        "add_eos_token": None,
        "model_max_length": 4096,
        "additional_special_tokens": ["<x>", {"content": "<y>"}],
        "unknown_key": [1, 2],
    }
    settings = read_settings(folder_with(tmp_path, tokenizer_config_json=config))
    assert (settings.bos_token, settings.eos_token, settings.pad_token) == ("<s>", "</s>", None)
    assert (settings.add_bos, settings.add_eos, settings.max_length) == (True, None, 4096)
    assert settings.special_tokens == ("<x>", "<y>")


def test_no_real_length_is_no_length(tmp_path):
    config = {"model_max_length": 1000000000000000019884624838656}
    assert read_settings(folder_with(tmp_path, tokenizer_config_json=config)).max_length is None


def test_the_older_map_wins_unless_the_configuration_lists_its_added_tokens(tmp_path):
    config = {"eos_token": "<config>", "bos_token": "<s>"}
    older = {"eos_token": "<map>", "pad_token": {"content": "<pad>"}}
    settings = read_settings(folder_with(tmp_path, tokenizer_config_json=config, special_tokens_map_json=older))
    assert (settings.eos_token, settings.pad_token, settings.bos_token) == ("<map>", "<pad>", "<s>")
    folder_with(tmp_path, tokenizer_config_json=config | {"added_tokens_decoder": {}}, added_tokens_json={"<x>": 300})
    settings = read_settings(tmp_path)
    assert (settings.eos_token, settings.pad_token, settings.added) == ("<config>", None, ())


@pytest.mark.parametrize(
    ("config", "older", "expected"),
    [
        ({"extra_special_tokens": ["<n>"], "additional_special_tokens": ["<o>"]}, {}, ("<n>",)),
        ({"extra_special_tokens": [], "additional_special_tokens": ["<o>"]}, {}, ("<o>",)),
        ({"additional_special_tokens": ["<o>"]}, {"additional_special_tokens": ["<p>"]}, ("<o>",)),
        ({}, {"additional_special_tokens": ["<p>", "<q>"]}, ("<p>", "<q>")),
        ({"extra_special_tokens": ["<n>"]}, {"extra_special_tokens": ["<p>", "<n>"]}, ("<n>", "<p>")),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"additional_special_tokens": ["<p>"]}, ("<i>", "<p>")),
        (
            {"extra_special_tokens": {"image_token": "<i>"}, "additional_special_tokens": ["<o>"]},
            {"additional_special_tokens": ["<p>"]},
            ("<i>", "<p>"),
        ),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"extra_special_tokens": ["<p>"]}, ("<i>", "<p>")),
        ({"additional_special_tokens": []}, {"additional_special_tokens": ["<p>"]}, ()),
        ({"extra_special_tokens": None}, {"additional_special_tokens": ["<p>"]}, ()),
        ({"extra_special_tokens": ["<n>"]}, {"extra_special_tokens": {}}, ()),
        ({"extra_special_tokens": ["<n>"]}, {"extra_special_tokens": {"image_token": "<i>"}}, ("<i>",)),
        ({"image_token": "<i>"}, {"image_token": "<j>", "audio_token": "<a>"}, ("<i>", "<a>")),
    ],
)
def test_two_lists_of_extra_tokens(tmp_path, config, older, expected):
    folder_with(tmp_path, tokenizer_config_json=config, special_tokens_map_json=older)
    settings = read_settings(tmp_path)
    assert (*dict(settings.model_tokens).values(), *settings.special_tokens) == expected


def test_special_tokens_that_are_to_be_split_are_refused(tmp_path):
    folder_with(tmp_path, tokenizer_config_json={"split_special_tokens": False})
    assert read_settings(tmp_path) == Settings()
    folder_with(tmp_path, tokenizer_config_json={"split_special_tokens": True})
    with pytest.raises(TokenizerError, match="tokenizer_config.json: split_special_tokens is true"):
        read_settings(tmp_path)


def turns(folder, **files):
    """A byte tokenizer with an ordinary added token `<turn>` (263), in a folder with these files beside it."""
    backend = VishwamAITokenizer.bytes().backend
    backend.add_tokens([AddedToken("<turn>", special=False, normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    return VishwamAITokenizer.from_folder(folder_with(folder, **files))


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config_json": {"added_tokens_decoder": {"263": {"content": "<turn>", "special": True}}}},
        {"tokenizer_config_json": {"eos_token": "<turn>"}},
        {"tokenizer_config_json": {"mask_token": {"content": "<turn>"}}},
        {"tokenizer_config_json": {"turn_token": "<turn>"}},
        {"tokenizer_config_json": {"extra_special_tokens": {"turn": "<turn>"}}},
        {"special_tokens_map_json": {"pad_token": "<turn>"}},
        {"tokenizer_config_json": {"pad_token": "<turn>"}, "added_tokens_json": {"<turn>": 263}},
    ],
    ids=str,
)
def test_what_the_settings_call_special_is_skipped_whatever_the_vocabulary_says(tmp_path, files):
    tokenizer = turns(tmp_path, **files)
    assert tokenizer.decode([104, 263, 105], skip_special_tokens=True) == "hi" and 263 in tokenizer.special_ids
    assert tokenizer.decode([104, 263]) == "h<turn>" and tokenizer.encode("h<turn>") == [104, 263]
    tokenizer.save_pretrained(tmp_path / "again")
    assert VishwamAITokenizer.from_folder(tmp_path / "again").decode([263, 105], skip_special_tokens=True) == "i"


def test_what_is_merely_listed_stays_text_and_nothing_becomes_less_special(tmp_path):
    plain = {"257": {"content": "<|eos|>", "special": False}}
    tokenizer = turns(
        tmp_path, tokenizer_config_json={"extra_special_tokens": ["<turn>"], "added_tokens_decoder": plain}
    )
    assert tokenizer.decode([257, 104, 263], skip_special_tokens=True) == "h<turn>"
    assert 257 in tokenizer.special_ids and 263 in tokenizer.control_ids - tokenizer.special_ids


def test_tokens_of_added_tokens_json(tmp_path):
    older = {"<b>": 265, "<a>": 264, "<|eos|>": 257}
    tokenizer = turns(tmp_path, added_tokens_json=older, tokenizer_config_json={"pad_token": "<a>"})
    assert tokenizer.encode("<a>x<b><|eos|>") == [264, 120, 265, 257]
    assert tokenizer.decode([264, 120, 265, 257], skip_special_tokens=True) == "x<b>"
    folder_with(tmp_path, tokenizer_config_json={"pad_token": "<a>", "additional_special_tokens": ["<b>"]})
    listed = VishwamAITokenizer.from_folder(tmp_path)
    assert listed.decode([264, 120, 265, 257], skip_special_tokens=True) == "x"
    folder_with(tmp_path, tokenizer_config_json={})
    folder_with(tmp_path, added_tokens_json={"<b>": 270})
    with pytest.raises(TokenizerError, match="added_tokens.json gives '<b>' the id 270, but the vocabulary gives it"):
        VishwamAITokenizer.from_folder(tmp_path)
    for wrong in ({"<b>": "5"}, {"<b>": -1}, {"": 3}, ["<b>"]):
        folder_with(tmp_path, added_tokens_json=wrong)
        with pytest.raises(TokenizerError, match="added_tokens.json"):
            VishwamAITokenizer.from_folder(tmp_path)


def test_tokens_that_the_vocabulary_lacks_get_ids_in_the_order_of_transformers(tmp_path):
    names = {"pad_token": "<p>", "mask_token": "<m>", "unk_token": "<u>", "own_token": "<o>", "sep_token": "<s>"}
    tokenizer = turns(tmp_path, tokenizer_config_json=names | {"extra_special_tokens": ["<x>"]})
    assert tokenizer.convert_tokens_to_ids(["<u>", "<s>", "<p>", "<m>", "<o>", "<x>"]) == list(range(264, 270))
    assert (tokenizer.sep_token_id, tokenizer.mask_token, tokenizer.cls_token_id) == (265, "<m>", None)


def test_the_padding_of_a_tokenizer_json(tmp_path):
    backend = VishwamAITokenizer.bytes().backend
    backend.enable_padding(pad_id=257, pad_token="<|eos|>", direction="left")
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = VishwamAITokenizer.from_folder(tmp_path)
    assert tokenizer(["a", "bc"], padding=True).input_ids == [[257, 97], [98, 99]] and tokenizer("a").input_ids == [97]
    for nothing in ({"tokenizer_config_json": {"pad_token": None}}, {"special_tokens_map_json": {"pad_token": None}}):
        tokenizer = VishwamAITokenizer.from_folder(folder_with(tmp_path, **nothing))
        assert (tokenizer.pad_token, tokenizer.settings.padding_side) == (None, "left")
        tokenizer.save_pretrained(tmp_path / "again")
        assert VishwamAITokenizer.from_folder(tmp_path / "again").pad_token is None
        assert tokenizer.with_tokens(pad_token="<|pad|>").pad_token_id == 258
        folder_with(tmp_path, tokenizer_config_json={})
    (tmp_path / "special_tokens_map.json").unlink()
    folder_with(tmp_path, tokenizer_config_json={"pad_token": "<|pad|>", "padding_side": "right"})
    assert VishwamAITokenizer.from_folder(tmp_path)(["a", "bc"], padding=True).input_ids == [[97, 258], [98, 99]]


def test_templates_by_precedence(tmp_path):
    listed = [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "tools"}]
    folder_with(tmp_path, tokenizer_config_json={"chat_template": listed})
    assert dict(read_settings(tmp_path).templates) == {"default": "listed", "tool_use": "tools"}
    folder_with(tmp_path, additional_chat_templates__rag_jinja="rag", additional_chat_templates__tool_use_jinja="new")
    folder_with(tmp_path, chat_template_jinja="file\n")
    expected = {"default": "file\n", "tool_use": "new", "rag": "rag"}
    assert dict(read_settings(tmp_path).templates) == expected
    (tmp_path / "chat_template.jinja").unlink()
    assert dict(read_settings(tmp_path).templates) == {"tool_use": "new", "rag": "rag"}
    shutil.rmtree(tmp_path / "additional_chat_templates")
    folder_with(tmp_path, tokenizer_config_json={"chat_template": "text"})
    assert dict(read_settings(tmp_path).templates) == {"default": "text"}
    folder_with(tmp_path, tokenizer_config_json={"chat_template": listed}, chat_template_jinja="file\n")
    assert dict(read_settings(tmp_path).templates) == {"default": "file\n"}
    folder_with(tmp_path, additional_chat_templates__default_jinja="named")
    assert dict(read_settings(tmp_path).templates) == {"default": "named"}


def test_added_tokens_are_read_and_must_fit_the_vocabulary(tmp_path):
    decoder = {"263": {"content": "<tool>", "special": False, "lstrip": True}, "257": {"content": "<|eos|>"}}
    folder_with(tmp_path, tokenizer_config_json={"added_tokens_decoder": decoder})
    VishwamAITokenizer.bytes().backend.save(str(tmp_path / "tokenizer.json"))
    assert DeclaredToken("<tool>", 263, lstrip=True) in read_settings(tmp_path).added
    tokenizer = VishwamAITokenizer.from_folder(tmp_path)
    assert tokenizer.encode("<tool>") == [263] and 263 not in tokenizer.special_ids
    folder_with(tmp_path, tokenizer_config_json={"added_tokens_decoder": {"300": {"content": "<far>"}}})
    with pytest.raises(TokenizerError, match="'<far>' the id 300, but the vocabulary gives it 263"):
        VishwamAITokenizer.from_folder(tmp_path)


def test_a_named_token_that_is_missing_is_added_as_it_is_written(tmp_path):
    folder_with(tmp_path, tokenizer_config_json={"pad_token": "[PAD]"})
    backend = VishwamAITokenizer.bytes().backend
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = VishwamAITokenizer.from_folder(tmp_path)
    assert tokenizer.pad_token_id == 263
    assert tokenizer.encode("[PAD]A") == [263, 97] and tokenizer.encode("[pad]") == list(b"[pad]")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"chat_template": [{"name": "x"}]}, "list of name and template"),
        ({"chat_template": {"default": 3}}, "not text"),
        ({"chat_template": [{"name": "../../evil", "template": "x"}]}, "letters, digits"),
        ({"added_tokens_decoder": {"1": {"special": True}}}, "added token 1 has no content"),
        ({"added_tokens_decoder": {"1": "text"}}, "not a table"),
        ({"added_tokens_decoder": []}, "of the wrong type"),
        ({"model_max_length": "long"}, "model_max_length is 'long'"),
        ({"eos_token": {"content": 1}}, "eos_token"),
        ({"image_token": {"content": 1}}, "image_token"),
        ({"extra_special_tokens": [3]}, "a special token is 3"),
        ({"padding_side": "middle"}, "padding_side is 'middle'; it is left or right"),
        ({"model_input_names": "input_ids"}, "model_input_names is 'input_ids'"),
        ('{"a": 1, "a": 2}', "tokenizer_config.json"),
        ("[1]", "tokenizer_config.json"),
        ("{", "tokenizer_config.json"),
    ],
)
def test_damage_is_named(tmp_path, config, said):
    with pytest.raises(TokenizerError, match=said):
        read_settings(folder_with(tmp_path, tokenizer_config_json=config))


def test_template_files_are_bounded_and_utf8(tmp_path):
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"x" * 300_000)
    with pytest.raises(TokenizerError, match="too large"):
        read_settings(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="not UTF-8"):
        read_settings(tmp_path)


def test_what_is_written_is_read_back(tmp_path):
    settings = Settings(
        bos_token="<s>",
        unk_token="<unk>",
        sep_token="<sep>",
        model_tokens=(("image_token", "<i>"),),
        special_tokens=("<x>",),
        padding_side="left",
        token_type_ids=True,
        max_length=77,
        templates=(("default", "a\r\nb"), ("t-1.x", "ü")),
    )
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
