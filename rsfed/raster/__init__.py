"""Images as the encoders see them: modalities, layouts of archives, windows, footprints, limits.

The only folder that calls rasterio. `reader.read` is the one way from an item to the arrays of an encoder.
"""
