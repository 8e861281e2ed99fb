"""What a query costs: every method at every size, hashing included, and nothing is built that memory does not hold."""

from types import SimpleNamespace

from rsfed.lab.evaluate import timing
from rsfed.lab.evaluate.results import Row


def way(method, bits, query_ms=0.0):
    return Row(method, bits, {}, {}, (), learn_seconds=0, hash_ms=0, query_ms=query_ms)


def test_every_method_is_measured_at_every_size():
    rows = [way("float", None), way("kulsh", 16, 1.0), way("kslsh", 16, 2.0), way("centres", 32, 3.0)]
    found = timing.timings(rows, 12, 5, sizes=(3, 200))
    assert [(each.method, each.bits, each.items, each.bytes_per_item, each.hash_ms) for each in found] == [
        (row.method, row.bits, size, {None: 48, 16: 2, 32: 4}[row.bits], row.query_ms)
        for size in (3, 200)
        for row in rows
    ]
    assert all(each.search_ms > 0 and not each.extrapolated for each in found)


def test_a_query_costs_hashing_it_and_the_search():
    [found] = timing.timings([way("kslsh", 16, 2.0)], 12, 5, sizes=(200,))
    assert found.milliseconds == 2.0 + found.search_ms


def test_a_gallery_beyond_memory_is_not_built_and_its_time_is_in_proportion(monkeypatch):
    monkeypatch.setattr(timing.psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    monkeypatch.setattr(timing, "median_ms", lambda _search: 2.0)
    floats, codes = timing.timings([way("float", None), way("lsh", 16, 0.5)], 1024, 5, sizes=(10_000,))
    held = (1 << 18) // (4096 + 16)
    assert (floats.extrapolated, floats.milliseconds) == (True, 2.0 * 10_000 / held)
    assert (codes.extrapolated, codes.milliseconds) == (False, 2.5)
