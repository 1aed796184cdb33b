"""A folder's tensors by name, read from memory maps as they are asked for. It knows no model and no family's tables."""

import mmap
from pathlib import Path

import numpy as np

from vishwamai.hf import safetensors
from vishwamai.hf.safetensors import Tensor


class Folder:
    """The tensors of one folder. `tensors` says of each what it is; `view` gives its values."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]):
        self.path, self.tensors = Path(path), tensors
        self._maps = {file: safetensors.open_map(file) for file in {tensor.path for tensor in tensors.values()}}

    def view(self, name: str) -> np.ndarray:
        """A tensor's values, read-only; nothing is read before it is used."""
        tensor = self.tensors[name]
        return tensor.view(self._maps[tensor.path])

    def release(self) -> None:
        """Lets go of the pages that were read so far."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for data in self._maps.values():
                data.madvise(mmap.MADV_DONTNEED)
