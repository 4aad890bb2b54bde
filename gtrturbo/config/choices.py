"""Words that a setting may be and that other rooms know too: names alone, no settings."""

from typing import Literal

AUTO = "auto"
CPU = "cpu"
# When large files of what a stage reads are hashed.
VerifyInputs = Literal["always", "once", "never"]
InvalidReply = Literal["random", "noop", "end"]
ServerName = Literal["vllm", "sglang", "openai"]
# Where a KL enters the reward of a turn, and where it may enter at all.
Placement = Literal["reward", "advantage", "return"]
AnyPlacement = Literal[Placement, "loss"]
KlTokens = Literal["thought", "reply"]
Sign = Literal["total", "count"]
# What turns are written as for other tools.
ExportFormat = Literal["hf", "trl", "trl-preference", "atif", "parquet"]
# What to do about tensors that only the base or only a checkpoint has.
Missing = Literal["dropped", "base", "error"]
# Built-ins that others than their own table name: who answers, what a turn is credited with, how a KL is estimated.
HF, VLLM, SGLANG, OPENAI = BUILT_IN_ENGINES = "hf", "vllm", "sglang", "openai"
GAE, TOKEN, BI_LEVEL = "gae", "token", "bi-level"
GROUP, GROUP_MEAN, STEP_GROUP, STEP_GROUP_MEAN = "group", "group-mean", "step-group", "step-group-mean"
# Credits that compare episodes of one deal, and so need no values; and all that are built in.
AMONG_GROUPS = (GROUP, GROUP_MEAN, STEP_GROUP, STEP_GROUP_MEAN)
BUILT_IN_CREDITS = (GAE, TOKEN, BI_LEVEL, *AMONG_GROUPS)
# What a teacher may be told besides what the student saw, in the order in which it is.
TRUTH, GOOD_REPLY, OUTCOME = "truth", "expert", "outcome"
HINTS = (TRUTH, GOOD_REPLY, OUTCOME)
NO_GUARD = "none"
K1_CLIP, K2, FULL = "k1-clip", "k2", "full"
ADAM_EPSILON = 1e-8
REPLIES_AT_ONCE = 32  # of a teacher in this process, where no number of tokens is given
