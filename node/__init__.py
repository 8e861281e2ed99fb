"""One archive: catalogue of patches, ingest, search service, guard, training, command line."""
