"""Families × stages: a tiny random model of each goes through every stage, or is refused by init with a sentence."""

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, make

from gtrturbo.config import DistillConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.first_turn import require_rendering
from gtrturbo.models.inputs import to_device
from gtrturbo.models.shape import read_shape
from gtrturbo.play.recording import read_transcript
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param) / "model")


def plain_logprobs(policy, prompt, ids, temperature: float) -> np.ndarray:
    """One forward pass of transformers over prompt and reply, without a cache and without anything of ours but the prompt."""
    batch = dict(prompt.tensors)
    tail = torch.from_numpy(np.asarray(ids[:-1], np.int64))[None]
    count = batch["input_ids"].shape[1]
    for name in prompt.per_token:
        if name in batch:
            more = tail if name == "input_ids" else torch.ones_like(tail) if name == "attention_mask" else torch.zeros_like(tail)
            batch[name] = torch.cat([batch[name], more], dim=1)
    with torch.no_grad():
        logits = policy.model(**to_device(policy.model, batch)).logits[0, count - 1 :].double()
    logits[:, policy.forbidden] = -torch.inf
    return (logits / temperature).log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(np.asarray(ids, np.int64))].numpy()


def test_a_family_goes_through_all_stages(family, tmp_path):
    first = execute(InitConfig(out=tmp_path / "init", model=str(family))).out
    data = execute(RolloutConfig(out=tmp_path / "expert", expert=True, episodes=8, **TASK)).out
    zero = execute(SftConfig(out=tmp_path / "0", checkpoint=first, data=(data,), steps=100, learning_rate=1e-2, batch_size=8)).out
    turns = execute(
        RolloutConfig(out=tmp_path / "t", checkpoint=zero, episodes=2, max_new_tokens=40, temperature=0.4, **TASK)
    ).out
    policy = load_policy(zero, device="cpu")
    require_rendering(policy.renderer, "it", np.zeros((56, 56, 3), np.uint8))
    transcript = read_transcript(turns, policy.renderer)
    for prompt, ids, sampled in zip(
        transcript.prompts, transcript.tokens.response_ids, transcript.tokens.sample_logprobs, strict=True
    ):
        assert sampled == pytest.approx(plain_logprobs(policy, prompt, ids, 0.4), abs=1e-5)
    end = policy.processor.tokenizer.convert_tokens_to_ids("<end>")
    assert policy.renderer.end_id == end and set(policy.end_ids) == {end, policy.processor.tokenizer.eos_token_id}
    teacher = execute(MergeConfig(out=tmp_path / "m", base=first, checkpoints=(zero,))).out
    scores = execute(DistillConfig(out=tmp_path / "s", teacher=teacher, rollouts=turns)).out
    update = PpoStepConfig(
        out=tmp_path / "1", checkpoint=zero, rollouts=turns, scores=scores, epochs=1, minibatch_size=8, learning_rate=1e-4
    )
    assert read_manifest(execute(update).out).metrics["first_ratio_error"] < 1e-5


def test_a_model_without_a_chat_template_is_refused_where_it_comes_in(tmp_path):
    folder = make("untaught", tmp_path / "model")
    with pytest.raises(GtrTurboError, match=r"has no chat template, .*\n.*chat_template\.jinja"):
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
    assert shape.tokens_of_image(height, breadth) == int((ids == token).sum()) > 0
