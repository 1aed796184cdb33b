"""Writes a model as a Hugging Face folder, by the tables that folders are read by."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai import files
from vishwamai.errors import CheckpointError
from vishwamai.hf import export, safetensors
from vishwamai.hf.assembly import ModelWeights, assemble, named_weights
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.weights import spec
from vishwamai.weights.quantize import is_quantized


@contextmanager
def stage_folder(folder: Path, beside: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder to `save` a model into, and other files; at the end they replace at once what `folder` has of such.

    `beside` are patterns of the other files. In a run of several processes the first one's does so.
    """
    if jax.process_index() != 0:
        yield folder
        return
    try:
        with files.replace_files(folder, last="config.json", obsolete=safetensors.WEIGHT_FILES + beside) as staging:
            yield staging
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror})") from None


def make_folder(folder: Path) -> None:
    """Makes a folder where there is none. Raises `CheckpointError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from None


def save_model(
    folder: Path,
    w: Transformer,
    cfg: ModelConfig,
    *,
    model_type: str | None = None,
    generation: GenerationConfig | None = None,
    dtype=None,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers loads: weights, config.json, generation_config.json.

    Where they are not given, `model_type` is chosen by the model's switches and `dtype` is that of the weights. In a
    run of several processes each calls it and the first one writes. Raises `ConfigError` where no family expresses the
    model.
    """
    model_type, folder = export.choose_family(cfg, model_type), Path(folder)
    kept = jax.tree.leaves(w.embed)[0].dtype
    dtype, writing = np.dtype(jnp.dtype(dtype or kept)), jax.process_index() == 0
    specs = spec.with_dtype(transformer.specs(cfg), dtype)
    _check(w, specs)
    checkpoint = assemble(model_type, cfg, w, ModelWeights(w, specs))
    if writing:
        make_folder(folder)
    safetensors.write_folder(folder, checkpoint.tensors, max_file_bytes=max_file_bytes, writing=writing)
    if writing:
        generation = generation or GenerationConfig()
        export.write_configs(folder, cfg, checkpoint.model_type, generation, dtype.name, checkpoint.quantization)


def _check(w: Transformer, specs: Transformer) -> None:
    leaves = named_weights(w).values()
    shapes = [leaf.values.shape if is_quantized(leaf) else getattr(leaf, "shape", None) for leaf in leaves]
    if shapes != [param.shape for param in spec.leaves(specs)]:
        raise CheckpointError("these weights are not of this configuration's shapes; merge or detach adapters first")
