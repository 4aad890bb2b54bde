"""A method of the user's own: the checkpoint that plays teaches, and the KL to its distributions is a loss that holds it back."""

from gtrturbo.runs.methods import Method

METHOD = Method(
    summary="the newest checkpoint's distributions as a loss.",
    teacher="newest",
    annotation="distributions",
    top_logprobs=16,
    guidance="loss",
)
