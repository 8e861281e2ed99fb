"""Shared library of rsfed: codes, rasters, networks and trust.

Everything here is used by both sides of a federation. The sides themselves live in the packages
`node` and `coordinator`, which this package never imports.
"""

__version__ = "0.1.0"
