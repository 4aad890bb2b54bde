"""MiniWoB in a real Chromium: experts win, episodes are the same again, and a browser that dies or hangs costs its episode alone.

make test-miniwob installs what this needs; without it all is skipped.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import played
import pytest
from played import digest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.runs.check_task import checks
from gtrturbo.tasks.deals import held_out
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import origin
from gtrturbo.tasks.panels import panel_id
from gtrturbo.tasks.worlds.browser import DEALT, PageEnv
from gtrturbo.tasks.worlds.web_experts import EXPERTS

HERE = importlib.util.find_spec("miniwob") and shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not HERE, reason="the package miniwob or chromedriver is not installed; make test-miniwob brings both"),
    pytest.mark.timeout(1800),
]
# The whole of it only where it is asked for: it takes minutes.
EPISODES = 50 if os.environ.get("GTRTURBO_MINIWOB") == "all" else 4


def by_expert(task):
    return lambda states: [Response(task.expert_reply(each.info)) for each in states]


def play(task, agent, episodes, num_envs=1, seed=5):
    found = play_episodes(agent, task, seed=seed, episodes=range(episodes), num_envs=num_envs, on_invalid_reply="noop")
    return {episode[0].state.episode: episode for episode in found}


def written(episode):
    return [(each.turn, [image.tobytes() for image in each.state.images]) for each in episode]


@pytest.mark.parametrize("page", EXPERTS)
def test_the_expert_wins_nine_of_ten_episodes(page):
    task = load_task(f"miniwob:{page}")
    won = [episode[-1].turn.won for episode in play(task, by_expert(task), EPISODES, num_envs=2).values()]
    print(f"\n{page}: {sum(won)} of {len(won)}")
    assert len(won) == EPISODES and sum(won) >= 0.9 * EPISODES


@pytest.mark.parametrize("page", ["click-test", "enter-text"])
def test_an_element_that_has_no_number_is_clicked_by_its_pixel(page):
    task = load_task(f"miniwob:{page}", ["elements=false"])
    episodes = play(task, by_expert(task), 3)
    assert all(episode[-1].turn.won for episode in episodes.values())
    assert "On it:" not in str(episodes[0][0].state.messages) and '"click": [' in episodes[0][0].response.text


def test_a_wrong_click_loses_and_a_click_beside_does_nothing():
    with closing(PageEnv("miniwob/click-test-2-v1")) as env:
        _, known = env.reset(seed=1)
        places = {each["text"]: each["at"] for each in known["elements"]}
        before = env.picture.copy()
        assert env.step('{"click": [1, 205]}')[1:4] == (0.0, False, False)
        assert np.array_equal(env.picture[50:200], before[50:200])
        x, y = places["TWO"]
        assert env.step(f'{{"click": [{x}, {y}]}}')[1:4] == (-1.0, True, False)
        with pytest.raises(GtrTurboError, match="is not an action of miniwob/click-test-2-v1"):
            env.step('{"click": [999, 0]}')


def test_what_is_typed_stands_in_the_box_and_in_the_picture():
    with closing(PageEnv("miniwob/enter-text-v1")) as env:
        env.reset(seed=1)
        env.step('{"click": 1}')
        before = env.picture.copy()
        _, reward, ended, _, known = env.step('{"type": "Zoë 7"}')
        assert (reward, ended, known["elements"][0]["value"]) == (0.0, False, "Zoë 7")
        assert not np.array_equal(before, env.picture)


def test_the_same_episodes_in_another_process_and_with_a_browser_each():
    here = digest("miniwob:login-user", [], 1)
    assert here == digest("miniwob:login-user", [], 16)  # of eight episodes
    command = [sys.executable, played.__file__, "miniwob:login-user", "3"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == [here]


def test_the_tasks_own_checks_pass():
    found, _ = checks(load_task("miniwob:click-option"))
    assert {each.name for each in found if each.passed is False} == set()
    assert sum(each.passed is True for each in found) >= 8


def test_panels_deal_pages_that_are_never_dealt_otherwise():
    task = load_task("miniwob:click-test-2")
    with closing(task.blind()) as env:
        for seeds, held in ((task.panel("held-out")[:5], True), (range(5), False)):
            for seed in seeds:
                env.reset(seed=seed)
                dealt = env.browser.instance.driver.execute_script(DEALT)
                assert 'style="position:absolute; left:' in dealt and "data-" not in dealt
                assert held_out(dealt) is held


def test_a_panel_has_the_same_hash_again():
    first, again = (
        panel_id(replace(load_task("miniwob:click-test"), panels={"few": range(2**32, 2**32 + 5)}), "few") for _ in "ab"
    )
    assert first == again


def children(pid):
    return [int(each) for each in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()]


def by_browser(env):
    os.kill(env.browser.instance.driver.capabilities["goog:processID"], signal.SIGKILL)


def by_driver(env):
    os.kill(env.browser.instance.driver.service.process.pid, signal.SIGKILL)


def by_tab(env):
    """Kill what shows the page, and leave the browser."""
    waiting, pages = [env.browser.instance.driver.capabilities["goog:processID"]], []
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        with open(f"/proc/{pid}/cmdline") as line:
            pages += [pid] if "--type=renderer" in line.read() else []
    for pid in pages:
        os.kill(pid, signal.SIGKILL)


def test_ten_killed_browsers_cost_ten_episodes_and_nothing_else(monkeypatch):
    task = load_task("miniwob:login-user")
    undisturbed = play(task, by_expert(task), 20, num_envs=4)
    seeds = {episode[0].turn.seed: number for number, episode in undisturbed.items()}
    killed = {2 * number: (number % 5, (by_browser, by_driver, by_tab)[number % 3]) for number in range(10)}
    step, turns = PageEnv.step, Counter()

    def disturbed(env, action):
        episode = seeds[env.begun]
        turns[episode] += 1
        if episode in killed and turns[episode] == killed[episode][0] + 1:
            killed[episode][1](env)
        return step(env, action)

    reset = PageEnv.reset

    def begun(env, *, seed=None, options=None):
        env.begun = seed
        return reset(env, seed=seed, options=options)

    monkeypatch.setattr(PageEnv, "step", disturbed)
    monkeypatch.setattr(PageEnv, "reset", begun)
    found = play(task, by_expert(task), 20, num_envs=4)
    for number, episode in found.items():
        last = episode[-1].turn
        if number in killed:
            assert (len(episode), last.truncated, last.won, last.reward) == (killed[number][0] + 1, True, False, 0.0)
            assert episode[-1].after.info["crashed"] is True
            assert written(episode[:-1]) == written(undisturbed[number][: len(episode) - 1])
        else:
            assert last.won and written(episode) == written(undisturbed[number])
    assert len(found) == 20


def test_a_browser_that_hangs_is_ended_and_the_next_episode_has_another():
    with closing(PageEnv("miniwob/click-test-v1", patience=8)) as env:
        env.reset(seed=1)
        first = env.browser.instance.driver.capabilities["goog:processID"]
        os.kill(env.browser.instance.driver.service.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        _, reward, ended, cut, known = env.step('{"click": 1}')
        assert (reward, ended, cut, known["crashed"]) == (0.0, False, True, True)
        assert time.monotonic() - began < 30
        _, known = env.reset(seed=1)
        assert "crashed" not in known
        assert env.browser.instance.driver.capabilities["goog:processID"] != first
        assert env.step('{"click": 1}')[1:3] == (1.0, True)


def test_a_browser_that_dies_between_episodes_costs_none():
    with closing(PageEnv("miniwob/click-test-v1")) as env:
        _, known = env.reset(seed=1)
        by_browser(env)
        assert env.reset(seed=1)[1] == known


def test_a_browser_that_never_starts_is_one_sentence(monkeypatch, tmp_path):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    task = load_task("miniwob:click-test")
    monkeypatch.setenv("MINIWOB_CHROME_BINARY", str(broken))
    with (
        closing(task.make()) as env,
        pytest.raises(GtrTurboError, match="chromium does not show miniwob/click-test-v1: ") as error,
    ):
        env.reset(seed=0)
    assert "\n" not in error.value.what


def test_nothing_is_left_of_a_browser_that_was_closed():
    env = PageEnv("miniwob/click-test-v1")
    env.reset(seed=0)
    driver = env.browser.instance.driver
    pids = [driver.capabilities["goog:processID"], driver.service.process.pid]
    folder = driver.capabilities["chrome"]["userDataDir"]
    by_driver(env)
    env.close()
    time.sleep(1)
    assert not os.path.exists(folder)
    for pid in pids:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        assert state in ("", "Z") or state.startswith("Z")


def test_the_pages_own_clock_ends_an_episode_where_it_is_asked_for():
    with closing(PageEnv("miniwob/click-test-v1", seconds=1)) as env:
        env.reset(seed=0)
        time.sleep(1.5)
        assert env.step('{"click": [1, 205]}')[1:3] == (-1.0, True)


def test_the_manifest_names_the_packages_version():
    assert origin("miniwob:click-test", ()) == {
        "name": "miniwob/click-test-v1",
        "version": f"miniwob {importlib.metadata.version('miniwob')}",
    }


def test_the_tiny_model_plays_pages_by_rollout(tmp_path):
    begin = ["init", "--out", tmp_path / "init", "--model", "tiny", "--task", "miniwob:click-test"]
    go_on = ["rollout", "--checkpoint", tmp_path / "init", "--task", "miniwob:click-test", "--out", tmp_path / "turns"]
    for words in (begin, [*go_on, "--episodes", 3, "--num-envs", 2, "--max-new-tokens", 16, "--env", "horizon=2"]):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "turns" / "stage.json").read_text())
    assert manifest["plugins"]["task"] == origin("miniwob:click-test", ())
    turns = [json.loads(line) for line in (tmp_path / "turns" / "turns.jsonl").read_text().splitlines()]
    assert {turn["episode"] for turn in turns} == {0, 1, 2}
    assert all(turn["action"] is None and turn["executed"] == '{"click": 1}' for turn in turns)  # Random weights write no reply.


KILLED = """
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.worlds.browser import processes
import sys
env = load_task("miniwob:click-test").make()
env.reset(seed=1)
print(*processes(env.unwrapped.browser), flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_no_browser():
    owner = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    numbers = list(map(int, owner.stdout.readline().split()))
    assert len(numbers) == 2
    owner.kill()
    owner.wait()
    until = time.monotonic() + 60
    while (left := [number for number in numbers if is_there(number)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def is_there(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
