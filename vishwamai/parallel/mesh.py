"""Meshes of devices with the project's axis names. It knows no weights and no rules.

data and fsdp share the batch (fsdp also shards the weights), expert shares the batch and the experts, tensor shards
heads and widths, context the sequence, stage the layers.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from vishwamai.errors import ConfigError

AXES = ("data", "fsdp", "expert", "tensor", "context", "stage")


def make_mesh(devices: Sequence | None = None, **sizes: int) -> Mesh:
    """A mesh over `devices` (all of them by default): `make_mesh(fsdp=4, tensor=2)`.

    Axes stand in the order of `AXES`; one of them may be -1 and takes the devices that are left over. Raises
    `ConfigError` for an unknown axis or sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = fill_axes(sizes or {"fsdp": -1}, len(devices))
    names = tuple(axis for axis in AXES if axis in sizes)
    grid = np.array(devices, dtype=object).reshape([sizes[n] for n in names])
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def fill_axes(sizes: dict[str, int], n_devices: int) -> dict[str, int]:
    """The sizes with -1 replaced by what is left over, checked against the number of devices."""
    for axis, size in sizes.items():
        if axis not in AXES:
            raise ConfigError(f"mesh axis {axis!r} is not known; use {', '.join(AXES)}")
        if size != -1 and size < 1:
            raise ConfigError(f"mesh axis {axis} has size {size}; use 1 or more, or -1 for what is left over")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(f"mesh axes {' and '.join(open_axes)} are both -1; only one can take what is left over")
    known = math.prod(size for size in sizes.values() if size != -1)
    filled = {axis: n_devices // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != n_devices:
        shape = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ConfigError(f"a mesh of {shape} does not use {n_devices} devices; make the sizes multiply to that number")
    return filled
