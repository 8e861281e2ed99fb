"""What lies in a folder, told apart from what cannot be looked at."""

from __future__ import annotations

import os
from pathlib import Path


def listed(folder: Path) -> list[Path]:
    """Return what lies in a folder by rising name; nothing where there is no such folder.

    `Path.glob` passes over a folder that it may not list as if it were empty; here that is an error.

    Raises:
        OSError: it cannot be listed just now.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
