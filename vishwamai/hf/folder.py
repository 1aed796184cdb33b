"""A folder's tensors by name, read from memory maps as they are asked for. It knows no model and no family's tables."""

import mmap
from pathlib import Path

import numpy as np

from vishwamai.hf import safetensors
from vishwamai.hf.coded import QuantizedTensor, View
from vishwamai.hf.quantized import Storage
from vishwamai.hf.safetensors import Tensor


class Folder:
    """The tensors of one folder: `tensors` has their shapes and dtypes, `view` returns values.

    A tensor that the `storage` keeps quantised has the name and the shape of the plain one.
    """

    def __init__(self, path: Path, tensors: dict[str, Tensor], storage: Storage | None = None):
        self.path, self._stored = Path(path), tensors
        self._maps = {file: safetensors.open_map(file) for file in {tensor.path for tensor in tensors.values()}}
        self.tensors: dict[str, Tensor | QuantizedTensor] = dict(tensors)
        if storage is not None:
            self.tensors = storage.plain_tensors(tensors, self._raw)

    @property
    def size(self) -> int:
        """The bytes of all its tensors, as they are stored."""
        return sum(tensor.end - tensor.start for tensor in self._stored.values())

    def view(self, name: str) -> np.ndarray | View:
        """A tensor's values, read-only, sliced as an array is; nothing is read before `np.asarray` asks for it."""
        tensor = self.tensors[name]
        return tensor.plain() if isinstance(tensor, QuantizedTensor) else self._raw(name)

    def release(self) -> None:
        """Lets go of the pages that were read so far."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for data in self._maps.values():
                data.madvise(mmap.MADV_DONTNEED)

    def _raw(self, name: str) -> np.ndarray:
        tensor = self._stored[name]
        return tensor.view(self._maps[tensor.path])
