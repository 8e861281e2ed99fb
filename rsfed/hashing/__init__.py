"""Encoders, objectives, the training loop, baselines and evaluation. Knows arrays, not files or the wire."""
