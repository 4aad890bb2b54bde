"""Playing: an episode depends on its seed and index alone, and every turn says what happened."""

import itertools

import numpy as np
import pytest
from games import prompt_text

from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.policy_agent import PolicyAgent, uniforms
from gtrturbo.store.records import chat
from gtrturbo.tasks.loading import load_task

TASK = load_task("numberline", ["image=tiny"])
NONSENSE = "I would rather not say."


def play(agent, *, seed=3, episodes=range(4), num_envs=2, on_invalid_reply="random", task=TASK):
    played = play_episodes(agent, task, seed=seed, episodes=episodes, num_envs=num_envs, on_invalid_reply=on_invalid_reply)
    return {turns[0].turn.episode: turns for turns in played}


def refuse(states):
    return [Response(NONSENSE) for _ in states]


def know(states):
    return [Response(TASK.expert_reply(state.info)) for state in states]


def reply(action: str, state) -> str:
    """A legal reply that always takes one action."""
    text = TASK.expert_reply(state.info)
    return text[: text.rindex(":")] + f': "{action}"}}'


def without_tokens(episodes):
    return {index: [played.turn for played in turns] for index, turns in episodes.items()}


@pytest.fixture(scope="module")
def policy(warm):
    from gtrturbo.models.checkpoint import load_policy

    return load_policy(warm, device="cpu")


@pytest.fixture(scope="module")
def eight(policy):
    """Eight episodes of the warm policy, played side by side."""
    return play(PolicyAgent(policy, seed=3, temperature=1.0, max_new_tokens=48), episodes=range(8), num_envs=8)


def same_episodes(left, right) -> None:
    assert without_tokens(left) == without_tokens(right)
    for index in left:
        for a, b in zip(left[index], right[index], strict=True):
            assert a.response.response_ids.tolist() == b.response.response_ids.tolist()
            assert a.response.prompt_ids.tolist() == b.response.prompt_ids.tolist()
            assert a.response.logprobs == pytest.approx(b.response.logprobs, abs=1e-5)
            assert np.array_equal(a.state.images[0], b.state.images[0])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_episodes_do_not_depend_on_how_many_are_played_side_by_side(policy, eight, num_envs):
    agent = PolicyAgent(policy, seed=3, temperature=1.0, max_new_tokens=48)
    few = {index: eight[index] for index in range(4)}
    same_episodes(play(agent, episodes=range(4), num_envs=num_envs), few)


def test_two_halves_played_apart_equal_the_whole(policy, eight):
    agent = PolicyAgent(policy, seed=3, temperature=1.0, max_new_tokens=48)
    halves = play(agent, episodes=range(0, 3), num_envs=3) | play(agent, episodes=range(3, 8), num_envs=2)
    same_episodes(halves, eight)


def test_each_turn_has_numbers_of_its_own(policy):
    from gtrturbo.play.episodes import State

    picture, info = TASK.make().reset(seed=0)
    states = [State(episode, turn, chat(prompt_text(TASK, info)), [picture], info) for episode, turn in ((0, 0), (0, 1), (1, 0))]
    response = PolicyAgent(policy, seed=3, temperature=2.0, max_new_tokens=20)(states)
    assert len({tuple(each.response_ids.tolist()) for each in response}) == 3


def test_another_seed_plays_other_episodes(policy, eight):
    other = play(PolicyAgent(policy, seed=4, temperature=1.0, max_new_tokens=48), seed=4, episodes=range(2))
    assert without_tokens(other) != {index: without_tokens(eight)[index] for index in range(2)}


def test_every_asked_episode_is_played_once_and_to_its_end():
    played = [turns for turns in play_episodes(know, TASK, seed=0, episodes=range(5, 12), num_envs=3, on_invalid_reply="random")]
    assert sorted(turns[0].turn.episode for turns in played) == list(range(5, 12))
    for turns in played:
        assert [each.turn.turn for each in turns] == list(range(len(turns)))
        assert [each.turn.last for each in turns] == [False] * (len(turns) - 1) + [True]


def test_more_environments_than_episodes_play_each_once():
    assert sorted(play(know, episodes=range(3), num_envs=32)) == [0, 1, 2]


def test_the_numbers_of_one_reply_do_not_depend_on_the_others():
    together, alone = uniforms([5, 6, 7], 9), uniforms([6], 9)
    assert together.shape == (3, 9) and np.array_equal(together[1], alone[0])
    assert not np.array_equal(together[0], together[1])
    assert ((together >= 0) & (together < 1)).all()


def test_a_random_stand_in_is_recorded_as_executed_and_not_as_chosen():
    for turns in play(refuse).values():
        for played in turns:
            turn = played.turn
            assert (turn.action, turn.legal, turn.perception_correct, played.reply) == (None, False, None, None)
            assert turn.executed in TASK.actions


def executed(episodes) -> list[list[str]]:
    return [[played.turn.executed for played in episodes[index]] for index in sorted(episodes)]


def test_random_stand_ins_take_every_action_and_do_not_depend_on_what_is_played_beside():
    first = executed(play(refuse))
    assert {action for actions in first for action in actions} == set(TASK.actions)
    assert executed(play(refuse, num_envs=4)) == first


def test_random_stand_ins_follow_from_the_seed_and_from_the_episode():
    runs = [executed(play(refuse, seed=seed, episodes=range(8))) for seed in (3, 9)]

    def agree(left: list[str], right: list[str]) -> bool:
        return all(a == b for a, b in zip(left, right, strict=False))  # As far as the shorter one goes.

    assert not all(agree(one, other) for one, other in zip(*runs, strict=True))
    assert not all(agree(one, other) for one, other in itertools.pairwise(runs[0]))


def test_doing_nothing_leaves_the_state_until_the_longest_episode_is_over():
    for turns in play(refuse, on_invalid_reply="noop").values():
        assert len(turns) == TASK.max_turns == 10
        for played in turns:
            assert (played.turn.executed, played.turn.action, played.turn.reward) == (None, None, 0.0)
            assert played.turn.info == turns[0].turn.info
            assert np.array_equal(played.state.images[0], turns[0].state.images[0])
        assert [played.turn.truncated for played in turns] == [False] * 9 + [True]
        assert not any(played.turn.terminated for played in turns)


def test_an_illegal_reply_may_end_the_episode():
    for turns in play(refuse, on_invalid_reply="end").values():
        assert len(turns) == 1
        turn = turns[0].turn
        assert (turn.terminated, turn.truncated, turn.executed, turn.reward, turn.won) == (True, False, None, 0.0, False)


def test_legal_replies_are_executed_as_they_say_whatever_illegal_ones_do():
    played = [without_tokens(play(know, on_invalid_reply=illegal)) for illegal in ("random", "noop", "end")]
    assert played[0] == played[1] == played[2]
    for turns in played[0].values():
        assert all(turn.legal and turn.executed == turn.action and turn.perception_correct for turn in turns)
        assert turns[-1].won and turns[-1].terminated and turns[-1].reward == 1.0


def test_what_follows_is_kept_where_an_episode_was_cut_and_only_there():
    # Always down: episodes whose target is above the start never end by themselves.
    episodes = play(lambda states: [Response(reply("-", state)) for state in states], episodes=range(20), num_envs=5)
    turns = [played for episode in episodes.values() for played in episode]
    assert any(played.turn.truncated for played in turns) and any(played.turn.terminated for played in turns)
    for played in turns:
        assert (played.after is not None) == played.turn.truncated
        if played.after:
            assert played.after.turn == played.turn.turn + 1 and played.after.episode == played.turn.episode


def test_a_turn_is_never_both_at_its_end_by_rule_and_cut():
    # A line of one step: horizon 1, and the expert wins on the last turn that there is.
    task = load_task("numberline", ["image=tiny", "line=2", "horizon=1"])
    episodes = play(lambda states: [Response(task.expert_reply(state.info)) for state in states], task=task, episodes=range(10))
    turns = [played.turn for episode in episodes.values() for played in episode]
    assert any(turn.won for turn in turns)
    assert [turn for turn in turns if turn.terminated and turn.truncated] == []


def test_what_is_recorded_of_a_turn_is_the_state_before_its_action():
    for turns in play(lambda states: [Response(reply("+", state)) for state in states]).values():
        for before, after in itertools.pairwise(turns):
            moved = min(before.turn.info["Current"] + 1, 5)
            assert after.turn.info["Current"] == moved
            distance = [abs(turn.info["Target"] - turn.info["Current"]) for turn in (before.turn, after.turn)]
            assert before.turn.reward == (-1.0 if distance[1] >= distance[0] else 0.0)


def test_the_reward_is_the_sum_of_its_terms_and_the_seed_repeats_the_deal():
    for turns in play(know).values():
        for played in turns:
            assert played.turn.reward == sum(played.turn.reward_terms.values())
        env = TASK.make()
        picture, info = env.reset(seed=turns[0].turn.seed)
        assert info == turns[0].turn.info and np.array_equal(picture, turns[0].state.images[0])


# Groups


def play_in_groups(size, episodes=range(6), *, task=TASK, agent=know, num_envs=3):
    played = play_episodes(agent, task, seed=3, episodes=episodes, num_envs=num_envs, on_invalid_reply="random", group_size=size)
    return {turns[0].turn.episode: turns for turns in played}


def test_episodes_of_a_group_share_their_deal_and_groups_do_not():
    episodes = play_in_groups(3)
    assert [episodes[index][0].turn.group for index in range(6)] == [0, 0, 0, 1, 1, 1]
    shown = [episodes[index][0].state.images[0].tobytes() for index in range(6)]
    assert shown[0] == shown[1] == shown[2] != shown[3] == shown[4] == shown[5]
    # Their deals are those of the first episodes of play without groups.
    alone = play(know, episodes=range(2))
    assert [alone[index][0].state.images[0].tobytes() for index in range(2)] == [shown[0], shown[3]]
    assert alone[0][0].turn.group is None


def test_episodes_of_a_group_draw_tokens_of_their_own(policy):
    agent = PolicyAgent(policy, seed=3, temperature=1.0, max_new_tokens=48)
    episodes = play_in_groups(4, range(4), agent=agent, num_envs=4)
    assert len({episodes[index][0].response.response_ids.tobytes() for index in range(4)}) > 1


def test_episodes_of_a_group_have_random_actions_of_their_own():
    episodes = play_in_groups(6, agent=refuse)
    executed = [tuple(played.turn.executed for played in episodes[index][:2]) for index in range(6)]
    assert len(set(executed)) > 1


def test_what_is_drawn_after_the_deal_is_an_episodes_own():
    task = load_task("blackjack", ["image=tiny"])

    def hit(states):
        return [Response(task.expert_reply({**state.info, "Player Card": [(2, "2", "S")]})) for state in states]

    episodes = play_in_groups(8, range(8), task=task, agent=hit)
    assert len({str(turns[0].state.info["Player Card"]) for turns in episodes.values()}) == 1
    assert len({str(turns[1].state.info["Player Card"]) for turns in episodes.values() if len(turns) > 1}) > 2


def test_an_episode_of_a_group_is_the_same_whatever_is_played_beside_it():
    whole, part = play_in_groups(3), play_in_groups(3, range(3, 6), num_envs=1)
    assert without_tokens(part) == {index: turns for index, turns in without_tokens(whole).items() if index >= 3}
