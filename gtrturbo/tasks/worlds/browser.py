"""A page of MiniWoB in a Chromium of its own that shows nothing on a screen.

A browser that dies, or answers nothing for too long, costs the episode that it shows: the episode is cut there, and the next one
has a new browser. The clock of the page, which ends an episode after seconds, is off unless it is asked for; nothing blinks or
moves by itself, so that the same actions give the same pictures.

Source: Liu et al., "Reinforcement Learning on Web Interfaces Using Workflow-Guided Exploration" (2018).
"""

import importlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from gtrturbo.distributed.children import take_along
from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import draw_until, is_for_panels
from gtrturbo.tasks.worlds.page import CLICK, HEIGHT, LONGEST_TEXT, TYPE, WIDTH, action_of, elements

STARTS = 3  # A browser is started so often for one episode.
MOST_DEALS = 200  # Pages that are dealt for an episode, until one is as the panels have it, or the others.
NEVER = 2**31 - 1  # Milliseconds, the most that a page can wait.
AWAY = (400, 400)  # Where the mouse rests, beside the picture.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMEDRIVER = ("chromedriver",)
BINARIES = {"MINIWOB_CHROME_BINARY": CHROMIUM, "MINIWOB_CHROMEDRIVER": CHROMEDRIVER}
# What was dealt, without what the package adds to each page and to its elements: it does not depend on fonts, as places do.
DEALT = r"""
const page = document.body.cloneNode(true);
for (const id of ["reward-display", "sync-task-cover", "click-canvas"]) page.querySelector("#" + id)?.remove();
return page.innerHTML.replace(/ data-[a-z_]+="[^"]*"/g, "");
"""
STILL = """
addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = "* { caret-color: transparent !important; animation: none !important; transition: none !important }";
  document.head.append(style);
  if (window.jQuery) jQuery.fx.off = true;
  core.EPISODE_MAX_TIME = %d;
});
"""


def require_browser(task: str) -> None:
    """Refuse a task of pages where there is no Chromium or no driver of it, and tell the package where they are.

    Raises: GtrTurboError: with the line that installs them.
    """
    for variable, names in BINARIES.items():
        found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
        if not found or not shutil.which(found):
            raise GtrTurboError(
                f"{task} needs {names[0]}, and there is no {found or names[0]}.",
                "run: apt-get install chromium chromium-driver (or name both in MINIWOB_CHROME_BINARY and MINIWOB_CHROMEDRIVER).",
            )
        os.environ[variable] = found


class PageEnv(gym.Env):
    """One page, by the id of its environment.

    Observations are pictures, [210, 160, 3] uint8; an action is a text of JSON, see `page.action_of`. The info says what the page
    asks (`utterance`), which values that names (`fields`) and what stands on it (`elements`); `crashed` where the browser did.

    Args:
        environment: such as miniwob/click-test-v1.
        seconds: after so long the page itself ends the episode as lost; 0: never.
        patience: seconds after which a browser that does not answer is ended.
        draws: take pictures; without, they are black.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, environment: str, *, seconds: int = 0, patience: float = 30.0, draws: bool = True) -> None:
        self.environment = environment
        self.seconds = seconds
        self.patience = patience
        self.draws = draws
        self.render_mode = "rgb_array"
        self.observation_space = gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.action_space = gym.spaces.Text(LONGEST_TEXT)
        self.browser: Any = None
        self._call_off: Callable[[], None] = lambda: None
        self.picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self.known: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Show the page anew, in a new browser where the last one is gone.

        Raises: GtrTurboError: no browser shows it.
        """
        said = ""
        for _ in range(STARTS):
            super().reset(seed=seed)
            try:
                with self._watched():
                    self._begin(seed)
                return self.picture, self.known
            except failures() as error:
                self._drop()
                said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise GtrTurboError(
            f"chromium does not show {self.environment}: {said.rstrip('.')}.",
            "see that it starts: chromium --headless --no-sandbox --dump-dom about:blank",
        )

    def step(self, action: str):
        """Do what an action says.

        Raises: GtrTurboError: it is none.
        """
        done = action_of(action, self.known)
        if done is None:
            raise GtrTurboError(f"{action!r} is not an action of {self.environment}.", f"such are: {CLICK}, {TYPE}.")
        try:
            with self._watched():
                return self._do(done)
        except failures():
            self._drop()
            self.known = {**self.known, "crashed": True}
            return self.picture, 0.0, False, True, self.known

    def render(self) -> np.ndarray:
        return self.picture

    def close(self) -> None:
        """End the browser."""
        browser = self.browser
        if browser is not None:
            with suppress(*failures()), self._watched():
                browser.instance.driver.quit()
        self._drop()

    def _begin(self, seed: int | None) -> None:
        if self.browser is None:
            self.browser = self._start()
        page = self.browser.instance
        page.driver.get(page.url)
        _move_away(page.driver)
        self.browser.set_record_screenshots(False)
        dealt = lambda _: page.driver.execute_script(DEALT)  # noqa: E731 - one line, used once
        # A page of a few deals is played all the same; how many it has no script can tell.
        self.known = draw_until(self._deal, dealt, for_panels=is_for_panels(seed), draws=MOST_DEALS, or_any=True)
        if self.draws:
            self.browser.set_record_screenshots(True)
            self.picture = page.get_observation(use_cached_fields=True)[0]["screenshot"]

    def _start(self) -> Any:
        require_browser(self.environment)  # Else selenium looks for one itself, in the network too.
        paid = importlib.import_module("miniwob.reward").get_raw_reward
        made = gym.make(self.environment, disable_env_checker=True, reward_processor=paid).unwrapped
        clock = self.seconds * 1000 or NEVER
        self._call_off = take_along(processes(made))
        made.instance.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": STILL % clock})  # type: ignore[attr-defined]
        return made

    def _deal(self) -> dict[str, Any]:
        observation, _ = self.browser.reset(seed=int(self.np_random.integers(NEVER)))
        return _known(observation)

    def _do(self, done: Mapping[str, Any]) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, ended, _, _ = self.browser.step(_given(self.browser, done, self.known))
        if not ended:
            self.known = _known(observation)
            self.picture = observation["screenshot"]
        return self.picture, float(reward), bool(ended), False, self.known

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """End the browser where it takes too long: whoever waits for it then learns so at once."""
        timer = threading.Timer(self.patience, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        for end in ends(self.browser):
            with suppress(OSError):
                end()

    def _drop(self) -> None:
        """Leave a browser, whatever is left of it, and the folder that it kept."""
        self._kill()
        self._call_off()
        if self.browser is not None:
            kept = Path(str(self.browser.instance.driver.capabilities.get("chrome", {}).get("userDataDir", "")))
            if kept.parent == Path(tempfile.gettempdir()) and "scoped_dir" in kept.name:
                shutil.rmtree(kept, ignore_errors=True)
        self.browser = None


def failures() -> tuple[type[Exception], ...]:
    """Return the errors of a browser that is gone, of one that does not answer, and of a page that does not load."""
    selenium, urllib3 = (importlib.import_module(name) for name in ("selenium.common.exceptions", "urllib3.exceptions"))
    return selenium.WebDriverException, urllib3.HTTPError, OSError, RuntimeError


def processes(browser: Any) -> list[int]:
    """Return the numbers of a browser's processes: itself, where it says it, and its driver."""
    driver = browser.instance.driver
    number = driver.capabilities.get("goog:processID")
    return [*([number] if number else []), driver.service.process.pid]


def ends(browser: Any) -> list[Callable[[], None]]:
    """Return what ends the processes of a browser: itself and its driver."""
    if browser is None or not hasattr(browser.instance, "driver"):
        return []
    driver = browser.instance.driver
    number = driver.capabilities.get("goog:processID")
    own = [lambda: os.kill(number, getattr(signal, "SIGKILL", signal.SIGTERM))] if number else []
    return [*own, driver.service.process.kill]


def _move_away(driver: Any) -> None:
    importlib.import_module("miniwob.selenium_actions").execute_move_coords(*AWAY, driver)


def _known(observation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "utterance": observation["utterance"],
        "fields": [[str(name), str(value)] for name, value in observation["fields"]],
        "elements": elements(observation["dom_elements"]),
    }


def _given(browser: Any, done: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return an action as the package wants it."""
    kinds = importlib.import_module("miniwob.action").ActionTypes
    if "type" in done:
        return browser.create_action(kinds.TYPE_TEXT, text=done["type"])
    if isinstance(done["click"], int):
        return browser.create_action(kinds.CLICK_ELEMENT, ref=known["elements"][done["click"] - 1]["ref"])
    return browser.create_action(kinds.CLICK_COORDS, coords=np.array(done["click"], np.float32))
