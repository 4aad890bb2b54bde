"""Teachers that differ in one thing each from that of `turbo-loss`, the merge of all checkpoints, as methods of a run."""

from dataclasses import replace

from gtrturbo.runs.methods import METHODS

MERGED = METHODS["turbo-loss"]
# The start throughout.
STATIC = replace(MERGED, summary="the first checkpoint's distributions as a loss.", teacher="static", refresh="never")
# The checkpoint that plays: it holds an update back, and has no memory.
NEWEST = replace(MERGED, summary="the newest checkpoint's distributions as a loss.", teacher="newest")
# Moves only to what was measured ahead.
GATED = replace(MERGED, summary="the distributions of a merge of what was ahead, as a loss.", refresh="ahead")
BOTH = replace(MERGED, summary="turbo-loss and turbo-sft at once.", beside="imitation")
GIVEN = replace(MERGED, summary="the distributions of --teacher as a loss.", teacher="given", refresh="never")
