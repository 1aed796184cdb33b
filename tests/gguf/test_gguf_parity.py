"""Logits beside those of transformers, which reads the same GGUF file by itself, and SmolLM2 as people have it.

SmolLM2 is what `make smollm` fetches; without it these are skipped.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vishwamai import VishwamAI

from .conftest import write_llama

SMOLLM = Path(__file__).parents[2] / ".smollm" / "SmolLM2-135M-Instruct.Q4_1.gguf"
IDS = [[504, 3575, 282, 4649, 314, 8, 1000, 49000, 3, 77, 20000, 512]]
CAPITAL = "The capital of France is"
needs_smollm = pytest.mark.skipif(not SMOLLM.exists(), reason="SmolLM2 is not here; make smollm fetches it (98 MB)")
no_torch = not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"))
needs_torch = pytest.mark.skipif(no_torch, reason="transformers and torch are not installed; use make parity")


def reference_logits(path: Path, ids: list[list[int]]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def check_logits(path: Path, ids: list[list[int]]) -> None:
    wanted = reference_logits(path, ids)
    limit = 1e-5 * np.abs(wanted).max()
    plain = np.asarray(VishwamAI.from_pretrained(path, dtype="float32")(ids))
    np.testing.assert_allclose(plain, wanted, rtol=0, atol=limit)
    kept = np.asarray(VishwamAI.from_pretrained(path, dtype="float32", quantization="keep")(ids))
    np.testing.assert_allclose(kept, plain, rtol=0, atol=limit)


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1", "Q5_0"])
def test_a_small_llama(kind, tmp_path):
    check_logits(write_llama(tmp_path / "model.gguf", kind), [[5, 90, 200, 17, 255, 1, 30]])


@pytest.mark.parity
@pytest.mark.by_turns
@needs_torch
@needs_smollm
def test_smollm2():
    check_logits(SMOLLM, IDS)


@pytest.mark.by_turns
@needs_smollm
def test_smollm2_knows_the_capital_of_france():
    model = VishwamAI.from_pretrained(SMOLLM)
    assert model.complete(CAPITAL, max_new_tokens=2) == [" Paris."]
    reply = model.generate_chat([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=30)
    assert "Paris" in reply.content
