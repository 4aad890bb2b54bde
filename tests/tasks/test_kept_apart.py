"""What a task keeps, reuses or writes into after it gave it away is shown and recorded as it was when it was asked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import own_tasks
import pytest
from PIL import Image

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.recording import write_turns
from gtrturbo.stages import execute
from gtrturbo.store.turns import read_turns
from gtrturbo.tasks import ChatPrompt, View, ask

BRIGHT = own_tasks.BRIGHT


def episodes(task, *, num_envs=1, count=4, on_invalid_reply="random", seen=None):
    """Play by the expert, and note what is shown while it is asked: the place and the brightness of each picture."""

    def agent(states):
        if seen is not None:
            seen.extend((state.info["place"], int(state.images[-1].max())) for state in states)
        return [Response(task.expert_reply(state.info)) for state in states]

    asked = {"seed": 0, "episodes": range(count), "num_envs": num_envs, "on_invalid_reply": on_invalid_reply}
    return list(play_episodes(agent, task, **asked))


def places(found) -> list[tuple[int, int]]:
    return [(played.turn.info["place"], int(played.state.images[-1].max())) for turns in found for played in turns]


def one_canvas():
    canvas = np.zeros((28, 28, 3), np.uint8)

    def prompt(view: View) -> ChatPrompt:
        canvas[:] = view.picture
        return ask("back or on?", canvas)

    return replace(own_tasks.WALK, prompt=prompt)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_canvas_that_is_drawn_on_again_is_shown_and_recorded_as_it_was(num_envs):
    seen: list[tuple[int, int]] = []
    found = episodes(one_canvas(), num_envs=num_envs, seen=seen)
    assert len(seen) > 4 and all(bright == BRIGHT * place for place, bright in [*seen, *places(found)])


def test_messages_and_parts_that_are_written_into_again_are_recorded_as_they_were():
    part = {"type": "text", "text": ""}
    messages = [{"role": "user", "content": [{"type": "image"}, part]}]

    def prompt(view: View) -> ChatPrompt:
        part["text"] = f"turn {len(view.history)}"
        return ChatPrompt(messages, [view.picture])

    for turns in episodes(replace(own_tasks.WALK, prompt=prompt), num_envs=2):
        told = [played.turn.messages[0]["content"][1]["text"] for played in turns]
        assert told == [f"turn {place}" for place in range(len(turns))]


def test_a_picture_of_a_turn_before_cannot_be_written_into():
    def prompt(view: View) -> ChatPrompt:
        if view.history:
            view.history[-1].images[-1][:] = 7
        return ask("back or on?", view.picture)

    with pytest.raises(ValueError, match="read-only"):
        episodes(replace(own_tasks.WALK, prompt=prompt))


def spoil(info) -> None:
    info["place"] = 99
    info["way"].clear()


def spoiling(name: str):
    """A task of which one function writes into what is known, after it has read it."""
    known = lambda env, observation, info: {"place": int(observation), "way": ["on"], "won": info["won"]}  # noqa: E731
    task = replace(own_tasks.WALK, known=known)
    does = {
        "prompt": lambda view: (own_tasks.show(view), spoil(view.info))[0],
        "past": None,
        "expert": lambda info: (("on", "on"), spoil(info))[0],
        "truth": lambda info: ({"place": info["place"]}, spoil(info))[0],
        "won": lambda end: (end.info["won"], spoil(end.info))[0],
        "actions": lambda info: (("back", "on"), spoil(info))[0],
        "act": lambda action, info: (("back", "on").index(action), spoil(info))[0],
    }
    if name == "past":

        def prompt(view: View) -> ChatPrompt:
            if view.history:
                spoil(view.history[-1].info)
            return own_tasks.show(view)

        return replace(task, prompt=prompt)
    return replace(task, **{name: does[name]})


@pytest.mark.parametrize("name", ["prompt", "past", "expert", "truth", "won", "actions", "act"])
@pytest.mark.parametrize("on_invalid_reply", ["random", "noop"])
def test_what_is_known_is_recorded_as_it_was_whoever_writes_into_it(name, on_invalid_reply):
    for turns in episodes(spoiling(name), on_invalid_reply=on_invalid_reply):
        for place, played in enumerate(turns):
            start = turns[0].turn.info["place"]
            assert played.turn.info == {"place": start + place, "way": ["on"], "won": False}
            assert played.turn.legal and played.turn.perception_correct


def test_an_observation_that_is_drawn_into_is_shown_anew_where_nothing_was_done():
    def prompt(view: View) -> ChatPrompt:
        view.picture[:] = 255 - view.picture
        return ask("back or on?", view.picture)

    class Seen(own_tasks.Corridor):
        def reset(self, *, seed=None, options=None):
            _, info = super().reset(seed=seed)
            return self.render(), info

    task = replace(own_tasks.WALK, make=Seen, prompt=prompt, expert=lambda info: "nothing that can be read")
    for turns in episodes(task, on_invalid_reply="noop"):
        assert len({played.state.images[0].tobytes() for played in turns}) == 1 < len(turns)


def with_part(part, **more):
    """A prompt of an image part as it should be, but for what is given."""

    def prompt(view: View) -> ChatPrompt:
        content = [part(view), {"type": "text", "text": "back or on?"}]
        return ChatPrompt(**{"messages": [{"role": "user", "content": content}], "images": [view.picture]} | more)

    return prompt


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (with_part(lambda view: IMAGE | {"image": Image.fromarray(view.picture)}), "Image is not JSON"),
        (with_part(lambda view: IMAGE | {"image": view.picture}), "ndarray is not JSON"),
        (with_part(lambda view: IMAGE | {"width": float("nan")}), "are no JSON"),
        (with_part(lambda view: {"type": "text", "text": "half \ud800"}), "are no JSON"),
        (with_part(lambda view: {"type": "image_url", "image_url": "x"}), "one is of type 'image_url'"),
        (with_part(lambda view: "a text"), "no chat messages with content parts"),
        (with_part(lambda view: {"type": "text"}), "no chat messages with content parts"),
        (with_part(lambda view: {"type": "text", "text": "none"}), "0 image parts, and it names 1"),
        (with_part(lambda view: IMAGE, images=[]), "1 image parts, and it names 0"),
        (with_part(lambda view: IMAGE, images=None), "has NoneType for its pictures"),
        (with_part(lambda view: IMAGE, messages=[]), "no chat messages"),
        (with_part(lambda view: IMAGE, messages=["go on"]), "no chat messages"),
        (with_part(lambda view: IMAGE, messages="go on"), "has str for its messages"),
        (with_part(lambda view: IMAGE, messages=[{"content": "go on"}]), "no chat messages"),
    ],
)
def test_a_prompt_that_no_turn_can_hold_is_refused_before_it_is_asked(prompt, told):
    with pytest.raises(GtrTurboError, match=told) as error:
        episodes(replace(own_tasks.WALK, prompt=prompt))
    assert "walk" in error.value.what and error.value.fix


def test_what_is_asked_in_tuples_is_recorded_in_lists_and_read_again(tmp_path):
    def prompt(view: View) -> ChatPrompt:
        said = ({"role": "system", "content": "Walk."}, {"role": "user", "content": (IMAGE, {"type": "text", "text": "?"})})
        return ChatPrompt(said, (view.picture,))  # type: ignore[arg-type]

    turns = write_turns(tmp_path, episodes(replace(own_tasks.WALK, prompt=prompt)))
    assert read_turns(tmp_path) == turns


OWN = """
from dataclasses import replace
import own_tasks
from gtrturbo.tasks import ChatPrompt

def prompt(view):
    return ChatPrompt(own_tasks.show(view).messages, [view.picture, view.picture])

TASK = replace(own_tasks.WALK, prompt=prompt)
"""


def test_a_rollout_writes_nothing_that_its_own_reader_calls_damaged(tmp_path: Path):
    (tmp_path / "twice.py").write_text(OWN)
    with pytest.raises(GtrTurboError, match="1 image parts, and it names 2 pictures") as error:
        execute(RolloutConfig(out=tmp_path / "turns", task=f"{tmp_path / 'twice.py'}:TASK", expert=True, episodes=1))
    assert "ChatPrompt.images" in error.value.fix and not (tmp_path / "turns").exists()
