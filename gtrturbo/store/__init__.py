"""Artifacts on disk: manifests, ids, hashes, whole writes, resume logs, rows, ragged tensors, names of files.

What a model, a task or a method is it does not know.
"""
