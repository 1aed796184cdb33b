"""What a folder's files say of generating, against transformers' `generate` on the same folder, token for token.

Each case is a generation_config.json (or none) beside a config.json with keys of its own. Nothing is drawn.
"""

import json
import shutil
import string

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from vishwamai import VishwamAI, VishwamAITokenizer

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

PROMPT = np.random.default_rng(5).integers(3, 61, 7).tolist()
LIKELY = "likely"  # stands for a token that the model says early

# name: (generation_config.json or None, keys of config.json, arguments of the call)
CASES = {
    "a repetition penalty": ({"repetition_penalty": 1.6, "max_new_tokens": 12}, {}, {}),
    "a repetition penalty and beams": ({"repetition_penalty": 1.6, "max_new_tokens": 9, "num_beams": 3}, {}, {}),
    "a penalty that the call takes back": (
        {"repetition_penalty": 1.6},
        {},
        {"repetition_penalty": 1.0, "max_new_tokens": 9},
    ),
    "beams": (
        {"num_beams": 3, "length_penalty": 0.2, "early_stopping": True, "max_new_tokens": 8, "eos_token_id": LIKELY},
        {},
        {},
    ),
    "beams that the call takes back": ({"num_beams": 3, "max_new_tokens": 8}, {}, {"num_beams": 1}),
    "several texts": ({"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}, {}, {}),
    "sampling that is not asked for": ({"temperature": 0.3, "top_k": 5, "top_p": 0.7, "max_new_tokens": 9}, {}, {}),
    "sampling that the call refuses": (
        {"do_sample": True, "temperature": 0.3, "max_new_tokens": 9},
        {},
        {"do_sample": False},
    ),
    "the whole length": ({"max_length": 12}, {}, {}),
    "both lengths": ({"max_length": 30, "max_new_tokens": 4}, {}, {}),
    "a length of the call": ({"max_length": 12}, {}, {"max_new_tokens": 8}),
    "an end": ({"eos_token_id": LIKELY, "max_new_tokens": 12}, {"eos_token_id": 2}, {}),
    "several ends": ({"eos_token_id": [1, LIKELY], "max_new_tokens": 12}, {"eos_token_id": 2}, {}),
    "the end of config.json": (None, {"eos_token_id": LIKELY}, {"max_new_tokens": 12}),
    "an end of config.json alone": ({"pad_token_id": 0}, {"eos_token_id": LIKELY}, {"max_new_tokens": 12}),
    "an end that is taken back": ({"eos_token_id": None}, {"eos_token_id": LIKELY}, {"max_new_tokens": 12}),
    "settings of config.json": (None, {"max_length": 13, "eos_token_id": 2}, {}),
    "padding that is an end": ({"eos_token_id": [1, LIKELY], "pad_token_id": 1, "max_new_tokens": 12}, {}, {}),
}


@pytest.fixture(scope="module")
def both(tiny_models, tmp_path_factory):
    """`both(files)` -> (transformers' model, ours), of the folder of a tiny model with these files in it."""
    import transformers

    model, source = tiny_models("llama3")
    first = VishwamAI.from_pretrained(source).generate([PROMPT], max_new_tokens=5, eos_token_id=[])[0].tolist()
    likely = first[-1]

    def put(value):
        return likely if value == LIKELY else [put(v) for v in value] if isinstance(value, list) else value

    def read(generation, config):
        folder = tmp_path_factory.mktemp("folder")
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / "generation_config.json").unlink()
        plain = json.loads((source / "config.json").read_text())
        changed = {name: put(value) for name, value in config.items()}
        (folder / "config.json").write_text(json.dumps(plain | {"eos_token_id": None} | changed))
        if generation is not None:
            said = {name: put(value) for name, value in generation.items()}
            (folder / "generation_config.json").write_text(json.dumps(said))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        return theirs, VishwamAI.from_pretrained(folder)

    return read


@pytest.mark.parametrize("case", CASES)
def test_a_folder_generates_as_in_transformers(case, both):
    import torch

    generation, config, call = CASES[case]
    theirs, ours = both(generation, config)
    expected = theirs.generate(torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT), dtype=int), **call)
    found = ours.generate([PROMPT], **call)
    assert found.tolist() == expected.tolist()


def test_a_batch_whose_padding_is_an_end_token_with_its_mask(both):
    import torch

    theirs, ours = both({"eos_token_id": [1, LIKELY], "pad_token_id": 1, "repetition_penalty": 1.3}, {})
    rows = [[1, 1, 1, *PROMPT[:4]], PROMPT]
    mask = [[0, 0, 0, 1, 1, 1, 1], [1] * 7]
    expected = theirs.generate(torch.tensor(rows), attention_mask=torch.tensor(mask), max_new_tokens=10)
    found = ours.generate(np.array(rows), attention_mask=np.array(mask), max_new_tokens=10)
    assert found.tolist() == expected.tolist()


def test_logits_with_a_mask_at_either_side(both):
    import torch

    theirs, ours = both({}, {})
    for rows, mask in (([[0, 0, *PROMPT[:5]], PROMPT], [[0, 0] + [1] * 5, [1] * 7]), ([PROMPT], [[1] * 7])):
        tensors = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
        tensors["position_ids"] = (tensors["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            expected = theirs(**tensors).logits.numpy()
        found = np.asarray(ours(np.array(rows), np.array(mask)))
        np.testing.assert_allclose(found[np.array(mask) > 0], expected[np.array(mask) > 0], atol=1e-4)


def test_stop_texts_end_where_transformers_ends(both):
    import torch
    from transformers import PreTrainedTokenizerFast

    theirs, ours = both({"max_new_tokens": 12, "repetition_penalty": 1.9}, {})
    letters = (string.ascii_letters + string.digits)[: ours.config.vocab_size]
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.decoder = decoders.Fuse()
    new = [letters[i] for i in ours.generate([PROMPT])[0].tolist()[len(PROMPT) :]]
    at = next(i for i, letter in enumerate(new) if 2 <= i < 10 and letter not in [*new[:i], *"abcdef"])
    special = new[at]
    their_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=[special])
    our_tokenizer = VishwamAITokenizer(Tokenizer.from_str(backend.to_str())).with_tokens(special_tokens=(special,))
    says = VishwamAI(ours.config, ours.weights, tokenizer=our_tokenizer, generation_config=ours.generation_config)
    for stop in (special, new[at - 1] + special, special + new[at + 1], new[at - 2] + new[at - 1], special + special):
        expected = theirs.generate(torch.tensor([PROMPT]), stop_strings=[stop], tokenizer=their_tokenizer)
        found = says.generate([PROMPT], stop=stop, return_dict=True)
        assert found.sequences.tolist() == expected.tolist(), stop
        assert found.finish_reasons == ["stop" if len(expected[0]) < len(PROMPT) + 12 else "length"]
