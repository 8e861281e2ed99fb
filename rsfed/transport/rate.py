"""How often one host may knock at the join port."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rsfed.errors import Busy

_MAX_HOSTS = 4096  # remembered at once; the longest silent one is forgotten first


@dataclass(slots=True)
class RateLimit:
    """Token buckets, one for each host: `burst` calls at once, then `per_second`.

    Attributes:
        burst: Calls that a host may make at once.
        per_second: Calls that a host may make in the long run.
        monotonic: Clock in seconds.
    """

    burst: float
    per_second: float
    monotonic: Callable[[], float]
    _hosts: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # host -> tokens, moment

    def take(self, host: str) -> None:
        """Count one call of a host.

        Raises:
            Busy: RATE_LIMITED, the host calls too often.
        """
        moment = self.monotonic()
        tokens, before = self._hosts.pop(host, (self.burst, moment))
        tokens = min(self.burst, tokens + (moment - before) * self.per_second)
        allowed = tokens >= 1
        self._hosts[host] = (tokens - 1 if allowed else tokens, moment)
        if len(self._hosts) > _MAX_HOSTS:
            self._hosts.popitem(last=False)
        if not allowed:
            raise Busy("too many calls from this address; try again in a minute", reason="RATE_LIMITED")
