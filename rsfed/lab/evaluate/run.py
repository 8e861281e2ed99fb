"""The evaluation itself: every method, width and seed on the same splits, measured alike."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.errors import UsageError
from rsfed.hashing.evaluation.curves import PairHistograms
from rsfed.hashing.evaluation.tables import Spread, spread
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division, Split, divide
from rsfed.lab.evaluate.measures import (
    Case,
    cap_in_words,
    chance_figures,
    code_figures,
    float_figures,
    leaks,
    left_out_precision,
    without_relevant,
)
from rsfed.lab.evaluate.methods import FLOAT, HASHES, Features, Task, check, describe, training_in_words
from rsfed.lab.evaluate.results import Evaluation, Protocol, Row, Snapshot
from rsfed.lab.evaluate.timing import median_ms

_Job = tuple[int, str, int | None]  # seed, method, width
Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

    Attributes:
        methods: Names of the methods.
        bits: Widths of the codes.
        seeds: Number of seeds, from 0.
        split: How images are split.
        k: Cut-off of every figure.
        epochs: Passes over the training part.
        left_out: Classes that are left out of training for the figure of that name; 0 for none.
    """

    methods: tuple[str, ...]
    bits: tuple[int, ...]
    seeds: int
    split: Split
    k: int
    epochs: int
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method at one width with one seed."""

    figures: dict[str, float]
    per_class: dict[str, float]
    pairs: PairHistograms
    codes: Codes | None = None
    learn_seconds: float = 0.0
    hash_ms: float = 0.0
    query_ms: float = 0.0


def evaluate(
    images: ImageSet,
    settings: Settings,
    say: Callable[[str], None] = lambda _line: None,
    *,
    strata: ImageSet | None = None,
) -> Evaluation:
    """Split, learn, hash and measure.

    Args:
        images: The images.
        settings: What to do.
        say: Told each step.
        strata: The same images under the labels by which they are split; their own where this is left out.

    Raises:
        UsageError: the images do not allow the split, or leaving out so many classes.
        TrainingError: a method cannot be trained on them; as far as that can be told, before anything is done.
    """
    for method, bits in _pairs(settings):
        if bits is not None:
            check(method, len(images.classes), bits)
    divisions = [divide(strata or images, settings.split, seed) for seed in range(settings.seeds)]
    described = _described(images, divisions)
    cases = [Case(images, each, division, settings.k) for each, division in zip(described, divisions, strict=True)]
    if capped := cap_in_words(cases[0]):
        say(capped)
    drawn = [_drawn(images, each.train, settings.left_out, seed) for seed, each in enumerate(divisions)]

    def one(job: _Job) -> Outcome:
        seed, method, bits = job
        case = cases[seed]
        if bits is None:
            outcome = Outcome(*float_figures(case))
        else:
            task = Task(images, case.features, case.division.train, bits, seed, settings.epochs)
            outcome = _hash(case, method, task, drawn[seed])
        say(f"  seed {seed}: {_name(method, bits)}: mAP@{settings.k} {outcome.figures['map_found']:.3f}")
        return outcome

    jobs = [(seed, method, bits) for seed in range(settings.seeds) for method, bits in _pairs(settings)]
    outcomes: dict[tuple[str, int | None], list[Outcome]] = defaultdict(list)
    for (_, method, bits), outcome in zip(jobs, side_by_side(one, jobs), strict=True):
        outcomes[method, bits].append(outcome)
    chances = [chance_figures(case) for case in cases]
    return Evaluation(
        protocol=_protocol(images, settings, divisions[0], by_class=not (strata or images).multi_label),
        rows=tuple(_row(method, bits, found) for (method, bits), found in outcomes.items()),
        chance={name: _spread([each[name] for each in chances]) for name in chances[0]},
        leaks=leaks(cases[0]),
        left_out=tuple(tuple(images.classes[each] for each in classes) for classes in drawn if len(classes)),
        timings=(),
        features=cases[0].features.shape[1],
        division=divisions[0],
        relevant_labels=images.labels,
        snapshots=tuple(
            Snapshot(method, bits, found[0].pairs, found[0].codes)
            for (method, bits), found in outcomes.items()
            if bits in {None, max(settings.bits)}
        ),
    )


def _described(images: ImageSet, divisions: Sequence[Division]) -> list[Features]:
    """Return the features of all images for each split; those of a trunk are the same for all, and held once."""
    if images.trunk is not None:
        return [describe(images, divisions[0].train)] * len(divisions)
    return [describe(images, each.train) for each in divisions]


def side_by_side(work: Callable[[Work], Result], jobs: Sequence[Work]) -> list[Result]:
    """Do as many jobs at a time as there are cores, each with its share of them: that keeps all cores busy."""
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, len(jobs))
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, jobs))
    finally:
        torch.set_num_threads(before)


def _pairs(settings: Settings) -> Iterator[tuple[str, int | None]]:
    for method in settings.methods:
        yield from ((method, bits) for bits in ([None] if method == FLOAT else settings.bits))


def _name(method: str, bits: int | None) -> str:
    return method if bits is None else f"{method} {bits}"


def _hash(case: Case, method: str, task: Task, drawn: NDArray[np.int64]) -> Outcome:
    start = time.perf_counter()
    hasher = HASHES[method](task)
    learnt = time.perf_counter()
    codes = hasher(np.arange(len(case.images)))
    hashed = time.perf_counter()
    query_ms = median_ms(lambda: hasher(case.division.queries[:1]))
    figures, per_class, pairs = code_figures(case, codes)
    if len(drawn):
        partial = HASHES[method](replace(task, train=_without(task.images, task.train, drawn)))
        figures["left_out"] = left_out_precision(case, partial(np.arange(len(case.images))), drawn)
    hash_ms = 1000 * (hashed - learnt) / len(case.images)
    return Outcome(figures, per_class, pairs, codes, learnt - start, hash_ms, query_ms)


def check_left_out(count: int, classes: int) -> None:
    """Find out whether so many classes can be left out of training.

    Raises:
        UsageError: fewer than two would be left.
    """
    if count > classes - 2:
        raise UsageError(f"--left-out {count} leaves fewer than two of {classes} classes to train on")


def _drawn(images: ImageSet, train: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw the classes that are left out of training; of the others at least two must stay to train on."""
    check_left_out(count, len(images.classes))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(images.classes))[:count])
    if count and np.count_nonzero(images.labels[_without(images, train, drawn)].any(axis=0)) < 2:
        raise UsageError(
            f"--left-out {count} leaves images of fewer than two classes to train on with seed {seed}, because images "
            "with any label that is left out go too; leave out fewer classes, or add images without those labels"
        )
    return drawn


def _without(images: ImageSet, train: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the images of the training part that have none of the drawn classes."""
    return train[~images.labels[train][:, drawn].any(axis=1)]


def _row(method: str, bits: int | None, found: Sequence[Outcome]) -> Row:
    return Row(
        method=method,
        bits=bits,
        figures={name: _spread([each.figures[name] for each in found]) for name in found[0].figures},
        per_class={name: _spread([each.per_class[name] for each in found]) for name in found[0].per_class},
        runs=tuple(each.figures for each in found),
        learn_seconds=float(np.mean([each.learn_seconds for each in found])),
        hash_ms=float(np.mean([each.hash_ms for each in found])),
        query_ms=float(np.mean([each.query_ms for each in found])),
    )


def _spread(values: Sequence[float]) -> Spread:
    """Sum up one value for each seed; those that are not defined do not count."""
    known = [value for value in values if not math.isnan(value)]
    return spread(known) if known else Spread(math.nan, None, 0)


def _protocol(images: ImageSet, settings: Settings, division: Division, *, by_class: bool) -> Protocol:
    return Protocol(
        source=images.listing.root.name,
        images=len(images),
        skipped=images.skipped,
        unlabelled=images.listing.unlabelled,
        classes=images.classes,
        multi_label=images.multi_label,
        split=settings.split,
        by_class=by_class,
        seeds=tuple(range(settings.seeds)),
        k=settings.k,
        train=len(division.train),
        gallery=len(division.gallery),
        queries=len(division.queries),
        without_relevant=without_relevant(images, division),
        features=_features_in_words(images),
        epochs=settings.epochs,
        training=training_in_words(settings.methods, settings.epochs, on_trunk=images.trunk is not None),
    )


def _features_in_words(images: ImageSet) -> str:
    if images.trunk is not None:
        averaged = ", the mean over eight positions" if images.trunk.turns else ""
        return f"{images.trunk.features} features of a frozen trunk{averaged}; networks train a head on them"
    group = images.spec.groups[0]
    return (
        "mean, deviation and histogram of each band for methods without a network; networks take "
        f"{len(group.bands)} bands of {group.size} x {group.size} pixels"
    )
