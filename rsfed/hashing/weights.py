"""Weights as bytes and arrays: safetensors only, checked against the network before they are used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from torch import nn

from rsfed.errors import TrainingError
from rsfed.hashing.network import build_network
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import Architecture

State = dict[str, NDArray[np.float32]]
"""Weights by name, float32, in the order of the network."""


def init_weights(architecture: Architecture, spec: InputSpec, bits: int, seed: int) -> bytes:
    """Return fresh weights of an encoder as safetensors; the same arguments give the same bytes.

    Raises:
        CodeError: bits is not a width that codes may have.
        TrainingError: ENCODER_INPUT, the network cannot take this input.
    """
    return to_bytes(get_state(build_network(architecture, spec, bits, seed=seed)))


def get_state(model: nn.Module) -> State:
    """Return a copy of a network's weights."""
    return {name: tensor.detach().contiguous().numpy().copy() for name, tensor in model.state_dict().items()}


def set_state(model: nn.Module, state: Mapping[str, NDArray[np.float32]]) -> None:
    """Load weights into a network; it is unchanged when they do not fit.

    Raises:
        TrainingError: WEIGHTS_UNFIT, a name, shape or type differs, or a value is not finite.
    """
    expected = model.state_dict()
    if state.keys() != expected.keys():
        raise _unfit("they have other layers")
    for name, array in state.items():
        if array.shape != tuple(expected[name].shape):
            raise _unfit(f"{name} has another shape")
        if array.dtype != np.float32:
            raise _unfit(f"{name} is not float32")
        if not np.isfinite(array).all():
            raise _unfit(f"{name} is not finite")
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})


def to_bytes(state: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return weights as safetensors."""
    data: bytes = safetensors.save({name: np.ascontiguousarray(array) for name, array in state.items()})
    return data


def from_bytes(data: bytes) -> State:
    """Read weights; whether they fit a network, `set_state` says.

    Raises:
        TrainingError: WEIGHTS_UNFIT, the bytes are not safetensors.
    """
    try:
        state: State = safetensors.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _unfit("they are not a safetensors file") from error
    return state


def _unfit(why: str) -> TrainingError:
    return TrainingError(
        f"these weights do not fit the network: {why}; start from the weights of the current release",
        reason="WEIGHTS_UNFIT",
    )
