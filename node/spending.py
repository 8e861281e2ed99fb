"""Whether a node can still know what it spent under a release: not once its record may be older than its answers.

A database by itself cannot tell that it is an older copy. The audit log can, as long as it goes on: so what was spent
before it was begun anew counts as everything.
"""

from __future__ import annotations

import sqlite3

from node.state import restored_at
from rsfed.home import Home
from rsfed.trust.audit_log import restarted_at
from rsfed.trust.certificates import CLOCK_TOLERANCE
from rsfed.trust.release_store import Release


def spending_lost(home: Home, connection: sqlite3.Connection, release: Release) -> str:
    """Return why what was spent under a release cannot be known; "" where it can.

    Args:
        home: The node's home, with its audit log.
        connection: The node's database.
        release: The release.

    Raises:
        StateError: AUDIT_DAMAGED.
    """
    made = release.manifest.created
    if (restored := restored_at(connection)) is not None and made <= restored:
        return "this home was restored from a backup, or its database begun anew: what was spent before is not known"
    if (restarted := restarted_at(home.audit)) is not None and made <= restarted + CLOCK_TOLERANCE:
        return "the audit log was begun anew, and nothing else shows that the record of what was spent is not older"
    return ""
