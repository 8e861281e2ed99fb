"""Why a node's level gives away nothing, or no more than it did: for its operator, the same in every command."""

from __future__ import annotations

import sqlite3

from node.accounting import check_charges
from node.budgets import check_record
from node.state import audited_to
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.privacy.policy import Policy
from rsfed.trust.audit_log import read_entries
from rsfed.trust.release_store import Release

_CHARGED = b'.charged"'  # how the kinds of entries end that tell what was spent


def lacking(level: Policy, acquisitions: int, *, codebook: bool) -> str:
    """Return what a level needs to start and the node has not; "" where it has all.

    Args:
        level: The level.
        acquisitions: Distinct acquisitions of the archive.
        codebook: Whether the release has a codebook.
    """
    lacks = [f"it needs {level.least_acquisitions} acquisitions"] if acquisitions < level.least_acquisitions else []
    lacks += ["the release has no codebook"] if not (level.exact or codebook) else []
    return " and ".join(lacks)


def closed(home: Home, connection: sqlite3.Connection, level: Policy, release: Release | None) -> list[StateError]:
    """Return why counts and refine rest until the next release: what was spent is not known. Empty where they do not.

    Args:
        home: The node's home, with its audit log, which is read as a whole, once.
        connection: The node's database.
        level: The node's level.
        release: The release served, if any.
    """
    if release is None or (audited_to(connection) is None and not home.audit.exists()):  # nothing was given away yet
        return []
    checks = [check_charges] * level.publishes + [check_record] * level.refines
    try:
        charges = [entry for entry in read_entries(home.audit) if _CHARGED in entry] if checks else []
    except StateError as error:
        return [error]
    errors = []
    for check in checks:
        try:
            check(home, connection, release, charges)
        except StateError as error:
            errors.append(error)
    return errors
