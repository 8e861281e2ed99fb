"""Training on the own archive alone: contacts nobody, keeps nothing, says what the archive by itself is good for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from node.catalogue import Catalogue
from node.reading import reader
from node.recipe import reading_of
from node.training.holdout import split
from node.training.patches import read_patches, sample
from rsfed.codes import Codes
from rsfed.config import CoordinatorTraining, NodeConfig
from rsfed.config_objectives import DEFAULT_OBJECTIVE, ClosedFormSection, ObjectiveSection, recorded_objective
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import RetrievalFigures, evaluate
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.refit import fit, sums
from rsfed.hashing.training import peak_memory, train_steps
from rsfed.hashing.weights import State, get_state, set_state
from rsfed.home import Home
from rsfed.raster.input_spec import InputSpec
from rsfed.raster.item import Item
from rsfed.trust.manifest import Architecture, CompactResnet
from rsfed.trust.release_store import ReleaseStore

_SEED = 0
_BITS = 64  # while there is no release to say it

Progress = Callable[[str, int, int], None]
"""Called with what goes on ("read" or "train"), what is done and all there is."""


@dataclass(frozen=True, slots=True)
class LocalReport:
    """What training on the own archive gave.

    Attributes:
        labels: Whether classes are the federation's or the archive's own labels, as without a release.
        classes: Number of classes.
        patches: Patches that were trained on; they are the gallery, too.
        held_out: Patches that were kept apart and used as queries.
        held_out_by: Whether whole acquisitions were kept apart, or, where only one is known, single patches: their
            neighbours were trained on, so the figures are too good.
        epochs: Passes over the patches; 0 of the closed form, which takes no steps.
        losses: Mean loss of each epoch.
        seconds: Time that training took, reading and evaluation left out.
        peak_memory: Largest resident size of the process, in bytes.
        trained: Figures of the trained network.
        untrained: Figures of the network that it started from.
    """

    labels: Literal["federation", "own"]
    classes: int
    patches: int
    held_out: int
    held_out_by: Literal["acquisition", "patch"]
    epochs: int
    losses: tuple[float, ...]
    seconds: float
    peak_memory: int
    trained: RetrievalFigures
    untrained: RetrievalFigures


@dataclass(frozen=True, slots=True)
class _Network:
    """What is trained: the release's encoder where there is one, else the default."""

    spec: InputSpec
    architecture: Architecture
    bits: int
    objective: ObjectiveSection

    def codes(self, state: State, patches: PatchSet) -> Codes:
        return Encoder.from_state(state, self.architecture, self.spec, self.bits).encode_set(patches)


def train_locally(home: Home, config: NodeConfig, epochs: int, progress: Progress) -> LocalReport:
    """Train on the own archive and measure how well its own held-out patches find their like.

    Raises:
        TrainingError: NO_LABELLED_PATCHES, TOO_FEW_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES or DIVERGED.
    """
    torch.set_num_threads(config.training.threads)
    reading = reading_of(home, config)
    network = _network(home, reading.modality.name, reading.spec)
    labels, items = _items(home, reading.modality.name)
    classes = sorted({label for item in items for label in item.labels})
    patch_reader = reader(home, network.architecture, network.spec, ReleaseStore(home.releases).current())
    items = sample(items, patch_reader, config.training.memory_mib, _SEED)
    gallery_items, query_items, held_out_by = split(items)
    gallery, queries = (
        read_patches(part, patch_reader, classes, lambda done, all_: progress("read", done, all_))
        for part in (gallery_items, query_items)
    )
    model = build_network(network.architecture, network.spec, network.bits, seed=_SEED)
    untrained, start = get_state(model), time.monotonic()
    losses: tuple[float, ...] = ()
    if isinstance(network.objective, ClosedFormSection):
        epochs = 0
        _solve(model, network.objective, gallery, classes)
    else:
        losses = _train(model, network.objective, gallery, classes, epochs, progress)
    seconds = time.monotonic() - start

    def figures(state: State) -> RetrievalFigures:
        return evaluate(network.codes(state, queries), queries.labels, network.codes(state, gallery), gallery.labels)

    return LocalReport(
        labels=labels,
        classes=len(classes),
        patches=len(gallery),
        held_out=len(queries),
        held_out_by=held_out_by,
        epochs=epochs,
        losses=losses,
        seconds=seconds,
        peak_memory=peak_memory(),
        trained=figures(get_state(model)),
        untrained=figures(untrained),
    )


def _network(home: Home, modality: str, spec: InputSpec) -> _Network:
    release = ReleaseStore(home.releases).current()
    encoders = {} if release is None else {each.modality: each for each in release.manifest.encoders.values()}
    if release is None or modality not in encoders:
        return _Network(spec, CompactResnet(), _BITS, DEFAULT_OBJECTIVE)
    encoder, objective = encoders[modality], recorded_objective(release.manifest.objective)
    return _Network(encoder.input, encoder.architecture, release.manifest.bits, objective)


def _items(home: Home, modality: str) -> tuple[Literal["federation", "own"], list[Item]]:
    """Return the labelled patches: with classes of the federation, or where none has any, with own labels as such."""
    with Catalogue(home) as catalogue:
        items = [item for item in catalogue.training_items() if item.modality == modality]
        return ("federation", items) if items else ("own", _by_own_labels(catalogue, modality))


def _by_own_labels(catalogue: Catalogue, modality: str) -> list[Item]:
    numbers: dict[str, int] = {}
    own = ((item, catalogue.labels(item.id)) for item in catalogue.items(modality))
    return [
        replace(item, labels=tuple(numbers.setdefault(name, len(numbers)) for name in names))
        for item, names in own
        if names
    ]


def _train(  # noqa: PLR0913, PLR0917 - what training is made of
    model: HashNetwork,
    objective: ObjectiveSection,
    gallery: PatchSet,
    classes: Sequence[int],
    epochs: int,
    progress: Progress,
) -> tuple[float, ...]:
    """Train a network and return the mean loss of each epoch."""
    settings = CoordinatorTraining()
    report = train_steps(
        model,
        gallery,
        make_objective(objective, classes, model.head.out_features, seed=_SEED),
        steps=epochs * -(-len(gallery) // settings.batch),
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        seed=_SEED,
        on_progress=lambda done, all_, _loss: progress("train", done, all_),
    )
    report.refuse_idle()
    return tuple(float(part.mean()) for part in np.split(np.array(report.losses), epochs))


def _solve(model: HashNetwork, objective: ClosedFormSection, gallery: PatchSet, classes: Sequence[int]) -> None:
    """Solve for the last layer of a network by the closed form."""
    centres = centres_beside_free(classes, model.head.out_features, objective.free, _SEED)
    set_state(model, fit(get_state(model), [sums(model, gallery, centres)], _SEED))
