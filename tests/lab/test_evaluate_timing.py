"""What a query costs: every way at every size, and nothing is built that memory does not hold."""

from types import SimpleNamespace

from rsfed.lab.evaluate import timing


def test_float_features_and_every_width_are_measured_at_every_size():
    found = timing.timings(12, [16, 32], 5, sizes=(3, 200))
    assert [(each.bits, each.items, each.bytes_per_item) for each in found] == [
        (None, 3, 48), (16, 3, 2), (32, 3, 4), (None, 200, 48), (16, 200, 2), (32, 200, 4)
    ]  # fmt: skip
    assert all(each.milliseconds > 0 and not each.extrapolated for each in found)


def test_a_gallery_beyond_memory_is_not_built_and_its_time_is_in_proportion(monkeypatch):
    monkeypatch.setattr(timing.psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    monkeypatch.setattr(timing, "_median", lambda _search: 2.0)
    floats, codes = timing.timings(1024, [16], 5, sizes=(10_000,))
    held = (1 << 18) // (4096 + 16)
    assert (floats.extrapolated, floats.milliseconds) == (True, 2.0 * 10_000 / held)
    assert (codes.extrapolated, codes.milliseconds) == (False, 2.0)
