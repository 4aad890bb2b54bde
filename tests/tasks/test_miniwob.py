"""MiniWoB without a browser: what stands on a page, what can be done there, replies, experts, and what is refused."""

import json

import numpy as np
import pytest

from gtrturbo.config.games import invalid_reply_cost
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.by_hand import _meant
from gtrturbo.play.episodes import State
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ask
from gtrturbo.tasks.worlds.browser import require_browser
from gtrturbo.tasks.worlds.miniwob import read_reply_of_page
from gtrturbo.tasks.worlds.page import action_of, action_text, actions, elements, in_words
from gtrturbo.tasks.worlds.web_experts import EXPERTS


def node(ref, tag, text="", *, parent=1, at=(20, 100, 40, 20), value="", id="", classes="", focused=False, leaf=True):
    """An element as the package tells of it; at: left, top, width, height."""
    sides = {name: np.array([value], np.float32) for name, value in zip(("left", "top", "width", "height"), at, strict=True)}
    flags = np.array([focused, False, False, leaf], np.int8)
    return {
        "ref": ref,
        "parent": parent,
        "tag": tag,
        "text": text,
        "value": value,
        "id": id,
        "classes": classes,
        "flags": flags,
    } | sides


def page(*nodes, utterance="", **fields):
    return {"utterance": utterance, "fields": [list(each) for each in fields.items()], "elements": elements(nodes)}


def test_elements_are_the_leaves_that_are_seen_and_buttons_as_one():
    found = elements(
        [
            node(1, "body", parent=0, at=(0, 0, 780, 210), leaf=False),
            node(2, "button", "", classes="close", leaf=False),
            node(3, "span", "icon", parent=2),
            node(4, "b", "deep", parent=3),
            node(5, "label", leaf=False),
            node(6, "input_checkbox", parent=5, value="True"),
            node(-1, "t", " apple ", parent=5),
            node(7, "p", "beside the picture", at=(150, 100, 40, 20)),
            node(8, "div", at=(0, 60, 100, 2)),
            node(9, "p", "seen", at=(10, 60, 101, 11)),
        ]
    )
    assert [(each["ref"], each["text"]) for each in found] == [(2, ""), (6, "apple"), (9, "seen")]
    assert found[2]["at"] == [60, 65]  # 10 + 101 / 2 and 60 + 11 / 2, whole pixels


@pytest.mark.parametrize(
    "text",
    ['{"click": [0, 0]}', '{"click": [159, 209]}', '{"click": 1}', '{"click": 2}', '{"type": "Ann o\'B"}', '{"click":[5,6]}'],
)
def test_clicks_in_the_picture_and_typing_are_actions(text):
    assert action_of(text, page(node(2, "p"), node(3, "p"))) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"click": [160, 0]}', '{"click": [0, 210]}', '{"click": [-1, 5]}', '{"click": [1.5, 5]}', '{"click": [1]}',
        '{"click": [true, 1]}', '{"click": 0}', '{"click": 3}', '{"click": true}', '{"click": "1"}', '{"type": ""}',
        '{"type": "a\\nb"}', '{"type": "\\ue007"}', '{"type": 3}', '{"press": "a"}', '{"click": 1, "type": "a"}', "{}", "[1]",
        "click 1", "[" * 99_999, '{"type": "' + "a" * 400 + '"}',
    ],
)  # fmt: skip
def test_what_is_no_action(text):
    assert action_of(text, page(node(2, "p"), node(3, "p"))) is None


def test_without_numbers_an_element_is_clicked_at_its_middle():
    known = page(node(2, "p", at=(10, 60, 100, 10)), target="Ann")
    assert actions(known) == ('{"click": 1}', '{"type": "Ann"}')
    assert actions(known, listed=False) == ('{"click": [60, 65]}', '{"type": "Ann"}')
    assert action_of('{"click": 1}', known, listed=False) is None
    assert actions(page()) == ('{"click": [80, 105]}',)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"thoughts": "a", "action": {"click": [80,60]}}', '{"click": [80, 60]}'),
        ('```json\n{"thoughts": "a", "action": {"type":  "é}"}}\n```', '{"type": "é}"}'),
    ],
)
def test_a_reply_is_read_with_the_places_of_its_action(text, action):
    reply = read_reply_of_page(text, {})
    assert reply is not None and reply.action == action == action_text(json.loads(text[slice(*reply.action_span)]))
    assert text[reply.action_start :].startswith('"action"')


@pytest.mark.parametrize(
    "text",
    [
        '{"thoughts": "a", "action": "click"}', '{"thoughts": "a", "action": 3}', '{"action": {"click": 1}}',
        '{"action": {"click": 1}, "thoughts": "a"}', '{"thoughts": "a", "action": {"click": 1, "click": 2}}',
        '{"thoughts": 1, "action": {"click": 1}}',
    ],
)  # fmt: skip
def test_what_is_no_reply(text):
    assert read_reply_of_page(text, {}) is None


def open_task():
    return Task(
        name="open",
        make=lambda: None,
        prompt=lambda view: ask(""),
        actions=('{"click": 1}',),
        accepts=lambda text, info: action_of(text, page()) is not None,
        act=lambda action, info: action,
        parse=read_reply_of_page,
        random_expert=lambda info, rng: '{"thoughts": "", "action": {"click": 1}}',
    )


def test_a_task_may_accept_more_actions_than_it_lists():
    task = open_task()
    said = '{"thoughts": "", "action": {"type": "Ann"}}'
    assert task.read(said, {}).action == '{"type": "Ann"}'
    assert task.read('{"thoughts": "", "action": {"click": [999, 0]}}', {}) is None
    assert _meant(task, State(0, 0, [], [], {}), '{"type": "Ann"}') == said


@pytest.mark.parametrize(
    ("name", "known", "action"),
    [
        ("click-test", page(node(2, "p", "no"), node(3, "button", "Go")), {"click": 2}),
        ("click-button", page(node(2, "button", "Ok"), node(3, "p", "ok"), node(4, "button", "ok"), target="ok"), {"click": 3}),
        ("click-link", page(node(2, "span", "a"), node(3, "span", "a", classes="alink"), target="a"), {"click": 2}),
        ("click-tab", page(node(2, "a", "Tab #1"), node(3, "a", "Tab #2"), target="2"), {"click": 2}),
        ("click-dialog", page(node(2, "p"), node(3, "button", classes="ui-close")), {"click": 2}),
        ("focus-text-2", page(node(2, "input_text"), node(3, "p"), node(4, "input_text"), target="2"), {"click": 3}),
        ("enter-text", page(node(3, "input_text", id="tt"), node(4, "button", "Submit"), target="Ann"), {"click": 1}),
        ("enter-text", page(node(3, "input_text", id="tt", focused=True), target="Ann"), {"type": "Ann"}),
        ("enter-text", page(node(3, "input_text", id="tt", value="A", focused=True), target="Ann"), {"type": "nn"}),
        (
            "enter-text",
            page(node(3, "input_text", id="tt", value="Ann"), node(4, "button", "Submit"), target="Ann"),
            {"click": 2},
        ),
        (
            "enter-text",
            page(node(3, "input_text", id="tt", value="Bob"), node(4, "button", "Submit"), target="Ann"),
            {"click": 2},
        ),
        ("click-button-sequence", page(node(2, "button", "TWO"), node(3, "button", "ONE", focused=True)), {"click": 1}),
        (
            "login-user",
            page(
                node(3, "input_text", id="username", value="ann"),
                node(4, "input_password", id="password", focused=True),
                username="ann",
                password="x9",
            ),
            {"type": "x9"},
        ),
        (
            "click-checkboxes",
            page(node(3, "input_checkbox", parent=2), node(-1, "t", "a", parent=2), node(5, "button", "Submit"), button="submit"),
            {"click": 2},
        ),
        (
            "click-checkboxes",
            page(node(3, "input_checkbox", parent=2, value="True"), node(-1, "t", "a", parent=2), node(5, "button", "Submit")),
            {"click": 1},
        ),
        ("click-option", page(node(3, "input_radio", parent=2), node(-1, "t", "a", parent=2), target="a"), {"click": 1}),
    ],
)
def test_the_expert_does_the_next_step(name, known, action):
    assert EXPERTS[name](known)[1] == action
    assert action_text(action) in actions(known) or "type" in action


def test_elements_in_words():
    known = page(
        node(2, "button", 'say "hi"'), node(3, "input_text", value="Ann", focused=True), node(5, "input_checkbox", value="True")
    )
    assert in_words(known) == '1 button "say \\"hi\\""; 2 input text holding "Ann" with the focus; 3 input checkbox chosen'


def test_without_the_package_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GtrTurboError, match="miniwob:click-test needs the package miniwob, which is not installed") as error:
        load_task("miniwob:click-test")
    assert error.value.fix == "run: pip install 'gtrturbo[miniwob]'"


@pytest.mark.parametrize(("variable", "what"), [("MINIWOB_CHROME_BINARY", "chromium"), ("MINIWOB_CHROMEDRIVER", "chromedriver")])
def test_without_a_browser_it_is_said_which_part_is_missing(monkeypatch, tmp_path, variable, what):
    for each, name in (("MINIWOB_CHROME_BINARY", "chromium"), ("MINIWOB_CHROMEDRIVER", "chromedriver")):
        file = tmp_path / name
        file.write_text("")
        file.chmod(0o755)
        monkeypatch.setenv(each, str(file))
    require_browser("miniwob:click-test")
    monkeypatch.setenv(variable, "/nowhere/it")
    with pytest.raises(GtrTurboError, match=f"miniwob:click-test needs {what}, and there is no /nowhere/it") as error:
        require_browser("miniwob:click-test")
    assert "chromium-driver" in error.value.fix
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GtrTurboError, match=f"needs {what}, and there is no {what}"):
        require_browser("miniwob:click-test")


def test_an_unreadable_reply_costs_what_the_best_turn_pays_more_than_the_worst():
    assert invalid_reply_cost("miniwob:click-test") == 1 - -1
