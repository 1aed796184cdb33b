"""Asks an installed `transformers` for the logits of a folder: the one file that may import another framework.

A certificate is worth something because another implementation computed the same. The import is made when it is asked
for, nothing else of the package needs it, and it is not among the dependencies.
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def logits(folder: Path, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The logits [T, V] of each row of ids, by `transformers` in float32 on the CPU; no code of the folder is run.

    Raises `ModuleNotFoundError` where it is not installed, and whatever it raises where it does not load the folder.
    """
    import torch
    import transformers

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet(transformers):
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
        ).eval()
        with torch.no_grad():
            return [model(torch.tensor([list(row)]), use_cache=False).logits[0].float().numpy() for row in rows]


@contextlib.contextmanager
def _quiet(transformers):
    """Keeps its bars and its remarks off the terminal."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
