"""How often one caller may do what is dear: a host that knocks at the join port, a node that moves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rsfed.errors import Busy

_MAX_CALLERS = 4096  # remembered at once; the longest silent one is forgotten first


@dataclass(slots=True)
class RateLimit:
    """Token buckets, one for each caller: `burst` calls at once, then `per_second`.

    Attributes:
        burst: Calls that a caller may make at once.
        per_second: Calls that a caller may make in the long run.
        monotonic: Clock in seconds.
    """

    burst: float
    per_second: float
    monotonic: Callable[[], float]
    _callers: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # -> tokens, moment

    def take(self, caller: str) -> None:
        """Count one call of a host or member.

        Raises:
            Busy: RATE_LIMITED, it calls too often.
        """
        moment = self.monotonic()
        tokens, before = self._callers.pop(caller, (self.burst, moment))
        tokens = min(self.burst, tokens + (moment - before) * self.per_second)
        allowed = tokens >= 1
        self._callers[caller] = (tokens - 1 if allowed else tokens, moment)
        if len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
        if not allowed:
            wait = (1 - tokens) / self.per_second if self.per_second else None
            when = "later" if wait is None else f"in {max(1, round(wait))} s"
            raise Busy(f"too many of these calls; try again {when}", reason="RATE_LIMITED", retry_after=wait)
