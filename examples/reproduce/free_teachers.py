"""Free teachers that are no built-in method: each differs from one that is in one thing."""

from dataclasses import replace

from gtrturbo.runs.methods import METHODS

MERGED, IMITATED = METHODS["turbo-loss"], METHODS["turbo-sft"]
# The checkpoint that plays: it holds an update back, and has no memory.
NEWEST = replace(MERGED, summary="the newest checkpoint's distributions as a loss.", teacher="newest")
BOTH = replace(MERGED, summary="turbo-loss and turbo-sft at once.", beside="imitation")
# Whose thoughts are imitated: the start's, or a merge's of what was measured ahead.
IMITATED_START = replace(IMITATED, summary="turbo-sft with the start's thoughts.", teacher="static", refresh="never")
IMITATED_AHEAD = replace(IMITATED, summary="turbo-sft with the thoughts of a merge of what was ahead.", refresh="ahead")
