"""Roll-over: what all answers and all catalogues of many epochs tell together, in each of which new patches come."""

from __future__ import annotations

import numpy as np

from attacks.judging import Catalogues, Judge, all_told, published, together
from attacks.queries import marked
from attacks.target import BITS, Target
from rsfed.privacy.counts import MOST_EPSILON, MOST_OF_RELEASE
from rsfed.privacy.policy import policy


def rolled_over(folder, archive, level, count, epochs):
    """What is gained by flips that are spread over epochs, all cells asked in each, and all that is published in them.

    Args:
        folder: Where the node's home is made.
        archive: What it holds: half of it at first.
        level: Its level.
        count: Patches that are attacked by asking.
        epochs: How many. The budget of published counts is spread over all of them, so that each has a catalogue.
    """
    start, publishes = len(archive) // 2, policy(level).publishes
    section = {"epsilon": min(MOST_EPSILON, 0.99 * MOST_OF_RELEASE / (epochs + 1))} if publishes else {}
    target = Target(folder / f"{archive.name}-{level}-epochs", archive, level, start=start, section=section)
    places = np.sort(np.random.default_rng(7).permutation(start)[: min(count, start)])
    known, bits = np.zeros((len(places), BITS), bool), np.zeros((len(places), BITS), bool)
    arrived, catalogues, told = np.zeros(len(archive), np.int64), [published(target)], [all_told(target)]
    for epoch in range(epochs):
        for number, mark in enumerate(marked(target, places)):
            chosen = np.arange(epoch, BITS, epochs)
            rows = np.concatenate([mark.start[None], mark.start ^ np.eye(BITS, dtype=bool)[chosen]])
            far = mark.told(rows)
            change = np.nan_to_num(far[1:] - far[0])
            known[number, chosen], bits[number, chosen] = change != 0, mark.start[chosen] ^ (change < 0)
        target.wait(days=1 if publishes else 1 / 24)
        held = start + (len(archive) - start) * (epoch + 1) // epochs
        target.serve(np.arange(held))
        catalogues.append(published(target))
        told.append(all_told(target))
        arrived[start + (len(archive) - start) * epoch // epochs : held] = epoch + 1
    if catalogues[0] is not None:  # no answer tells anything, so all patches are looked at
        read = Catalogues(catalogues, target.cells, archive.cell_classes, arrived)
        found = Judge(target, np.arange(len(archive)), together(told)).judged(catalogues=read)
    else:
        found = Judge(target, places, together(told)).judged((known, bits))
    target.close()
    return found
