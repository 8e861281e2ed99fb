"""Kernels: loops over arrays that numba compiles for the machine they run on, and keeps compiled on disk.

The one module that knows numba. Nobody needs a compiler; `rsfed.index.warm` compiles everything at the start of a
process, so that no query waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Int = int | np.int64
"""A whole number, in and out of kernels."""


def kernel(function: Kernel) -> Kernel:
    """Compile a function on its first call; it runs without the interpreter's lock, so searches run side by side."""
    compiled: Kernel = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def inlined(function: Kernel) -> Kernel:
    """Compile a small function into each kernel that calls it."""
    compiled: Kernel = numba.njit(inline="always")(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def ones(typing_context: Any, word: Any) -> Any:  # noqa: ANN401 - numba's interface
    """Count the bits of a uint64 that are set: one instruction, which LLVM makes wide where the machine can."""
    del typing_context, word

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        popcount = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(popcount, arguments)

    return types.uint64(types.uint64), generate


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written: kernels are compiled once, for arrays of memory and of files alike."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
