"""What both ends of the wire have to know alike and the messages themselves do not say."""

from __future__ import annotations

PROTOCOL = 1
"""Version of the wire that this software speaks."""

HANDLE_BYTES = 16
"""Length of one handle in a column of handles."""

DEGREE = 10**7
"""Units of a footprint in one degree."""

NO_FOOTPRINT = -(2**31)
"""Each of the four values of an item without footprint, in a column that has some."""

NO_TIME = -(2**63)
"""Both values of an item without acquired interval, in a column that has some."""

EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
"""Milliseconds since 1970 of the first and the last moment that an acquired interval may name: years 1 to 9999."""

MAX_HELD = 10**12
"""Items; nobody believes that an archive holds more."""
