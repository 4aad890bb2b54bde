"""What the tokens of an artifact, and the policy that wrote them, say of its thoughts: signs of collapse that texts do not show.

Source: RAGEN-2 (Wang et al., arXiv 2604.06268): thoughts may stay diverse and yet no longer depend on the input.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gtrturbo.analysis.intervals import cross_input_information
from gtrturbo.analysis.summary import different_inputs, sampled_entropy
from gtrturbo.config.choices import AUTO
from gtrturbo.distributed.processes import Alone, working_in
from gtrturbo.models.batches import token_budget
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import score_all
from gtrturbo.play.recording import render
from gtrturbo.store.names import TOKENS
from gtrturbo.store.records import Turn
from gtrturbo.store.tensors import load_turn_tokens

CROSS_INPUTS = 16


def thought_entropy(folder: Path) -> dict[str, float]:
    """Return `thought_entropy`, nats per thought token at the sampling temperature; nothing where no policy spoke."""
    if not (folder / TOKENS).is_file():
        return {}
    tokens = load_turn_tokens(folder / TOKENS)
    entropy = sampled_entropy(tokens.sample_logprobs, tokens.thought_mask)
    return {} if entropy is None else {"thought_entropy": entropy}


def thought_information(folder: Path, turns: Sequence[Turn], policy: Policy | None, *, temperature: float) -> dict[str, float]:
    """Score thoughts of up to 16 different inputs under each other's inputs.

    thought_information: nats that a thought tells about its input, at most `thought_information_bound` = log M of the M inputs;
    see `cross_input_information`. The thought is all of the reply before its action; where `temperature` is 0 the policy's
    probabilities are those at temperature 1. An input is a picture and a prompt: where prompts carry part of the state, a thought
    may follow the prompt alone. Nothing is returned for fewer than two inputs, or where no policy is in this process to score.
    """
    rows = different_inputs(turns, CROSS_INPUTS)
    if len(rows) < 2 or policy is None or not (folder / TOKENS).is_file():
        return {}
    tokens = load_turn_tokens(folder / TOKENS)
    inputs = [render(policy.renderer, folder, turns[row].messages[:-1], turns[row].images) for row in rows]
    pairs = [(thought, place) for place in range(len(rows)) for thought in rows]
    with working_in(Alone()):
        scored = score_all(
            policy,
            [inputs[place] for _, place in pairs],
            [tokens.response_ids[thought] for thought, _ in pairs],
            temperature=temperature or 1.0,
            tokens=token_budget(AUTO, policy, recomputes=False),
        )
    sums = [
        row[tokens.thought_mask[thought]].sum(dtype=np.float64) for row, (thought, _) in zip(scored.logprobs, pairs, strict=True)
    ]
    by_input = np.array(sums).reshape(len(rows), len(rows))  # [input, thought]
    bound = float(np.log(len(rows)))
    return {"thought_information": cross_input_information(by_input.T), "thought_information_bound": bound}
