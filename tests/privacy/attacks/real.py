"""Archives of real codes: EuroSAT and UC Merced through the closed form that federations on a frozen trunk learn by.

The apps of both sides train, over one node that holds the training part; each file is an acquisition of its own.
"""

from __future__ import annotations

import numpy as np

from attacks.archive import BITS, LEAST, Archive
from rsfed.config_objectives import ClosedFormSection
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.codebook import count_codes, make_codebook
from rsfed.lab.bench_images import data_folder, featured, official_splits, unpacked
from rsfed.lab.evaluate.data import find
from rsfed.lab.evaluate.methods import Task, describe
from rsfed.lab.federated.learners import default, federated

SEED = 0


def real(name: str) -> Archive:
    """Train a release on the training part of a public data set and hash all of it."""
    data = data_folder()
    images = featured(data, find(unpacked(data, name), splits=official_splits(data, name)))
    roles = np.array([entry.role or "" for entry in images.entries])
    train, val, query = (np.flatnonzero(roles == role) for role in ("train", "val", "query"))
    described = describe(images, train)
    task = Task(images, described, train, BITS, SEED, 1)
    codes = federated(task, [train], default(images))(np.arange(len(images)))
    labels = images.labels.argmax(axis=1)
    centres = centres_beside_free(range(len(images.classes)), BITS, ClosedFormSection().free, SEED)
    names = [f"file {place}" for place in train]
    held_out = list(zip(codes[val][:, None], images.labels[val][:, None], strict=True))
    counts = count_codes(codes[train], images.labels[train], names, held_out, centres, least=LEAST)
    codebook, reach = make_codebook([counts], range(len(images.classes)), centres)
    return Archive(
        name.split("_", maxsplit=1)[0], codes[train], labels[train], described[train],
        codes[query], labels[query], described[query], codebook, reach,
    )  # fmt: skip
