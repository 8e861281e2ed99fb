"""One ranking out of the answers of many nodes: for the coordinator, or the analyst whom they are sealed for.

Pure: what a query asks, whether an answer keeps the rules, the merge. Asking nodes is `coordinator.fanout`.
"""
