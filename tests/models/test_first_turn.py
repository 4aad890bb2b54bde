"""What a model's first turn tells: its template loses nothing, and its prompts end where an assistant's turn begins; it is played
wherever a model comes in that none of the stages made."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from more_families import mllama
from tiny_families import FAMILIES, make

from gtrturbo.config import DistillConfig, EvalConfig, MergeConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import checkpoint
from gtrturbo.models.built_in import CHAT_TEMPLATE, build_processor
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.first_turn import require_prompts
from gtrturbo.models.renderer import Renderer
from gtrturbo.stages import execute

PLAY = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 4}
PARTS = """{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}"""
TURNS = """{% for message in messages %}<|im_start|>{{ message['role'] }}
PARTS<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""".replace("PARTS", PARTS)
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEXT = "{{ part['text'] }}"
EMPTY = "<think>\n\n</think>\n\n"


def rendered_by(template: str) -> None:
    processor = build_processor()
    processor.chat_template = template
    require_prompts(Renderer(processor), "it")


@pytest.mark.parametrize(
    "change",
    [
        (TEXT, "{% if message['role'] == 'assistant' %}{{ part['text'] }}{% endif %}"),
        (
            "{{ part['text'] }}",
            "{% if message['role'] == 'user' %}{{ part['text'][:10] }}{% else %}{{ part['text'] }}{% endif %}",
        ),
        (TEXT, "{{ part['text'] | lower }}"),
    ],
    ids=["lost", "cut", "lower"],
)
def test_a_template_that_does_not_write_the_question_as_it_is_is_refused(change):
    with pytest.raises(GtrTurboError, match=r"does not write the text 'What is on the picture\?' of a user's message as it is"):
        rendered_by(TURNS.replace(*change))


def test_a_text_that_a_template_loses_beside_others_is_refused_where_it_is_asked():
    processor = build_processor()
    last = "{% if loop.last %}{{ part['text'] }}{% endif %}"
    processor.chat_template = TURNS.replace(TEXT, last)
    parts = [{"type": "text", "text": "first"}, {"type": "image"}, {"type": "text", "text": "second"}]
    with pytest.raises(GtrTurboError, match="does not write the text 'first' of a user's message"):
        Renderer(processor).prompt([{"role": "user", "content": parts}], [np.zeros((56, 56, 3), np.uint8)])


@pytest.mark.parametrize("end", ["", "{% if add_generation_prompt %}BOT:{% endif %}", HEADER.replace("assistant", "user")])
def test_a_template_whose_prompts_end_otherwise_than_an_assistants_turn_begins_is_refused(end):
    with pytest.raises(GtrTurboError, match=r"ends a prompt with .*, and writes .*assistant.* before an assistant's text"):
        rendered_by(TURNS.replace(HEADER, end))


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        TURNS.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"),
        TURNS.replace("<|im_start|>assistant\n", f"<|im_start|>assistant\n{EMPTY}"),
        TURNS.replace(
            "{{ part['text'] }}", f"{{% if message['role'] == 'assistant' %}}{EMPTY}{{% endif %}}{{{{ part['text'] }}}}"
        ),
        TURNS.replace(TEXT, "{{ part['text'] | trim }}").replace("{{ message['role'] }}\n", "{{ message['role'] }} "),
        TURNS.replace("{% for message in messages %}", "{% for message in messages if message['role'] == 'user' %}"),
    ],
    ids=["own", "opens a thought", "empty thought", "empty thought of history", "blanks", "users only"],
)
def test_templates_that_differ_by_marks_of_a_thought_or_blanks_are_taken(template):
    rendered_by(template)


@pytest.mark.parametrize(("pictures", "told"), [("", 0), ("<|image_pad|><|image_pad|>", 2)])
def test_a_template_that_writes_another_number_of_pictures_is_named_as_what_is_to_be_mended(pictures, told):
    with pytest.raises(GtrTurboError, match="cannot render a prompt") as error:
        rendered_by(TURNS.replace("<|image_pad|>", pictures))
    assert error.value.fix == f"its chat template writes {told} marks for 1 pictures: --chat-template FILE."


@pytest.fixture(scope="module")
def dated(warm, tmp_path_factory):
    """A model from elsewhere whose template writes the date."""
    folder = shutil.copytree(warm, tmp_path_factory.mktemp("dated") / "dated")
    (folder / "stage.json").unlink()
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE)
    return folder


def test_a_model_that_no_stage_made_is_tested_by_every_stage_that_loads_it(dated, turns, expert, tmp_path):
    out = tmp_path / "out"
    for asked in (
        RolloutConfig(out=out, checkpoint=dated, **PLAY),
        RolloutConfig(out=out, checkpoint=dated, engine="vllm:http://127.0.0.1:9", probe=False, **PLAY),
        EvalConfig(out=out, checkpoint=dated, chance_episodes=0, **PLAY),
        DistillConfig(out=out, teacher=dated, rollouts=turns),
        DistillConfig(out=out, teacher=dated, rollouts=turns, mode="thoughts"),
        SftConfig(out=out, checkpoint=dated, data=(expert,), steps=1),
    ):
        with pytest.raises(GtrTurboError, match=r"writes the date \(strftime_now\)"):
            execute(asked)


def test_a_merge_of_what_no_stage_made_is_shown_to_its_template(dated, tmp_path):
    merged = execute(MergeConfig(out=tmp_path / "merged", base=dated, checkpoints=())).out
    with pytest.raises(GtrTurboError, match=r"writes the date \(strftime_now\)"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=merged, **PLAY))


def test_a_family_that_plays_no_turn_is_refused_by_a_rollout_as_by_init(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "mllama", mllama)
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=make("mllama", tmp_path / "model"), **PLAY)
    for asked in (play, replace(play, engine="vllm:http://127.0.0.1:9", probe=False)):
        with pytest.raises(GtrTurboError, match="gives cross_attention_mask for each token"):
            execute(asked)


def test_what_a_stage_made_plays_no_first_turn(warm, monkeypatch):
    monkeypatch.setattr(checkpoint, "require_turn", None)
    monkeypatch.setattr(checkpoint, "require_prompts", None)
    load_policy(warm, device="cpu")
