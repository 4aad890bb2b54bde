"""What a task of one's own gets wrong is said in a sentence that names the task, where it happens."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gtrturbo.config import EvalConfig, RolloutConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.recording import read_turns
from gtrturbo.runs.plan import plan
from gtrturbo.runs.warm_start import check_tasks
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.panels import panel_id
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ask


class Three(gym.Env):
    """Three steps, of which the second pays what it is told to."""

    observation_space = gym.spaces.Box(0, 255, (28, 28, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    pays: float = 1.0
    knows: Any = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((28, 28, 3), np.uint8), {"n": self.knows}

    def step(self, action):
        self.count += 1
        reward = self.pays if self.count == 2 else 0.0
        return np.zeros((28, 28, 3), np.uint8), reward, self.count == 3, False, {"n": self.knows}


def task(**more) -> Task:
    expert = {"expert": lambda info: ("on", "go")}
    return Task(
        **({"name": "three", "make": Three, "prompt": lambda v: ask("?", v.picture), "actions": ("go", "stay")} | expert | more)
    )


def played(made: Task):
    agent = lambda states: [Response(made.expert_reply(state.info)) for state in states]  # noqa: E731
    return list(play_episodes(agent, made, seed=0, episodes=range(1), num_envs=1, on_invalid_reply="end"))


def test_the_task_itself_is_sound():
    assert len(played(task())[0]) == 3


class NotANumber(Three):
    pays = float("nan")


class Unknown(Three):
    knows = float("inf")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"make": NotANumber}, r"three pays nan at step\(\d\)"),
        ({"make": Unknown}, "holds n, which is inf"),
        ({"known": lambda env, observation, info: None}, "what is known of a state of three is NoneType"),
        ({"prompt": lambda view: None}, "the prompt of three is NoneType, not a ChatPrompt"),
        ({"prompt": lambda view: "go?"}, "the prompt of three is str, not a ChatPrompt"),
        (
            {"prompt": lambda view: ask("?", np.zeros((28, 28), np.uint8))},
            r"the prompt of three has uint8 \[28, 28\] for a picture",
        ),
        ({"expert": lambda info: None}, "the expert of three says None"),
        ({"parse": lambda text, info: "go"}, "the parser of three returns str, not a Reply"),
        ({"won": lambda end: "no"}, "whether three is won is said by 'no'"),
        ({"actions": lambda info: []}, r"the actions of three are \[\]"),
    ],
)
def test_what_a_task_returns_is_checked_where_it_returns_it(more, told):
    with pytest.raises(GtrTurboError, match=told):
        played(task(**more))


@pytest.mark.parametrize("actions", [(), (0, 1), ("go", "go"), "go"])
def test_actions_are_texts_of_their_own(actions):
    with pytest.raises(GtrTurboError, match="the actions of three are"):
        task(actions=actions)


def test_what_is_read_has_a_truth():
    with pytest.raises(GtrTurboError, match="three reads row, whose true values are not known"):
        task(reads=("row",))


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        (("row"), "the reads of three are 'row'"),  # A comma was forgotten.
        ("", "the reads of three are ''"),
        ({"row"}, "the reads of three are {'row'}"),
        (None, "the reads of three are None"),
        ((1,), r"the reads of three are \(1,\)"),
        (("row", ""), "the reads of three are"),
        (("row", "row"), "the reads of three are"),
        (("thoughts",), "three reads 'thoughts', which is not read off a picture"),
        (("action",), "three reads 'action', which is not read off a picture"),
    ],
)
def test_what_is_read_are_names_each_once(reads, told):
    with pytest.raises(GtrTurboError, match=told) as error:
        task(reads=reads, truth=lambda info: {"row": 1, "r": 1, "o": 1, "w": 1})
    assert reads != "row" or "reads=('row',)" in error.value.fix


@pytest.mark.parametrize("field", ["panels", "options"])
def test_panels_and_options_go_by_name(field):
    with pytest.raises(GtrTurboError, match=f"{field} of three is list"):
        task(**{field: ["a"]})


@pytest.mark.parametrize("kind", [None, 3, "", ["low"]])
def test_a_kind_that_is_none_ends_the_first_episode_before_its_first_turn(kind):
    asked = []
    made = task(kind=lambda info: kind)
    with pytest.raises(GtrTurboError, match="the kind of an episode of three is"):
        agent = lambda states: asked.append(states)  # noqa: E731
        list(play_episodes(agent, made, seed=0, episodes=range(1), num_envs=1, on_invalid_reply="end"))
    assert not asked
    assert task(kind=lambda info: "low").kind_of({}) == "low"


def test_a_truth_that_no_reply_has_to_give_is_refused_in_the_first_state():
    with pytest.raises(GtrTurboError, match="the truth of three gives 'n', which no reply has to read") as error:
        played(task(truth=lambda info: {"n": 1}))
    assert "name it in reads" in error.value.fix
    assert len(played(task(truth=lambda info: {"n": 1}, reads=("n",)))[0]) == 3


def test_a_parser_of_its_own_says_what_is_read():
    def parse(text, info):
        return Reply({"n": int(text[0])}, text[2:], 1, (2, len(text)))

    made = task(truth=lambda info: {"n": 1}, parse=parse, expert=lambda info: "1 go")
    assert [each.turn.perception_correct for each in played(made)[0]] == [True] * 3


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ({1, 2}, "is set"),
        ("12", "is str"),
        ([1, -1], "holds -1"),
        (["a"], "holds 'a'"),
        ([True], "holds True"),
        ([0.5], "holds 0.5"),
    ],
)
def test_seeds_of_a_panel_are_whole_numbers_in_order(seeds, told):
    with pytest.raises(GtrTurboError, match=f"panel p of three {told}"):
        task(panels={"p": seeds})


def test_a_panel_may_be_an_array():
    assert task(panels={"p": np.arange(2, 5)}).panel("p") == [2, 3, 4]
    with pytest.raises(GtrTurboError, match="three has no panel 'p'"):
        task(panels={"p": np.arange(0)}).panel("p")


class Fixed(Three):
    np_random = property(lambda self: np.random.default_rng(0))

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros((28, 28, 3), np.uint8), {}


def test_a_group_needs_an_environment_whose_draws_can_be_set():
    how = {"seed": 0, "episodes": range(2), "num_envs": 1, "on_invalid_reply": "end"}
    agent = lambda states: [Response("") for _ in states]  # noqa: E731
    assert len(list(play_episodes(agent, task(make=Fixed), **how))) == 2
    with pytest.raises(GtrTurboError, match="np_random of three cannot be set") as error:
        list(play_episodes(agent, task(make=Fixed), group_size=2, **how))
    assert "leave out --group-size" in error.value.fix


FILE = """
from gtrturbo.tasks import Task, ask
import gymnasium as gym

def task(parse: bool = False, words: str = "go"):
    make = lambda: gym.make("gtrturbo/NumberLine-v0", image="tiny")
    more = {"parse": lambda text, info: None} if parse else {}
    expert = {"expert": lambda info: ("on", words)} if words else {}
    return Task(name="mine", make=make, prompt=lambda view: ask("?", view.picture), actions=("-", "+"), **more, **expert)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path / 'mine.py'}:task"


def test_an_expert_that_its_own_task_cannot_read_ends_the_rollout(own, tmp_path):
    with pytest.raises(GtrTurboError, match="mine cannot read its own expert's reply"):
        execute(RolloutConfig(out=tmp_path / "turns", task=own, expert=True, episodes=1))
    assert not (tmp_path / "turns").exists()


@pytest.mark.parametrize(
    ("env", "told", "mend"),
    [
        (("words=",), "mine has no expert to warm up on", "--set expert.random-expert-share=1"),
        (("words=", "parse=true"), "mine has no expert to warm up on", "--start CHECKPOINT"),
        (("wurds=x",), "has no option 'wurds'", "parse, words"),
    ],
)
def test_a_run_asks_before_its_first_stage_whether_its_task_can_be_played(own, tmp_path, env, told, mend):
    config = RunConfig(out=tmp_path / "run", task=own, env=env, iterations=1)
    with pytest.raises(GtrTurboError, match=told) as error:
        check_tasks(plan(config))
    assert mend in error.value.fix
    # What has begun is not asked again.
    (tmp_path / "run" / "init").mkdir(parents=True)
    check_tasks(plan(replace(config)))


def test_a_run_asks_before_its_first_stage_whether_there_is_the_panel_that_it_is_evaluated_on(tmp_path):
    config = RunConfig(out=tmp_path / "run", task="frozenlake", set=("eval.panel=fixd",), iterations=1)
    with pytest.raises(GtrTurboError, match="frozenlake has no panel 'fixd'") as error:
        check_tasks(plan(config))
    assert "held-out" in error.value.fix
    check_tasks(plan(replace(config, set=("eval.panel=held-out",))))


PANEL = """
from gtrturbo.tasks.loading import load_task
from dataclasses import replace

TASK = replace(load_task("numberline", ["image=tiny"]), name="lined", panels={"seven": (7, 7, 11)})
"""


def test_a_panel_is_played_whole_with_its_own_seeds(tmp_path, init):
    (tmp_path / "lined.py").write_text(PANEL)
    call = {"checkpoint": init, "task": f"{tmp_path / 'lined.py'}:TASK", "max_new_tokens": 2, "on_invalid_reply": "end"}
    out = execute(EvalConfig(out=tmp_path / "eval", panel="seven", **call)).out
    turns = read_turns(out)
    assert [turn.seed for turn in turns] == [7, 7, 11]
    assert turns[0].info == turns[1].info
    manifest = read_manifest(out)
    assert manifest.config["panel"] == "seven"
    assert manifest.plugins["panel"] == {"name": "seven", "sha256": panel_id(load_task(call["task"]), "seven")}
    with pytest.raises(GtrTurboError, match="lined has no panel 'eight'") as error:
        execute(EvalConfig(out=tmp_path / "other", panel="eight", **call))
    assert error.value.fix == "its panels are: seven."
