"""What config.json says in two places, against transformers: the same folder gives the same logits in both.

Files that we refuse, since transformers drops a part of them, are in `tests/hf/test_said_twice.py`.
"""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.hf import config, weights
from vishwamai.models import transformer

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
TOKENS = np.random.default_rng(0).integers(0, 61, (1, 32))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 300.0}
PLAIN = {"rope_type": "default", "rope_theta": 300.0}
BY_TYPE = {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 5.0]}
LONG |= {"partial_rotary_factor": 0.75}
GONE = object()
FILES = {  # what is said: (the case whose weights it is of, what changes in its config.json)
    "theta beside a rotation": ("llama", {"rope_theta": 77.0, "rope_parameters": PLAIN}),
    "theta beside a rotation without one": ("llama", {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default"}}),
    "both dialects alike": ("llama", {"rope_scaling": YARN, "rope_parameters": YARN}),
    "both, with the theta beside": (
        "llama",
        {
            "rope_theta": 300.0,
            "rope_parameters": YARN,
            "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"},
        },
    ),
    "an empty scaling": ("llama", {"rope_scaling": {}, "rope_parameters": YARN}),
    "attn_factor": ("llama", {"rope_parameters": YARN | {"attn_factor": 0.8}}),
    "finetuned": ("llama", {"rope_parameters": YARN | {"finetuned": True}}),
    "attention_factor": ("llama", {"rope_parameters": YARN | {"attention_factor": 0.8}}),
    "nulls": ("llama", {"rope_parameters": YARN | {"attention_factor": None, "beta_fast": None}}),
    "type and rope_type": ("llama", {"rope_parameters": YARN | {"type": "yarn"}}),
    "a whole part": ("llama", {"rope_parameters": PLAIN | {"partial_rotary_factor": 1.0}}),
    "part beside a rotation": (
        "glm4",
        {"partial_rotary_factor": 0.25, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.75}},
    ),
    "part beside a rotation without one": ("glm4", {"partial_rotary_factor": 0.25, "rope_parameters": PLAIN}),
    "part and width": ("minimax_m2", {"rotary_dim": 8, "partial_rotary_factor": 0.25, "rope_parameters": PLAIN}),
    "one theta for two rotations": ("olmo3", {"rope_theta": 77.0, "rope_parameters": GONE}),
    "one theta beside two rotations": ("olmo3", {"rope_theta": 77.0, "rope_parameters": BY_TYPE}),
    "scaling of the full layers": ("olmo3", {"rope_scaling": YARN, "rope_parameters": GONE}),
    "two thetas": ("gemma3_text", {"rope_theta": 77.0, "rope_local_base_freq": 5.0, "rope_parameters": GONE}),
    "two thetas beside two rotations": (
        "gemma3_text",
        {"rope_theta": 77.0, "rope_local_base_freq": 5.0, "rope_parameters": BY_TYPE},
    ),
    "theta beside the family's own scaling": ("apertus", {"rope_theta": 77.0, "rope_parameters": GONE}),
    "theta beside ministral's own scaling": ("ministral3", {"rope_theta": 77.0, "rope_parameters": GONE}),
    "no theta in ministral's rotation": (
        "ministral3",
        {"rope_parameters": {k: v for k, v in YARN.items() if k != "rope_theta"} | {"llama_4_scaling_beta": 0.1}},
    ),
    "theta beside gpt_oss' own scaling": ("gpt_oss", {"rope_theta": 77.0, "rope_parameters": GONE}),
    "a length beside a scaling": ("phi4_mini", {"rope_parameters": LONG, "original_max_position_embeddings": 20}),
    "layers by name and by pattern": (
        "gemma3_text",
        {"layer_types": ["full_attention", *["sliding_attention"] * 6], "sliding_window_pattern": 3},
    ),
    "layers by name and from which on": (
        "qwen2",
        {"layer_types": ["sliding_attention", *["full_attention"] * 2], "max_window_layers": 1},
    ),
    "all layers slide": ("qwen2", {"layer_types": GONE, "max_window_layers": 0}),
    "dtypes": ("llama", {"dtype": "float32", "torch_dtype": "bfloat16"}),
}

NO_CHANGE = ("dtypes", "theta beside the family's own scaling")  # transformers overlooks the latter


@pytest.mark.parametrize("name", FILES)
def test_the_same_folder_gives_the_same_logits(name, tiny_models, tmp_path):
    import torch
    import transformers

    case, change = FILES[name]
    folder = tiny_models(case)[1]
    shutil.copy(folder / "model.safetensors", tmp_path)
    data = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v is not GONE}))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS), use_cache=False).logits.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is overlooked, as there
        found = config.read_pretrained(tmp_path)
    forward = jax.jit(lambda w: transformer.forward(w, jnp.asarray(TOKENS, jnp.int32), found.model)[0])
    mine = np.asarray(forward(weights.load_weights(tmp_path, found)))
    assert np.abs(mine - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    untouched = tiny_models(case)[0]
    if name not in NO_CHANGE:
        with torch.no_grad():
            before = untouched(torch.tensor(TOKENS), use_cache=False).logits.numpy()
        assert np.abs(mine - before).max() > 10 * TOLERANCE * np.abs(before).max()
