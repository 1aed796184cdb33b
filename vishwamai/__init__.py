"""VishwamAI: load, generate, train, distil and reason with language models on TPU, GPU and CPU, in JAX.

The public names are loaded on first use, so importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vishwamai.api import PromptCache, VishwamAI
    from vishwamai.generation.sampling import SamplingParams
    from vishwamai.text.tokenizer import VishwamAITokenizer

__version__ = "0.1.0"
__all__ = ["PromptCache", "SamplingParams", "VishwamAI", "VishwamAITokenizer", "__version__"]

_HOMES = {
    "PromptCache": "vishwamai.api",
    "SamplingParams": "vishwamai.generation.sampling",
    "VishwamAI": "vishwamai.api",
    "VishwamAITokenizer": "vishwamai.text.tokenizer",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'vishwamai' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
