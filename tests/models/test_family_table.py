"""Families × stages: a tiny random model of each goes through every stage, or is refused by init with a sentence."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from family_stages import GAP, STAGES, WORKS, row_of, through_all_stages
from more_families import MORE, TEMPLATES
from PIL import Image
from tiny_families import FAMILIES, make

from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import families
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.families import Family
from gtrturbo.models.first_turn import require_rendering
from gtrturbo.models.renderer import Renderer, collate
from gtrturbo.models.shape import read_shape
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param) / "model")


def test_a_family_goes_through_all_stages(family, tmp_path):
    found = dict(through_all_stages(family, tmp_path, None))
    assert found.pop(GAP) < 1e-5 and found == dict.fromkeys(STAGES, WORKS)
    policy = load_policy(tmp_path / "0", device="cpu")
    require_rendering(policy.renderer, "it", np.zeros((56, 56, 3), np.uint8))
    end = policy.processor.tokenizer.convert_tokens_to_ids("<end>")
    assert policy.renderer.end_id == end and set(policy.end_ids) == {end, policy.processor.tokenizer.eos_token_id}


@pytest.mark.parametrize("name", MORE)
def test_more_families_go_through_all_stages_or_are_refused_where_they_come_in(name, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, name, MORE[name])
    if os.environ.get("GTRTURBO_FAMILIES") == "all":  # make test-families
        row = row_of(name, tmp_path)
        assert name == "mllama" or (row.pop(GAP) < 1e-5 and row == dict.fromkeys(STAGES, WORKS))
        return
    template = tmp_path / "turns.jinja"
    template.write_text(TEMPLATES.get(name, ""))
    config = InitConfig(out=tmp_path / "init", model=str(make(name, tmp_path / "model")))
    config = replace(config, chat_template=template if name in TEMPLATES else None)
    if name == "mllama":
        with pytest.raises(GtrTurboError, match="gives cross_attention_mask for each token"):
            execute(config)
    else:
        execute(config)


def test_a_template_of_ones_own_is_kept_and_named_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "paligemma", MORE["paligemma"])
    model, template = make("paligemma", tmp_path / "model"), tmp_path / "turns.jinja"
    config = InitConfig(out=tmp_path / "init", model=str(model), chat_template=template)
    with pytest.raises(GtrTurboError, match=r"there is no file .*turns\.jinja"):
        execute(config)
    template.write_text(TEMPLATES["paligemma"])
    manifest = read_manifest(execute(config).out)
    assert (config.out / "chat_template.jinja").read_text() == TEMPLATES["paligemma"]
    assert manifest.plugins["chat_template"]["name"] == "turns.jinja" and "chat_template" not in manifest.config
    policy = load_policy(config.out, device="cpu")
    assert policy.renderer.end_id == policy.processor.tokenizer.eos_token_id
    template.write_bytes(b"\xff")
    with pytest.raises(GtrTurboError, match="is no text in UTF-8"):
        execute(replace(config, out=tmp_path / "other"))


def test_a_model_that_samples_otherwise_than_it_scores_is_refused(tmp_path, monkeypatch):
    def attentive(folder):
        model, processor = MORE["paligemma"](folder)
        for name, value in model.named_parameters():  # Born as it is, what it attends to hardly changes what it says.
            value.data *= 10 if "proj" in name or "embed_tokens" in name else 1
        return model, processor

    monkeypatch.setitem(FAMILIES, "paligemma", attentive)
    model, template = make("paligemma", tmp_path / "model"), tmp_path / "turns.jinja"
    template.write_text(TEMPLATES["paligemma"])
    execute(InitConfig(out=tmp_path / "right", model=str(model), chat_template=template))
    monkeypatch.setitem(families.FAMILIES, "paligemma", Family())  # Its replies would be read in both directions.
    with pytest.raises(GtrTurboError, match=r"where it samples and .* where it scores"):
        execute(InitConfig(out=tmp_path / "init", model=str(model), chat_template=template))


def test_a_model_without_a_chat_template_is_refused_where_it_comes_in(tmp_path):
    folder = make("untaught", tmp_path / "model")
    with pytest.raises(GtrTurboError, match=r"has no chat template, .*\n.*--chat-template FILE"):
        execute(InitConfig(out=tmp_path / "init", model=str(folder)))
    assert not (tmp_path / "init").exists()


def test_a_model_that_is_rendered_otherwise_than_by_transformers_is_refused(tmp_path, monkeypatch):
    from gtrturbo.models.renderer import Renderer

    folder = make("gemma3", tmp_path / "model")
    monkeypatch.setattr(Renderer, "_own_start", lambda self, text: {})
    with pytest.raises(GtrTurboError, match=r"is rendered to \d+ tokens that differ from transformers' \d+, from token 1 on"):
        execute(InitConfig(out=tmp_path / "init", model=str(folder)))


def test_several_pictures_of_a_prompt_are_rendered_as_transformers_does(family):
    policy = load_policy(family, device="cpu")
    pictures = [np.full((56, 56, 3), shade, np.uint8) for shade in (0, 99)]
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    messages = [{"role": "user", "content": content}]
    own = policy.renderer.prompt(messages, pictures)
    assert own.ids.tolist() == np.array(policy.renderer.of_transformers(messages, pictures)).flatten().tolist()
    with torch.no_grad():
        seen = policy.score([own], [np.array([policy.renderer.end_id])], temperature=1.0).logprobs
        swapped = policy.renderer.prompt(messages, pictures[::-1])
        other = policy.score([swapped], [np.array([policy.renderer.end_id])], temperature=1.0).logprobs
    assert torch.isfinite(seen).all() and not torch.equal(seen, other)


def test_a_prompt_that_is_longer_than_the_context_is_refused_with_both_numbers(family):
    policy = load_policy(family, device="cpu")
    policy.model.config.get_text_config().max_position_embeddings = 20
    prompt = policy.renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1 " * 40}]}], [])
    with pytest.raises(GtrTurboError, match=rf"a prompt has {len(prompt.ids)} tokens, and .* reads 20 at most"):
        policy.generate([prompt], None, temperature=1.0, max_new_tokens=1)


@pytest.mark.parametrize(("height", "breadth"), [(28, 28), (56, 84)])
def test_what_a_run_will_take_counts_a_picture_as_the_processor_does(family, height, breadth):
    shape = read_shape(str(family))
    assert shape is not None and shape.parameters > 0 and shape.vision > 0
    policy = load_policy(family, device="cpu")
    renderer = policy.renderer
    picture = np.zeros((height, breadth, 3), np.uint8)
    content = [{"type": "image"}]
    ids = np.array(renderer.of_transformers([{"role": "user", "content": content}], [picture])).flatten()
    token = policy.model.config.image_token_id
    assert shape.tokens_of_images([(height, breadth)]) == int((ids == token).sum()) > 0


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3", *sorted(set(MORE) - {"mllama"})])
@pytest.mark.parametrize(
    "shown",
    [
        [pictures((28, 28)), pictures((28, 84)), pictures((90, 40))],
        [pictures((28, 28)), pictures((28, 28), (28, 84)), pictures((90, 40), (28, 28), (56, 56))],
    ],
    ids=["sizes", "numbers"],
)
def test_pictures_of_different_size_and_number_share_a_batch_as_the_processor_itself_puts_them(name, shown, tmp_path):
    model, processor = (FAMILIES | MORE)[name](tmp_path)
    processor.chat_template = TEMPLATES.get(name, processor.chat_template)
    processor.tokenizer.padding_side = "left"
    renderer = Renderer(processor, families.family_of(model.config.model_type))
    text = {"type": "text", "text": "What is it?"}
    asked = [[{"role": "user", "content": [*[{"type": "image"}] * len(each), text]}] for each in shown]
    prompts = [renderer.prompt(messages, each) for messages, each in zip(asked, shown, strict=True)]
    own = collate(prompts, pad_id=processor.tokenizer.pad_token_id)
    texts = [processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) for messages in asked]
    images = [[Image.fromarray(picture) for picture in each] for each in shown]
    begins = {"add_special_tokens": False} if texts[0].startswith(processor.tokenizer.bos_token or "<none>") else {}
    theirs = processor(text=texts, images=images, return_tensors="pt", padding=True, **begins)
    assert own.keys() == theirs.keys() - {"labels"}
    for tensor, value in own.items():
        assert torch.equal(value, theirs[tensor]), tensor


def test_a_template_that_writes_the_date_is_refused(tmp_path):
    folder = tmp_path / "model"
    make("gemma3", folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}" + template)
    with pytest.raises(GtrTurboError, match=r"writes the date \(strftime_now\), .*\n.*--chat-template FILE"):
        execute(InitConfig(out=tmp_path / "c", model=str(folder)))
