"""The bucket index against faiss `IndexBinaryFlat`, one thread each, in one run: `make bench-index`.

Ratios within one run count, absolute times are of the machine. All answers are compared: ids in the order of distance
and then of item id. The last line is JSON.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.index import files, order
from rsfed.index.facets import Columns
from rsfed.index.files import Owner
from rsfed.index.filters import Filter
from rsfed.index.reader import IndexReader
from rsfed.index.search import View
from rsfed.index.segment import NONE_GONE, Part, Segment
from rsfed.index.warm import warm
from rsfed.index.writer import IndexWriter
from rsfed.lab.bench_index_data import Data, attributes, clustered, filters, real, uniform
from rsfed.lab.bench_index_report import Report, Times, last_line, machine, p99, picture, timed

K, QUERIES, FLAT_QUERIES = 20, 256, 16
FLAT = "faiss flat"
_RELEASE = b"\x05" * 32
_INDEX_ARRAYS = ("words", "starts", "sums", "spans", "slots", "orders", "copies")
_ADDED, _LATER = 5000, 2**40  # items of an append beside searches, and the first id of them


def nearest_ids(
    view: View, data: Data, *, shared: bool, where: Filter | None = None, k: int = K
) -> tuple[Times, list[Ids]]:
    """Ask one held-out code after the other for its nearest items."""

    def ask(code: NDArray[np.uint8]) -> Ids:
        return view.search(code[None], k=k, where=where)[0].nearest(k)[0]

    ask(data.queries[0])
    return timed(ask, data.queries, shared=shared)


def against_faiss(report: Report, data: Data, view: View, name: str, *, batch: bool) -> None:
    """Compare one query at a time, and a batch where wanted."""
    import faiss  # noqa: PLC0415 - an oracle of the bench, no dependency

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexBinaryFlat(data.bits)
    flat.add(data.codes)
    flat.search(data.queries[:1], K)
    flat_times, _ = timed(lambda code: flat.search(code[None], K), data.queries[:FLAT_QUERIES], shared=report.shared)
    own_times, own = nearest_ids(view, data, shared=report.shared)
    flat_batch, answers = timed(lambda codes: flat.search(codes, K)[1], [data.queries], shared=report.shared)
    report.compare(name, same=all(np.array_equal(a, b) for a, b in zip(own, answers[0], strict=True)))
    report.row(f"{name}: faiss flat, one query", flat_times)
    report.row(f"{name}: index, one query, {K} ids", own_times)
    report.figures[f"{name}_q1_speedup"] = float(flat_times.mean() / own_times.mean())
    report.figures[f"{name}_q1_p99_ms"] = p99(own_times)
    if batch:
        own_batch, _ = timed(
            lambda codes: [hits.nearest(K) for hits in view.search(codes, k=K)], [data.queries], shared=report.shared
        )
        report.say(f"{name}: batch of {QUERIES}: faiss {flat_batch[0]:.1f} ms, index {own_batch[0]:.2f} ms")
        report.figures[f"{name}_batch256_speedup"] = float(flat_batch[0] / own_batch[0])


def numpy_scan(report: Report, data: Data, view: View, name: str) -> None:
    """Time the same search of distinct codes by numpy alone: what the kernels are measured against."""
    segment = view.parts[0].segment
    sizes = np.diff(segment.starts.astype(np.int64))
    words = np.ascontiguousarray(segment.words[:, 0])

    def search(query: np.uint64) -> NDArray[np.int64]:
        distances = np.bitwise_count(words ^ query)
        reached = np.searchsorted(np.cumsum(np.bincount(distances, weights=sizes)), K)
        return np.flatnonzero(distances <= reached)

    queries = data.queries[:FLAT_QUERIES].view(">u8").astype(np.uint64)[:, 0]
    times, _ = timed(search, queries, shared=report.shared)
    report.row(f"{name}: numpy scan of distinct codes, buckets only", times)


def memory(report: Report, view: View, name: str) -> None:
    """Say what the index takes, apart from what filters know."""
    segment = view.parts[0].segment
    arrays = segment.arrays()
    per_code = sum(arrays[each].nbytes for each in _INDEX_ARRAYS) / max(len(segment.words), 1)
    rest = sum(array.nbytes for key, array in arrays.items() if "." in key) / len(segment)
    per_item = arrays["ids"].nbytes / len(segment)
    report.say(
        f"{name}: {len(segment):,} items, {len(segment.words):,} distinct codes, largest bucket "
        f"{int(np.diff(segment.starts.astype(np.int64)).max()):,}; {per_code:.1f} B per distinct code, "
        f"{per_item:.1f} B per item, facets {rest:.1f} B per item"
    )
    report.figures[f"{name}_bytes_per_code"] = per_code
    report.figures[f"{name}_bytes_per_item"] = (per_code * len(segment.words)) / len(segment) + per_item


def filtered(report: Report, data: Data, view: View, columns: Columns, name: str) -> None:
    """Search with filters that keep half, 1 % and 1 in 100,000, and compare some answers with brute force."""
    for share, where in filters().items():
        times, own = nearest_ids(view, data, where=where, shared=report.shared)
        keep = _passing(columns, where)
        report.row(f"{name}: filter keeps {len(keep):,}", times)
        report.figures[f"{name}_filter_{share}_p99_ms"] = p99(times)
        words = data.codes[keep].view(np.uint64)
        for code, ids in zip(data.queries[:8], own, strict=False):
            apart = np.bitwise_count(words ^ code.view(np.uint64)).sum(axis=1)
            report.compare(f"{name} {share}", same=np.array_equal(keep[np.lexsort((keep, apart))[:K]], ids))


def _passing(columns: Columns, where: Filter) -> NDArray[np.int64]:
    keep = np.ones(len(columns.kinds), np.bool_)
    if where.after is not None:
        keep &= columns.times[:, 1] >= where.after
    if where.before is not None:
        keep &= columns.times[:, 0] <= where.before
    if where.labels is not None:
        keep &= np.array([not where.labels.isdisjoint(kind[1:]) for kind in columns.kind_values])[columns.kinds]
    if where.box is not None:
        west, south, east, north = where.box
        boxes = columns.boxes
        keep &= (boxes[:, 0] <= east) & (boxes[:, 2] >= west) & (boxes[:, 1] <= north) & (boxes[:, 3] >= south)
    return np.flatnonzero(keep)


def keyed_pages(report: Report, data: Data, view: View, name: str) -> None:
    """Take items out of the nearest bucket in keyed order."""
    for k in (K, 1000):
        seeds = np.random.default_rng(4).integers(0, 2**63, (QUERIES, 1, 4)).astype(np.uint64)

        def page(code: NDArray[np.uint8], seed: order.Seeds, k: int = k) -> Ids:
            none = np.zeros(1, np.int64)
            return view.search(code[None], k=k)[0].take(none).keyed(seed, none, np.full(1, k))

        page(data.queries[0], seeds[0])
        times, _ = timed(page, data.queries, seeds, shared=report.shared)
        report.row(f"{name}: {k} items of one bucket in keyed order", times)
        report.figures[f"{name}_keyed_{k}_p99_ms"] = p99(times)


def in_memory(data: Data, columns: Columns | None = None) -> View:
    """Return the index of some codes, whose items are numbered."""
    segment = Segment.build(data.bits, np.arange(len(data.codes)), data.codes, columns)
    return View(data.bits, (Part(segment, NONE_GONE),))


def durable(report: Report, data: Data, folder: Path, name: str) -> None:
    """Build, load, append and delete on disk, and search while another process appends and merges."""
    owner, items = Owner(_RELEASE, name, data.bits), len(data.codes)
    with IndexWriter(folder, owner) as writer:
        built, _ = timed(lambda ids: writer.append(ids, data.codes), [np.arange(items)])
        report.figures[f"{name}_build_s"] = float(built[0] / 1e3)
        loaded, readers = timed(lambda _: IndexReader(folder, owner), range(3))
        report.figures[f"{name}_load_s"] = float(np.median(loaded) / 1e3)
        more = data.codes[np.random.default_rng(6).permutation(items)[: items // 100]]
        batches = [items + number * len(more) + np.arange(len(more)) for number in range(9)]
        added, _ = timed(lambda ids: writer.append(ids, more), batches)
        report.figures[f"{name}_append_100k_ms"] = float(np.median(added))
        synced, _ = timed(lambda content: files.replace(folder.parent / "synced", [content]), [bytes(4096)] * 9)
        report.row(f"{name}: a small file synced, and its folder", synced)
        segment = readers[0].view().parts[0].segment
        largest = int(np.argmax(np.diff(segment.starts.astype(np.int64))))
        members = segment.ids[segment.starts[largest] : segment.starts[largest + 1]]
        doomed = np.random.default_rng(5).permutation(members)[: min(items // 100, len(members) // 2)]
        removed, _ = timed(writer.remove, [doomed])
        report.figures[f"{name}_delete_100k_ms"] = float(removed[0])
    report.say(
        f"{name}: built durably in {built[0] / 1e3:.2f} s, loaded in {np.median(loaded):.1f} ms, {len(more):,} items "
        f"appended in {np.median(added):.1f} ms, {len(doomed):,} of one bucket deleted in {removed[0]:.1f} ms"
    )
    del readers
    reader = IndexReader(folder, owner)
    report.row(f"{name}: after that, {K} ids", nearest_ids(reader.view(), data, shared=report.shared)[0])
    beside(report, data, reader, folder, name)


def beside(report: Report, data: Data, reader: IndexReader, folder: Path, name: str) -> None:
    """Search while nobody changes the index, and while another process appends and merges.

    What is appended may come among the answers; without it they have to stay what they were.
    """

    def ask() -> tuple[Times, list[Ids]]:
        codes = np.tile(data.queries, (4, 1))
        return timed(lambda code: reader.view().search(code[None], k=K)[0].nearest(K)[0], codes, shared=report.shared)

    ask()
    quiet, before = ask()
    command = [sys.executable, "-m", "rsfed.lab.bench_index", "--change", str(folder), name, str(data.bits)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - for the type
        process.stdout.readline()
        items = len(reader.view())
        busy, meanwhile = ask()
        process.kill()
    changes = (len(reader.view()) - items) // _ADDED
    same = [
        np.array_equal(ids[ids < _LATER], old[: (ids < _LATER).sum()])
        for old, ids in zip(before, meanwhile, strict=True)
    ]
    report.compare(f"{name} beside changes", same=all(same) and changes > 0)
    report.row(f"{name}: quiet, {K} ids", quiet)
    report.row(f"{name}: while another process appends ({changes} times) and merges", busy)
    report.figures[f"{name}_busy_p99_ratio"] = p99(busy) / p99(quiet)


def change(folder: Path, name: str, bits: int) -> None:
    """Append and merge until somebody ends this process."""
    warm()
    with IndexWriter(folder, Owner(_RELEASE, name, bits)) as writer:
        rng, first = np.random.default_rng(9), _LATER
        print("ready", flush=True)
        while True:
            writer.append(np.arange(first, first + _ADDED), rng.integers(0, 256, (_ADDED, bits // 8), dtype=np.uint8))
            first += _ADDED
            writer.merge()


def curve(report: Report, largest: int) -> None:
    """Say how the cost of a query grows with the archive, beside that of a flat scan."""
    import faiss  # noqa: PLC0415 - an oracle of the bench, no dependency

    for power in range(4, int(np.log10(largest)) + 1):
        for make in (clustered, uniform):
            data = make(10**power, 64, 64)
            view = in_memory(data)
            times, own = nearest_ids(view, data, shared=report.shared)
            report.row(f"growth: {10**power:>11,} {data.name}", times)
            report.growth.setdefault(data.name, []).append((power, float(times.mean())))
            del view
            flat = faiss.IndexBinaryFlat(data.bits)
            flat.add(data.codes)
            asked = range(2 if power > 7 else 8)  # a scan of more takes long
            flat_times, answers = timed(
                lambda number, flat=flat, data=data: flat.search(data.queries[number : number + 1], K)[1][0],
                asked,
                shared=report.shared,
            )
            report.compare(f"{data.name} {10**power}", same=all(map(np.array_equal, answers, own)))
        report.row(f"growth: {10**power:>11,} {FLAT}", flat_times)
        report.growth.setdefault(FLAT, []).append((power, float(flat_times.mean())))


def measure(report: Report, items: int, folder: Path) -> None:
    """Run everything; the names of figures keep saying 10m, whatever size was asked for."""
    columns = attributes(items)
    for name, data, full in (
        ("clustered_10m", clustered(items, 64, QUERIES), True),
        ("uniform_10m", uniform(items, 64, QUERIES), False),
        ("bits128_10m", clustered(items, 128, QUERIES), False),
        ("real_10m", real(items, 64, QUERIES), True),
    ):
        view = in_memory(data, columns if full else None)
        if full:
            filtered(report, data, view, columns, name)
        against_faiss(report, data, view, name, batch=name == "clustered_10m")
        memory(report, view, name)
        if name == "clustered_10m":
            numpy_scan(report, data, view, name)
        if name == "real_10m":
            keyed_pages(report, data, view, name)
        del view
        if full:
            durable(report, data, folder / name, name)
    small = uniform(100_000, 64, QUERIES)
    times, _ = nearest_ids(in_memory(small), small, shared=report.shared)
    report.row("uniform 100,000: one query", times)
    report.figures |= {
        "small_100k_q1_ms": float(times.mean()),
        "filtered_1pct_p99_ms": report.figures["clustered_10m_filter_1pct_p99_ms"],
        "build_10m_s": report.figures["clustered_10m_build_s"],
        "load_10m_s": report.figures["clustered_10m_load_s"],
        "append_100k_ms": report.figures["clustered_10m_append_100k_ms"],
        "bytes_per_item": report.figures["clustered_10m_bytes_per_item"],
    }


def main() -> None:
    """Run the benchmark, or be the process that changes an index meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--largest", type=int, default=10_000_000, help="items at which the growth ends")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--shared", action="store_true", help="count the thread's own time of queries")
    parser.add_argument("--change", nargs=3, metavar=("FOLDER", "NAME", "BITS"))
    options = parser.parse_args()
    if options.change:
        change(Path(options.change[0]), options.change[1], int(options.change[2]))
    warm()
    report = Report(shared=options.shared)
    clock = "own time of the thread (others use the machine)" if report.shared else "wall time"
    report.say(f"{machine()}; queries in {clock}; {options.items:,} items where a name says 10m")
    with TemporaryDirectory(prefix="rsfed-bench-") as name:
        measure(report, options.items, Path(name))
    curve(report, options.largest)
    report.say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    report.say(last_line(report.figures, exact=report.exact))
    if options.report:
        options.report.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
        options.report.with_suffix(".svg").write_text(picture(report.growth), encoding="utf-8")


if __name__ == "__main__":
    main()
