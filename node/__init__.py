"""One archive: catalogue of patches, ingest, search service with its guard, background indexing, command line.

What both roles share lives in `rsfed`: reading images (`rsfed.raster`), making codes (`rsfed.hashing`), searching them
(`rsfed.index`), policy rules (`rsfed.privacy`), trust. Nothing here imports `coordinator`, which is known through the
wire only.
"""
