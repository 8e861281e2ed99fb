"""Beside the table of limits: what each level tells of rare patches, of public scenes, and of a node's class mix."""

from __future__ import annotations

import numpy as np

from attacks.catalogues import advantage, held_of, publication
from attacks.guessing import POINTS
from attacks.lines import Line, worst
from attacks.target import CONTROL, LEVELS, Target
from rsfed.codes import hamming
from rsfed.privacy.policy import policy

RARE = 4  # patches of one code at most
HELD = 2000  # patches of an archive whose rare patches are asked for
ITEMS = 60
PUBLIC = 100  # patches of an archive that are public scenes, too
ATTACKED = tuple(level for level in LEVELS if level != CONTROL)


def rare_items(folder, archives, items=ITEMS, levels=ATTACKED):
    """Lines of how well it is told whether an archive holds the patches of a rare code, by its code."""
    found = {}
    for level in (CONTROL, *levels):
        found[level] = {
            each.name: _presence(folder, each.part(np.arange(min(HELD, len(each)))), level, items) for each in archives
        }
    control = worst(found[CONTROL], least=True)
    for level in levels:
        yield Line("rare item.advantage", level, control, control >= 0.9, worst(found[level]), None, found[level])


def _presence(folder, archive, level, items):
    target = Target(folder / f"{archive.name}-rare-{level}", archive, level)
    words, places, sizes = np.unique(archive.codes, axis=0, return_inverse=True, return_counts=True)
    rare = np.random.default_rng(10).permutation(np.flatnonzero(sizes <= RARE))[:items]
    figures, member = [], []
    for word in rare.tolist():
        for there in (True, False):
            held = np.arange(len(archive)) if there else np.flatnonzero(places.reshape(-1) != word)
            figures.append(_told_of(target, words[word], held))
            member.append(there)
    target.close()
    return advantage(figures, member)


def _told_of(target, code, held):
    """Figures of what is told of a code by a node that holds these patches and has published nothing before."""
    if policy(target.level).publishes:
        middles, told = publication(target, target.cataloguer, target.archive.codes[held], held)
        if target.level == "counts":
            return [float(told[target.cells.nearest(code[None])[0][0]]), float(told.sum())]
        far = hamming(code[None], middles)[0]
        return [float(far.min()), float(told[far.argmin()]), float(np.minimum(far, 6).mean()), float(len(middles))]
    target.connection.execute("DELETE FROM publication")
    target.connection.commit()
    target.serve(held)
    (seen,) = target.ask(code[None], radius=0 if target.level == CONTROL else 32)
    sizes = seen.sizes.tolist()
    return [float(sizes[0]) if sizes else 0.0, float(sum(sizes))]


def public_scenes(folder, archives, levels=ATTACKED):
    """Lines of how often a patch of an archive is named among public scenes, in points above who knows its class."""
    found = {level: {each.name: _named(folder, each, level) for each in archives} for level in (CONTROL, *levels)}
    control = worst(found[CONTROL], least=True)
    for level in levels:
        yield Line("public scene.points", level, control, control > 0, worst(found[level]), None, found[level])


def _named(folder, archive, level):
    """Points by which a patch is named oftener than by its class, from the code that is told of it."""
    drawn = np.random.default_rng(11).permutation(len(archive))[:PUBLIC]
    scenes = np.concatenate([archive.codes[drawn], archive.queries])
    labels = np.concatenate([archive.labels[drawn], archive.query_labels])
    told = _code_told(folder, archive, level)[drawn]
    right = []
    for place, (code, known) in enumerate(zip(told, archive.labels[drawn], strict=True)):
        alike = np.flatnonzero(labels == known)
        far = hamming(code[None], scenes[alike])[0]
        near = alike[far == far.min()]
        named = float(place in near) / len(near) if code.any() else 1.0 / len(alike)
        right.append(named - 1.0 / len(alike))
    return POINTS * float(np.mean(right))


def _code_told(folder, archive, level):
    """The code that is told of each patch: its own, its cell, the middle of its bucket, or none (all bits 0)."""
    if level == CONTROL:
        return archive.codes
    cells = archive.cells[hamming(archive.codes, archive.cells).argmin(axis=1)]
    if policy(level).by_cells:
        return cells
    if level == "counts":
        return np.zeros_like(archive.codes)
    target = Target(folder / f"{archive.name}-scenes-{level}", archive.part(np.arange(60)), level)
    groups = target.cataloguer._groups(target.release, held_of(target, archive.codes, np.arange(len(archive))))
    target.close()
    return np.where((groups.places >= 0)[:, None], groups.middles[np.maximum(groups.places, 0)], 0).astype(np.uint8)


def class_mix(folder, archives, levels=ATTACKED):
    """Lines of how much nearer one comes to the class mix of a node than by taking all classes for equal."""
    found = {level: {each.name: _mix(folder, each, level) for each in archives} for level in (CONTROL, *levels)}
    control = worst(found[CONTROL], least=True)
    for level in levels:
        yield Line("class histogram.advantage", level, control, control >= 0.1, worst(found[level]), None, found[level])


def _mix(folder, archive, level):
    """The total variation distance of equal shares from the true ones, less that of what is told."""
    archive = _skewed(archive)
    target = Target(folder / f"{archive.name}-mix-{level}", archive, level)
    counts = np.zeros(len(archive.cells))
    if policy(level).publishes:
        part = target.catalogue.parts["rgb"]
        cells = target.cells.nearest(part.middles)[0] if len(part.middles) else np.arange(len(part.sizes))
        np.add.at(counts, cells, part.sizes)
    else:
        step = 1 if level == CONTROL else 4
        told = {}
        for start in range(0, len(archive.cells), step):
            for seen in target.ask(archive.cells[start : start + step]):
                told |= dict(zip(seen.marks.tolist(), seen.sizes.tolist(), strict=True))
        if policy(level).by_cells:
            for mark, size in told.items():
                counts[-1 - mark] = 1.4 * size  # between a power of two and the next
        else:
            marks = target.marks(np.arange(len(archive)))
            cell_of = dict(zip(marks.tolist(), target.cells.nearest(archive.codes)[0].tolist(), strict=True))
            for mark, size in told.items():
                counts[cell_of[mark]] += size
    target.close()
    true = np.array([(archive.labels == each).mean() for each in archive.cell_classes])
    shares = counts / counts.sum() if counts.sum() else np.full(len(true), 1 / len(true))
    return float(np.abs(true - 1 / len(true)).sum() - np.abs(true - shares).sum()) / 2


def _skewed(archive, held=HELD):
    """Some of an archive, of classes that are as unequal as a node's may be."""
    rng = np.random.default_rng(12)
    shares = rng.dirichlet(np.full(len(archive.cells), 0.5))
    wanted = dict(zip(archive.cell_classes.tolist(), shares, strict=True))
    weights = np.array(
        [wanted.get(each, 0.0) / max(1, (archive.labels == each).sum()) for each in archive.labels.tolist()]
    )
    keys = rng.random(len(archive)) ** (1 / np.maximum(weights / weights.max(), 1e-9))
    return archive.part(np.sort(np.argsort(-keys)[: min(held, len(archive) // 2)]))
