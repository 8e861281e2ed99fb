"""The file of borders that the operator names, for a policy that tells countries in place of footprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from node.served import Facts
from rsfed.errors import ConfigError, RasterRejected
from rsfed.privacy.detail import Detail
from rsfed.raster.small_file import read_small

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from rsfed.config_policy import PolicySection
    from rsfed.home import Home
    from rsfed.privacy.countries import Countries

_LOOKED_AT = 10_000  # patches
_MOST_BYTES = 64 << 20  # the finest borders of Natural Earth have 14 MiB


def detail_of(home: Home, section: PolicySection) -> Detail:
    """Return in how much detail where and when is told.

    Args:
        home: The node's home.
        section: The configured policy.

    Raises:
        ConfigError: the file of borders is missing, or will not do.
    """
    countries = None if section.countries is None else _read(home.path / section.countries)
    return Detail(section.footprints, section.dates, section.unfilterable, countries)


def all_at_sea(connection: sqlite3.Connection, countries: Countries) -> bool:
    """Return whether the first patches that are known to lie somewhere all lie in no country, as after a mistake."""
    rows = connection.execute(
        "SELECT id FROM item WHERE state = 'present' AND west IS NOT NULL LIMIT ?", (_LOOKED_AT,)
    ).fetchall()
    boxes = Facts.read(connection, np.array([item for (item,) in rows], np.int64)).columns.boxes
    return len(boxes) > 0 and bool((countries.holding(boxes) < 0).all())


def _read(path: Path) -> Countries:
    from rsfed.privacy.countries import Countries  # noqa: PLC0415 - shapely, only where it is used

    try:
        return Countries.read(read_small(path, _MOST_BYTES, path.name), path.name)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.name} is not there; put it into the home, or correct [policy] countries", detail=str(path)
        ) from error
    except (RasterRejected, ConfigError) as error:
        raise ConfigError(error.public, detail=str(path)) from error
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read: {error.strerror}; name a file that this user can read", detail=str(path)
        ) from error
