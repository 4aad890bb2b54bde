"""What a model reads at most: replies that it would cut are refused in process as on a server, and so are turns from disk."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gtrturbo.config import DistillConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import context
from gtrturbo.models.context import most_new_tokens, require_context, require_ends
from gtrturbo.models.renderer import Prompt
from gtrturbo.stages import execute
from gtrturbo.store.turns import read_turn_tokens, read_turns

END = 9


def prompts(*lengths: int) -> list[Prompt]:
    return [Prompt({"input_ids": torch.zeros((1, length), dtype=torch.long)}) for length in lengths]


def config(positions: int | None) -> SimpleNamespace:
    text = SimpleNamespace(max_position_embeddings=positions)
    return SimpleNamespace(get_text_config=lambda: text)


def ends(reply: list[int], *, prompt: int = 6, positions: int | None = 10, asked: int = 8) -> None:
    require_ends(prompts(prompt), [np.array(reply)], config(positions), "it", asked=asked, end_ids=[END])


def test_a_reply_may_end_in_the_last_position_and_not_after_it():
    ends([1, 2, 3, END])
    ends([1, END])
    for cut in ([1, 2, 3, 4], [1, 2, 3, 4, END]):
        with pytest.raises(
            GtrTurboError,
            match=r"of 6 tokens does not end in the 4 .* of the 10 that it reads, and may have 8.\n--max-new-tokens 4 ",
        ):
            ends(cut)


def test_a_reply_that_has_all_the_tokens_asked_for_is_cut_by_that_and_not_refused():
    ends([1, 2, 3, 4], asked=4)
    ends([1, 2, 3, 4, 5], positions=None)


def test_no_more_tokens_are_sampled_than_some_prompt_leaves_place_for():
    assert most_new_tokens(prompts(6, 8), config(10), asked=8) == 4
    assert most_new_tokens(prompts(6, 8), config(10), asked=3) == 3
    assert most_new_tokens(prompts(6, 8), config(None), asked=8) == 8


def test_a_prompt_and_its_reply_may_fill_the_positions():
    require_context(prompts(6), config(10), "it", replies=[np.zeros(4)])
    with pytest.raises(GtrTurboError, match="a prompt and its reply have 11 tokens, and it reads 10 at most"):
        require_context(prompts(6), config(10), "it", replies=[np.zeros(5)])


def longest(turns) -> tuple[int, int]:
    """Return the most tokens of a prompt, and of a prompt and its reply, in turns."""
    tokens = read_turn_tokens(turns, read_turns(turns))
    return max(map(len, tokens.prompt_ids)), max(
        len(a) + len(b) for a, b in zip(tokens.prompt_ids, tokens.response_ids, strict=True)
    )


@pytest.fixture
def few(monkeypatch):
    """Let all models read so many tokens only."""
    return lambda positions: monkeypatch.setattr(context, "positions_of", lambda _: positions)


def test_a_rollout_is_refused_at_a_reply_that_the_context_cuts_and_goes_with_the_number_that_is_named(init, turns, few, tmp_path):
    few(longest(turns)[0] + 5)
    play = RolloutConfig(
        out=tmp_path / "t", checkpoint=init, task="numberline", env=("image=tiny",), episodes=2, max_new_tokens=48
    )
    with pytest.raises(GtrTurboError, match=r"does not end in the \d+ .* and may have 48.\n--max-new-tokens \d+ fits") as told:
        execute(play)
    assert not play.out.exists()
    execute(replace(play, max_new_tokens=min(5, int(str(told.value).split("--max-new-tokens ")[1].split()[0]))))


def test_a_rollout_whose_replies_end_in_time_goes_though_it_might_have_had_more_tokens(turns_config, turns, few, tmp_path):
    few(longest(turns)[1])  # The longest of them fills the positions.
    same = execute(replace(turns_config, out=tmp_path / "t", max_new_tokens=turns_config.max_new_tokens))
    assert (same.out / "turns.jsonl").read_bytes() == (turns / "turns.jsonl").read_bytes()


@pytest.mark.parametrize("stage", ["sft", "distill", "ppo-step"])
def test_turns_that_are_longer_than_what_a_model_reads_are_refused(stage, init, turns, ppo_config, few, tmp_path):
    positions = longest(turns)[0]
    few(positions)
    asked = {
        "sft": SftConfig(out=tmp_path / "o", checkpoint=init, data=(turns,), steps=1),
        "distill": DistillConfig(out=tmp_path / "o", teacher=init, rollouts=turns),
        "ppo-step": replace(ppo_config, out=tmp_path / "o"),
    }
    with pytest.raises(GtrTurboError, match=rf"a prompt and its reply have \d+ tokens, and .* reads {positions} at most"):
        execute(asked[stage])
