"""generation_config.json: what of it counts, what is told to be left out, and what is refused."""

import json

import pytest

from vishwamai.errors import ConfigError
from vishwamai.hf.generation_config import UNSUPPORTED, GenerationConfig, read_generation_config

SAID = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.8,
    "min_p": 0.0,
    "repetition_penalty": 1.05,
    "max_length": 4096,
    "max_new_tokens": 64,
    "num_beams": 2,
    "num_return_sequences": 2,
    "length_penalty": 0.5,
    "early_stopping": "never",
    "stop_strings": ["END"],
}


def in_folder(folder, said=None, config=None) -> GenerationConfig:
    if said is not None:
        (folder / "generation_config.json").write_text(json.dumps(said))
    return read_generation_config(folder, config or {})


def test_all_that_counts_is_read_and_written_back(tmp_path):
    ids = {"eos_token_id": [1, 2], "bos_token_id": 3, "pad_token_id": 4}
    found = in_folder(tmp_path, ids | SAID | {"transformers_version": "5.0", "user_token_id": 195, "top_h": None})
    assert found.settings() == SAID | {"stop_strings": ("END",)} and found.unsupported == ()
    assert (found.eos_ids, found.bos_id, found.pad_id) == ((1, 2), 3, 4)
    assert json.loads(json.dumps(found.to_json())) == ids | SAID
    again = in_folder(tmp_path, found.to_json())
    assert again == found


def test_special_tokens_that_it_leaves_out_are_those_of_config_json(tmp_path):
    config = {"eos_token_id": 5, "bos_token_id": 6, "pad_token_id": -1, "temperature": 0.5}
    found = in_folder(tmp_path, {"eos_token_id": [7]}, config)
    assert (found.eos_ids, found.bos_id, found.pad_id, found.temperature) == ((7,), 6, None, None)
    (tmp_path / "generation_config.json").unlink()
    found = in_folder(tmp_path, None, config | {"do_sample": True, "max_length": 30})
    assert (found.eos_ids, found.temperature, found.do_sample, found.max_length) == ((5,), 0.5, True, 30)


@pytest.mark.parametrize(
    ("said", "config", "ends", "told"),
    [
        ({}, {"eos_token_id": 5}, (), "eos_token_id=[5] (of config.json, and generation_config.json has none)"),
        ({"pad_token_id": 0}, {"text_config": {"eos_token_id": [5, 6]}}, (), "eos_token_id=[5, 6] (of config.json"),
        ({"eos_token_id": None}, {"eos_token_id": 5}, (), ""),
        ({"eos_token_id": None}, {}, (), ""),
        ({"eos_token_id": 7}, {"eos_token_id": 5}, (7,), ""),
        ({}, {"eos_token_id": None}, None, ""),
        (None, {"eos_token_id": None}, None, ""),
        (None, {"eos_token_id": None, "text_config": {"eos_token_id": 5}}, (5,), ""),
        (None, {"eos_token_id": 5}, (5,), ""),
    ],
    ids=str,
)
def test_an_end_token_of_config_json_counts_where_there_is_no_other_file(tmp_path, said, config, ends, told):
    found = in_folder(tmp_path, said, config)
    assert found.eos_ids == ends
    assert found.not_followed().startswith(told) and bool(told) == bool(found.not_followed())
    again = in_folder(tmp_path, found.to_json(), found.token_ids())  # as saved
    assert (again.eos_ids, again.not_followed()) == (ends, "")


@pytest.mark.parametrize(
    ("said", "unsupported"),
    [
        ({"no_repeat_ngram_size": 3, "min_length": 0}, {"no_repeat_ngram_size": 3}),
        ({"suppress_tokens": [4, 5], "bad_words_ids": []}, {"suppress_tokens": [4, 5]}),
        ({"min_new_tokens": 2, "forced_eos_token_id": 7}, {"min_new_tokens": 2, "forced_eos_token_id": 7}),
        ({"typical_p": 1.0, "guidance_scale": 1, "num_beam_groups": 1, "penalty_alpha": 0.0}, {}),
        ({"typical_p": 0.9}, {"typical_p": 0.9}),
        ({"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0}, {}),
        ({"encoder_repetition_penalty": 1.2}, {"encoder_repetition_penalty": 1.2}),
        ({"encoder_no_repeat_ngram_size": 2}, {"encoder_no_repeat_ngram_size": 2}),
        ({"cache_implementation": "hybrid", "use_cache": False, "prompt_lookup_num_tokens": 4}, {}),
    ],
    ids=str,
)
def test_what_changes_the_text_and_is_not_followed_is_known_by_name(tmp_path, said, unsupported):
    found = in_folder(tmp_path, said)
    assert dict(found.unsupported) == unsupported
    assert found.to_json() == unsupported  # and is not lost when the model is saved


def test_all_that_is_left_out_is_told_where_it_is_not_neutral(tmp_path):
    assert [name for name, _ in in_folder(tmp_path, dict.fromkeys(UNSUPPORTED, 17)).unsupported] == list(UNSUPPORTED)
    assert in_folder(tmp_path, dict.fromkeys(UNSUPPORTED)).unsupported == ()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"temperature": "hot"}, "generation_config.json: 'temperature' is 'hot'"),
        ({"top_k": 2.5}, "'top_k' is '2.5'"),
        ({"do_sample": 1}, "'do_sample' is '1'"),
        ({"stop_strings": [1]}, "'stop_strings' is"),
        ({"max_new_tokens": True}, "'max_new_tokens' is 'True'"),
        ({"eos_token_id": "x"}, "eos_token_id: must be a token id or a list of them"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path, said, says):
    with pytest.raises(ConfigError, match=says):
        in_folder(tmp_path, said)


def test_a_value_of_the_wrong_kind_in_config_json_is_named_there(tmp_path):
    with pytest.raises(ConfigError, match="config.json: 'top_p' is 'x'"):
        in_folder(tmp_path, None, {"top_p": "x"})
