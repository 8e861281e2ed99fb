"""From patch contents to codes: networks, objectives, the training loop, encoders of a release, baselines, evaluation.

Knows arrays and safetensors; only `payload` knows a message of the wire. Reading images is `rsfed.raster`, searching
codes `rsfed.index`, federated rounds `node.training` and `coordinator.training`.
"""
