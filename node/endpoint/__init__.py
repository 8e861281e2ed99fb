"""An archive behind a STAC endpoint: what it lists, and the files of that, which are fetched into the node's home.

How such files are read, and documents that lie in a folder, are part of `rsfed.raster`.
"""
