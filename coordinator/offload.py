"""Long computations in a thread, so that other calls go on meanwhile; short ones here, where they start at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

MANY_ROWS = 4096  # take about a millisecond


async def sized(
    rows: int, function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Call a function that goes through so many rows."""
    if rows <= MANY_ROWS:
        return function(*arguments, **options)
    return await asyncio.to_thread(partial(function, *arguments, **options))
