"""One archive: catalogue of patches, ingest, search service, guard, training, command line.

What both roles share lives in `rsfed`; nothing here knows the coordinator but through the wire.
"""
