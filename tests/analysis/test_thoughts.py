"""Signs of collapse that are read off tokens and probabilities."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gtrturbo.analysis.summary import different_inputs
from gtrturbo.analysis.thoughts import CROSS_INPUTS, thought_entropy, thought_information
from gtrturbo.distributed.processes import Alone, World, working_in
from gtrturbo.play.recording import read_turns
from gtrturbo.store.tensors import load_turn_tokens


def test_entropy_is_of_thought_tokens_alone(turns):
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    pairs = zip(tokens.sample_logprobs, tokens.thought_mask, strict=True)
    chosen = [value for row, mask in pairs for value, counts in zip(row.tolist(), mask.tolist(), strict=True) if counts]
    assert thought_entropy(turns) == {"thought_entropy": pytest.approx(-sum(chosen) / len(chosen))}


def test_turns_of_an_expert_have_no_entropy(expert):
    assert thought_entropy(expert) == {}


def test_information_is_that_of_each_thought_scored_alone_under_each_input(policy, transcript, turns):
    rows = different_inputs(transcript.turns, CROSS_INPUTS)
    assert len(rows) > 3
    own, mean = [], []
    for thought in rows:
        likelihoods = []
        for place in rows:
            scored = policy.score([transcript.prompts[place]], [transcript.tokens.response_ids[thought]], temperature=0.9)
            mask = transcript.tokens.thought_mask[thought]
            likelihoods.append(float(scored.logprobs[0].detach().double().numpy()[mask].sum()))
        own.append(likelihoods[rows.index(thought)])
        mean.append(np.logaddexp.reduce(likelihoods) - math.log(len(rows)))
    found = thought_information(turns, transcript.turns, policy, temperature=0.9)
    assert found["thought_information"] == pytest.approx(np.mean(own) - np.mean(mean), abs=1e-4)
    assert found["thought_information_bound"] == pytest.approx(math.log(len(rows)))


def test_a_policy_that_sees_one_picture_everywhere_says_nothing_of_it(policy, turns, tmp_path):
    blind = shutil.copytree(turns, tmp_path / "blind")
    pictures = sorted((blind / "images").iterdir())
    for picture in pictures[1:]:
        shutil.copyfile(pictures[0], picture)
    seeing = thought_information(turns, read_turns(turns), policy, temperature=0.9)
    found = thought_information(blind, read_turns(blind), policy, temperature=0.9)
    assert found["thought_information"] == pytest.approx(0.0, abs=1e-6)
    assert seeing["thought_information"] > 0.1


def test_one_input_or_a_server_gives_no_information(policy, turns):
    every = read_turns(turns)
    same = [replace(turn, images=every[0].images) for turn in every]
    assert thought_information(turns, same, policy, temperature=0.9) == {}


def test_a_greedy_policy_is_scored_at_temperature_1(policy, turns):
    every = read_turns(turns)
    greedy, warm = (thought_information(turns, every, policy, temperature=t) for t in (0.0, 1.0))
    assert greedy == warm


def test_the_first_of_two_processes_scores_alone(policy, turns):
    class First(Alone):
        world = World(rank=0, size=2)

    alone = thought_information(turns, read_turns(turns), policy, temperature=0.9)
    with working_in(First()):
        assert thought_information(turns, read_turns(turns), policy, temperature=0.9) == alone
