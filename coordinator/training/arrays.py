"""Weights in Flower's records, read where they lie: Flower's own way copies them at every look."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType
from numpy.typing import NDArray


def view(array: Array) -> NDArray[Any]:
    """Return an array as numpy sees it, read-only and without a copy; the array's own words of its form do not count.

    Raises:
        ValueError, and others: it is none of numpy's; whoever reads what came of elsewhere catches all.
    """
    if array.stype != SType.NUMPY:
        raise ValueError("the array is not in numpy's form")
    stream = BytesIO(array.data)  # shares the bytes: it would copy when written to
    np.lib.format.read_magic(stream)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    flat = np.frombuffer(array.data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def views(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return all arrays of a record as numpy sees them, read-only and without a copy."""
    return {name: view(array) for name, array in record.items()}


def record_of(arrays: Iterable[tuple[str, NDArray[Any]]]) -> ArrayRecord:
    """Return named arrays as a record; each is let go before the next is asked for."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays})


def as_float32(record: ArrayRecord) -> ArrayRecord:
    """Return weights as nodes take them: some strategies compute them in double precision."""
    return ArrayRecord(
        {name: a if a.dtype == "float32" else Array(view(a).astype(np.float32)) for name, a in record.items()}
    )
