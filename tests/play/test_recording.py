"""Turns on disk: what was sampled is what is trained on, and other trainers can read it."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from games import prompt_text
from resealed import reseal

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, Stretch, play_episodes
from gtrturbo.play.recording import Episode, read_transcript, read_turns, record_episodes, write_turns
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import chat
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.tensors import load_turn_tokens
from gtrturbo.tasks.loading import load_task

TASK = load_task("numberline", ["image=tiny"])


def test_episodes_of_whom_it_is_not_proved_who_played_them_are_played_again(tmp_path):
    asked, logged, rounds, late = [], [], [], Stretch()

    def agent(states):
        asked.extend(state.episode for state in states)
        # Of the third episode nobody proves it in the first round; of the second at the end of that round.
        stretches = {2: Stretch(believed=bool(rounds)), 1: late}
        replies = [TASK.expert_reply(state.info) for state in states]
        return [Response(text, stretch=stretches.get(state.episode)) for state, text in zip(states, replies, strict=True)]

    def at_end():
        logged.append(sorted(episode.index for episode in log.read()))
        rounds.append(1)
        late.believed = True

    (tmp_path / "turns").mkdir()
    made = Provenance("rollout", "turns", {}, {})
    with ResumeLog(tmp_path / "out", made, Episode) as log:
        how = {"seed": 1, "num_envs": 1, "on_invalid_reply": "random", "at_end": at_end}
        turns = record_episodes(tmp_path / "turns", log, agent, TASK, episodes=range(4), **how)
        log.remove()
    # What needs no proof is kept at once, the others when it is there.
    assert logged == [[0, 3], [0, 1, 2, 3]]
    assert [key for key, _ in itertools.groupby(asked)] == [0, 1, 2, 3, 2]
    assert sorted({turn.episode for turn in turns}) == [0, 1, 2, 3]


def test_what_is_proved_in_the_middle_of_an_episode_is_kept_before_that_ends(tmp_path):
    first, kept = Stretch(), []

    def agent(states):
        [state] = states
        kept.append([episode.index for episode in log.read()])
        first.believed |= state.episode == 1 and state.turn == 1
        stretch = first if state.episode == 0 else Stretch(believed=True)
        return [Response(TASK.expert_reply(state.info), stretch=stretch)]

    (tmp_path / "turns").mkdir()
    with ResumeLog(tmp_path / "out", Provenance("rollout", "turns", {}, {}), Episode) as log:
        how = {"seed": 1, "num_envs": 1, "on_invalid_reply": "random"}
        turns = record_episodes(tmp_path / "turns", log, agent, TASK, episodes=range(2), **how)
        log.remove()
    lengths = [sum(turn.episode == index for turn in turns) for index in range(2)]
    # Proved by the second answer of the second episode, the first one is there before the third is asked for.
    assert lengths[1] > 2 and kept == [[]] * (lengths[0] + 2) + [[0]] * (lengths[1] - 2)


def test_turns_come_back_in_the_order_of_episode_and_turn(turns):
    keys = [(turn.episode, turn.turn) for turn in read_turns(turns)]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)


def test_prompts_are_rendered_again_to_the_ids_that_the_policy_was_given(transcript):
    for prompt, ids in zip(transcript.prompts, transcript.tokens.prompt_ids, strict=True):
        assert prompt.ids.tolist() == ids.tolist()


def test_tokens_decode_to_the_reply_that_was_recorded(transcript, policy):
    for turn, ids in zip(transcript.turns, transcript.tokens.response_ids, strict=True):
        assert policy.processor.tokenizer.decode(ids, skip_special_tokens=True) == turn.reply


def test_every_reply_token_is_thought_or_action_and_never_both(transcript):
    tokens = transcript.tokens
    for thought, action, ids, logprobs in zip(
        tokens.thought_mask, tokens.action_mask, tokens.response_ids, tokens.sample_logprobs, strict=True
    ):
        assert len(thought) == len(action) == len(ids) == len(logprobs)
        assert (thought ^ action).all()


def test_thought_tokens_end_before_the_action_key_and_illegal_replies_are_all_thought(transcript, policy):
    legal = 0
    for turn, ids, thought in zip(transcript.turns, transcript.tokens.response_ids, transcript.tokens.thought_mask, strict=True):
        before = policy.processor.tokenizer.decode(ids[thought], skip_special_tokens=True)
        if not turn.legal:
            assert before == turn.reply
            continue
        legal += 1
        key = turn.reply.index('"action"')
        assert turn.reply.startswith(before) and "thoughts" in before
        # At most one token may straddle the boundary, and it counts as action.
        assert len(before) <= key and turn.reply[len(before) : key].strip() == ""
    assert legal > 5


def test_turns_are_chat_messages_with_one_picture_per_image_part(turns):
    for line in (turns / "turns.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        parts = [part for message in row["messages"] for part in message["content"]]
        assert sum(part["type"] == "image" for part in parts) == len(row["images"]) == 1
        assert (turns / row["images"][0]).is_file()


def test_the_picture_of_a_turn_is_the_one_that_its_state_shows(turns):
    for turn in read_turns(turns)[:20]:
        shown, _ = TASK.make().unwrapped.reset(options={"start": turn.info["Current"], "goal": turn.info["Target"]})
        assert np.array_equal(load_picture(turns, turn.images[0]), shown)


def test_pictures_are_stored_once_each(turns):
    named = {image for turn in read_turns(turns) for image in (*turn.images, *(turn.successor.images if turn.successor else ()))}
    assert {f"images/{path.name}" for path in (turns / "images").iterdir()} == named
    assert len(named) < len(read_turns(turns))


def test_what_follows_a_cut_turn_has_its_prompt_and_picture_on_disk(turns):
    cut = [turn for turn in read_turns(turns) if turn.truncated]
    assert cut
    for turn in cut:
        assert turn.successor.messages == chat(prompt_text(TASK, turn.info))
        assert (turns / turn.successor.images[0]).is_file()
    assert all(turn.successor is None for turn in read_turns(turns) if not turn.truncated)


def split_into_characters(renderer, text: str):
    """Tokenise one character at a time, as no tokenizer would."""
    ids = [token for character in text for token in renderer.processor.tokenizer(character)["input_ids"]]
    return np.array([*ids, renderer.processor.tokenizer.eos_token_id], np.int32)


def test_sampled_ids_are_kept_even_where_the_tokenizer_would_choose_others(tmp_path, policy):
    renderer = policy.renderer

    def agent(states):
        response = []
        for state in states:
            ids = split_into_characters(renderer, TASK.expert_reply(state.info))
            text, offsets = renderer.decode(ids.tolist())
            prompt = renderer.prompt(state.messages, state.images)
            response.append(Response(text, prompt.ids, ids, offsets, np.full(len(ids), -1.0, np.float32)))
        return response

    episodes = play_episodes(agent, TASK, seed=0, episodes=range(2), num_envs=2, on_invalid_reply="random")
    written = write_turns(tmp_path, episodes)
    back = read_transcript(tmp_path, renderer)
    for turn, ids in zip(written, back.tokens.response_ids, strict=True):
        assert turn.legal
        assert ids.tolist() == split_into_characters(renderer, turn.reply).tolist()
        assert len(ids) > len(renderer.response_ids(turn.reply)[0])


def test_an_experts_turns_have_no_tokens_to_train_on(expert, policy):
    with pytest.raises(GtrTurboError, match=r"has no tokens: an expert played it.*\nplay with: gtrturbo rollout --checkpoint"):
        read_transcript(expert, policy.renderer)


def test_turns_that_render_to_other_tokens_are_refused(tmp_path, turns, policy):
    shutil.copytree(turns, tmp_path / "turns")
    text = (tmp_path / "turns" / "turns.jsonl").read_text()
    (tmp_path / "turns" / "turns.jsonl").write_text(text.replace("The image shows", "The picture shows"))
    reseal(tmp_path / "turns")
    with pytest.raises(GtrTurboError, match=r"turn 0 of .* renders to other tokens"):
        read_transcript(tmp_path / "turns", policy.renderer)


def test_turns_and_tokens_of_different_numbers_are_refused(tmp_path, turns, policy):
    shutil.copytree(turns, tmp_path / "turns")
    lines = (turns / "turns.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "turns" / "turns.jsonl").write_text("".join(lines[:-1]))
    reseal(tmp_path / "turns")
    with pytest.raises(GtrTurboError, match=rf"there are {len(lines) - 1} turns and tokens of {len(lines)} replies|does not end"):
        read_transcript(tmp_path / "turns", policy.renderer)


def test_sample_log_probs_are_at_most_zero_and_finite(turns):
    for row in load_turn_tokens(turns / "tokens.safetensors").sample_logprobs:
        assert np.isfinite(row).all() and (row <= 0).all()


def test_a_reply_without_tokens_is_refused_beside_one_with_tokens(tmp_path, transcript):
    from gtrturbo.play.episodes import Played, State

    state = State(episode=0, turn=0, messages=chat("?"), images=[np.zeros((28, 28, 3), np.uint8)], info={})
    ids = np.array([1], np.int32)
    sampled = Response("a", ids, ids, [(0, 1)], np.array([-1.0], np.float32))
    rows = [
        Played(state, response, None, replace(transcript.turns[0], episode=index), None)
        for index, response in enumerate((sampled, Response("b")))
    ]
    with pytest.raises(ValueError, match="has no tokens"):
        write_turns(tmp_path, [[row] for row in rows])
