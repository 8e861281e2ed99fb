"""Baselines: hashes of features without a trained network, all fitted and asked alike.

`fit(features[, labels], bits, seed)` learns from the features of an archive, `encode(features)` returns packed codes.
"""
