"""THOR behind the same task: ALFWorld's `AlfredThorEnv`, one scene in Unity per environment; docs/alfworld-thor.md.

Source: `alfworld.agents.environment.alfred_thor_env` of alfworld 0.4.2.
"""

import contextlib
import importlib
import random
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.tasks.alf.library import FOLDERS, TRAJECTORY
from gtrturbo.tasks.alf.scenes import HouseGame, Scene

NO_LIMIT = 1_000_000  # Turns: episodes are cut by the task.
FRAME = 300  # Pixels, the paper's.


class ThorEngine:
    """Plays games in THOR.

    Args:
        make: makes an `AlfredThorEnv`, whose controller is the oracle and whose expert is the hand-coded one.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._inner: Any = None
        self._end: weakref.finalize | None = None

    def start(self, game: HouseGame) -> Scene:
        """Begin a game.

        Raises: GtrTurboError: Unity cannot be started, or has stopped.
        """
        with contextlib.redirect_stdout(sys.stderr):  # It prints, and our output is for results.
            if self._inner is None:
                self._inner = self._started()
                self._end = weakref.finalize(self, self._inner.close)  # At the end of the process, too: Unity is one of its own.
            self._inner.json_file_list = [str(Path(game.folder) / TRAJECTORY)]
            with _drawn_by(game.sha256):  # It draws the goal's wording and the game, of which there is one.
                texts, infos = self._inner.reset()
        return self._scene(texts[0], infos)

    def act(self, command: str) -> Scene:
        """Do one of the scene's commands.

        Raises: GtrTurboError: Unity has stopped.
        """
        self._require_running()
        with contextlib.redirect_stdout(sys.stderr):
            texts, _, _, infos = self._inner.step([command])
        return self._scene(texts[0], infos)

    def close(self) -> None:
        """Stop Unity."""
        if self._end is not None:
            self._end()
        self._inner, self._end = None, None

    def _started(self) -> Any:
        try:
            return self._make().init_env(1)
        except (AssertionError, ImportError, OSError) as error:  # No display is an AssertionError there.
            said = said_by(error) or type(error).__name__
            raise GtrTurboError(f"THOR cannot be started: {said}.", "see the documentation: alfworld-thor") from None

    def _require_running(self) -> None:
        if not self._inner.envs[0].is_alive():  # Its thread ends at an error, and whoever waits for it waits for ever.
            raise GtrTurboError("THOR has stopped; its own error stands above.", "give the same command again.")

    def _scene(self, text: str, infos: Mapping[str, Any]) -> Scene:
        self._require_running()
        commands = tuple(sorted(set(infos["admissible_commands"][0])))
        plan = tuple(each for each in infos["extra.expert_plan"][0] if each in commands)
        rate = float(infos["goal_condition_success_rate"][0])
        frame = np.ascontiguousarray(self._inner.get_frames()[0][:, :, ::-1])  # Blue, green, red there.
        return Scene(" ".join(text.split()), commands, bool(infos["won"][0]), rate, plan[:1], frame)


@contextlib.contextmanager
def _drawn_by(sha256: str) -> Iterator[None]:
    """Let what draws from Python's own generator draw by a game's hash, and put that generator back."""
    before = random.getstate()
    random.seed(sha256)
    try:
        yield
    finally:
        random.setstate(before)


def made_thor(root: Path) -> ThorEngine:
    """Make the engine of the games below a folder; Unity is started with the first game."""
    return ThorEngine(lambda: _thor_class()(thor_config(root), train_eval="train"))  # Its expert plans in training alone.


def _thor_class() -> Any:
    environments = importlib.import_module("alfworld.agents.environment")
    return environments.get_environment("AlfredThorEnv")


def thor_config(root: Path) -> dict[str, Any]:
    """Return what `AlfredThorEnv` reads of its configuration."""
    version = max(path for path in root.glob("json_*") if path.is_dir())
    folders = {"data_path": "train", "eval_id_data_path": "seen", "eval_ood_data_path": "unseen"}
    return {
        "env": {
            "task_types": [1, 2, 3, 4, 5, 6],
            "goal_desc_human_anns_prob": 0,
            "thor": {
                "screen_width": FRAME,
                "screen_height": FRAME,
                "smooth_nav": False,
                "save_frames_to_disk": False,
                "save_frames_path": "",
            },
        },
        "controller": {"type": "oracle", "debug": False, "load_receps": True},
        "general": {"training_method": "dagger"},
        "dagger": {"training": {"max_nb_steps_per_episode": NO_LIMIT}},
        "dataset": {name: str(version / FOLDERS[split]) for name, split in folders.items()}
        | {"num_train_games": -1, "num_eval_games": -1},
    }
