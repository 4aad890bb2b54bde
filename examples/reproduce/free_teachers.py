"""What differs from `turbo-loss`, the merge of all checkpoints, in one thing each and is no built-in method, as methods of a run."""

from dataclasses import replace

from gtrturbo.runs.methods import METHODS

MERGED = METHODS["turbo-loss"]
# The checkpoint that plays: it holds an update back, and has no memory.
NEWEST = replace(MERGED, summary="the newest checkpoint's distributions as a loss.", teacher="newest")
BOTH = replace(MERGED, summary="turbo-loss and turbo-sft at once.", beside="imitation")
