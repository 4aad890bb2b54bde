"""The mathematics: pure functions of tensors, each with its formula, its shapes and its source.

Nothing here reads a file, knows a task or a model, or draws a random number that it was not given.
"""
