"""Merges of checkpoints on disk: where they come from, recipes, methods, the streaming engine and its kernels.

Tensors are streamed in tiles, so memory does not grow with the model or with their number. The formulas are in `algorithms`; what
tells the methods apart is the table in `methods`: the place to add one, and to read how a rule of the user's own is written.
"""
