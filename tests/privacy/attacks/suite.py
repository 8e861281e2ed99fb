"""All attacks: `make bench-privacy` runs them on real codes, tests on made ones.

An attack is a function of a folder and archives that yields lines; one more is named in `ATTACKS`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attacks import beside, catalogues, codes_attacked, lying, places, refining, sets, speed, transcripts
from attacks.archive import Archive
from attacks.lines import Line

Attack = Callable[[Path, Sequence[Archive]], Iterator[Line]]


def codes_by_asking(folder, archives):
    """Attacks on single codes by asking."""
    return codes_attacked.by_asking(folder, archives)


def two_catalogues(folder, archives):
    """Membership by comparing two publications, on the first archive: the largest."""
    return catalogues.differencing(folder, archives[0])


def private_queries(folder, archives):
    """What private queries send."""
    return transcripts.private_queries(folder, archives[0])


def lying_node(folder, archives):
    """What a node gains by lying."""
    del folder, archives
    return lying.lying_node()


ATTACKS: tuple[Attack, ...] = (
    codes_by_asking,
    places.by_place,
    refining.refine_spent,
    refining.refine_linked,
    two_catalogues,
    catalogues.floors,
    sets.filters,
    private_queries,
    catalogues.inversion,
    lying_node,
    beside.rare_items,
    beside.public_scenes,
    beside.class_mix,
)


def run(folder: Path, archives: Sequence[Archive]) -> int:
    """Run all attacks, show them as they end, and print a line of JSON for each.

    Returns:
        Exit code: 1 where some attack failed against its control, so that it shows nothing; limits that are not held
        are figures like others.
    """
    told = []
    for attack in ATTACKS:
        for line in attack(folder, archives):
            line.show()
            told.append(line)
    for line in told:
        sys.stdout.write(line.to_json() + "\n")
    sys.stdout.write(json.dumps(speed.guard_and_audit(folder)) + "\n")
    return 0 if all(line.won for line in told) else 1
