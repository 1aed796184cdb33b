"""`vishwamai convert`: what it writes loads as the same model."""

import numpy as np

from vishwamai import VishwamAI
from vishwamai.cli import main

from .conftest import refused


def test_convert_writes_what_loads(capsys, folder, tmp_path):
    target = tmp_path / "new"
    assert main(["convert", str(folder), str(target), "--dtype", "float32"]) == 0
    a, b = VishwamAI.from_pretrained(folder), VishwamAI.from_pretrained(target)
    assert a.config == b.config
    np.testing.assert_array_equal(a.weights.embed, b.weights.embed)
    assert b.tokenizer.encode("hé") == [104, 195, 169]


def test_conversion_over_something_that_is_there(capsys, folder):
    assert "is there already" in refused(capsys, "convert", str(folder), str(folder))
