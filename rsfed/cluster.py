"""Work that is done ahead by a Dask cluster: by workers that may run on other machines.

They take the place of the processes of `rsfed.crew`. Workers are part of the node: they open its files, under the paths
that they have here, and whoever reaches the scheduler can run code on them. Dask is an extra, loaded only here.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rsfed.crew import Part, Task, failed
from rsfed.errors import ArchiveError, ConfigError

_CONNECT_S = 30.0  # to reach the scheduler, and for it to have a worker
_LOOK_S = 30.0  # between looks whether there still are workers
_AHEAD = 2  # tasks for each thread of the workers, so that none waits for us


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """Connect to the scheduler of a Dask cluster.

    Args:
        address: Where it listens, such as `tcp://10.0.0.5:8786`; for `tls://` the certificates are those of the
            configuration of Dask.

    Raises:
        ConfigError: EXTRA_MISSING, Dask is not installed.
        ArchiveError: SCHEDULER, it cannot be reached, or has no worker.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - an extra, loaded only where it is used
    except ImportError as error:
        raise ConfigError(
            "a cluster needs Dask; install rsfed with its extra dask, here and on all workers: "
            "pip install 'rsfed[dask]'",
            reason="EXTRA_MISSING",
        ) from error
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, RuntimeError, TypeError) as error:  # it says so for an address that is none, too
        raise _unreachable("it cannot be reached") from error
    try:
        _await_workers(client)
        yield Cluster(client)
    finally:
        with suppress(OSError):  # it may be gone; what went wrong is told already
            client.close(_CONNECT_S)


class Cluster:
    """The workers of a cluster, each of which must see the files under the paths that they have here.

    Args:
        client: A `distributed.Client`.
    """

    elsewhere = True

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - Dask has no types
        self._client = client

    def parts(
        self, work: Callable[[Task], Iterable[Part]], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Part | None], None, None]:
        """Yield each task with each of its parts, as `rsfed.crew.Hands` says; those of a task come together.

        A task whose worker dies is given to others, until that has happened to it four times or as often as the
        configuration of Dask says; then once more while nothing else is under way.
        """
        coming = iter(tasks)
        held = self._held(work)
        busy: deque[tuple[Task, Any]] = deque()
        try:
            while True:
                room = self._room()
                while len(busy) < room and (task := next(coming, None)) is not None:
                    busy.append((task, self._given(held, task)))
                if not busy:
                    return
                task, future = busy[0]
                made = self._made(future)
                busy.popleft()
                if made is None:  # Dask blames whatever a dying worker had; by itself, only what kills is to blame
                    self._settle([each for _, each in busy])
                    held = self._held(work)
                    made = self._made(self._given(held, task))
                yield from ((task, part) for part in ([None] if made is None else made))
        finally:
            with suppress(OSError, RuntimeError):  # it may be gone
                self._client.cancel([held, *(future for _, future in busy)])

    def _held(self, work: object) -> Any:  # noqa: ANN401 - Dask has no types
        """Return the work as a task of its own: it goes to each worker once, and is made again where one dies."""
        return self._client.submit(pickle.loads, pickle.dumps(work), pure=False)

    def _given(self, held: Any, task: object) -> Any:  # noqa: ANN401 - Dask has no types
        return self._client.submit(_parts_of, held, pickle.dumps(task), pure=False)

    def _settle(self, futures: list[Any]) -> None:
        """Wait until nothing is under way."""
        for future in futures:
            self._made(future)

    def _room(self) -> int:
        """Return how many tasks may be under way."""
        try:
            return _AHEAD * max(1, sum(int(each) for each in self._client.nthreads().values()))
        except (OSError, RuntimeError) as error:
            raise _unreachable("the connection to it is lost") from error

    def _made(self, future: Any) -> list[Any] | None:  # noqa: ANN401 - Dask has no types
        """Wait for the parts of a task and return them; None where workers died over it.

        Raises:
            ArchiveError: SCHEDULER, there are no workers any more; WORKERS, the work fails otherwise than by dying.
        """
        from distributed import CancelledError  # noqa: PLC0415 - an extra, loaded only where it is used
        from distributed.scheduler import KilledWorker  # noqa: PLC0415

        while True:
            try:
                return list(future.result(timeout=_LOOK_S))
            except KilledWorker:
                return None
            except ImportError as error:
                raise _unreachable("its workers lack rsfed, or have another version of it") from error
            except (Exception, CancelledError) as error:
                # It may be finished and late all the same: what a worker made before it died is made again.
                if not isinstance(error, TimeoutError) or future.status == "error":
                    if future.status in {"error", "finished"}:
                        raise failed(type(error).__name__) from error
                    raise _unreachable("the connection to it is lost") from error
            _await_workers(self._client)  # it takes long, or there is nobody who does it


def _parts_of(work: Callable[[Any], Iterable[Any]], task: bytes) -> list[Any]:
    """Do the work of a task, on a worker."""
    return list(work(pickle.loads(task)))  # noqa: S301 - whoever sends tasks can run code here anyway


def _await_workers(client: Any) -> None:  # noqa: ANN401 - Dask has no types
    try:
        client.wait_for_workers(1, timeout=_CONNECT_S)
    except (TimeoutError, OSError) as error:
        raise _unreachable("it has no workers") from error


def _unreachable(what: str) -> ArchiveError:
    return ArchiveError(
        f"the Dask scheduler will not do: {what}; check its address and that workers run beside it", reason="SCHEDULER"
    )
