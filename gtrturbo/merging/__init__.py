"""Merging checkpoints on disk: tensors are streamed in tiles, so memory does not grow with the model or with their number."""
