"""Everything that is particular to a model: rendering a prompt, sampling, scoring, checkpoints, families, the built-in tiny one.

The only room that imports transformers and peft.
"""
