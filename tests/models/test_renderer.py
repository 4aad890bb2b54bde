"""The renderer: prompts, batches, and which characters belong to which token."""

import itertools
import re

import numpy as np
import pytest
import torch
from games import prompt_text

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.built_in import build_processor
from gtrturbo.models.renderer import Renderer, append_responses, collate
from gtrturbo.store.records import chat
from gtrturbo.tasks.loading import load_task


@pytest.fixture(scope="module")
def renderer():
    return Renderer(build_processor())


@pytest.fixture(scope="module")
def prompts(renderer):
    """Four prompts of different lengths, with pictures of different sizes."""
    rendered = []
    for name, size in (("numberline", "tiny"), ("points24", "full"), ("blackjack", "tiny"), ("numberline", "full")):
        task = load_task(name, [f"image={size}"])
        picture, info = task.make().reset(seed=3)
        rendered.append(renderer.prompt(chat(prompt_text(task, info)), [picture]))
    return rendered


def length(prompt) -> int:
    return prompt.tensors["input_ids"].shape[1]


def test_a_prompt_is_rendered_once_and_then_the_same_tensors_come_back(renderer):
    picture = np.zeros((56, 56, 3), np.uint8)
    first = renderer.prompt(chat("a"), [picture])
    assert renderer.prompt(chat("a"), [picture.copy()]) is first


@pytest.mark.parametrize("text, shade", [("b", 0), ("a", 255)], ids=["other text", "other picture"])
def test_another_text_or_picture_is_another_prompt(renderer, text, shade):
    first = renderer.prompt(chat("a"), [np.zeros((56, 56, 3), np.uint8)])
    other = renderer.prompt(chat(text), [np.full((56, 56, 3), shade, np.uint8)])
    same = [torch.equal(first.tensors[name], other.tensors[name]) for name in ("input_ids", "pixel_values")]
    assert same == [text == "a", shade == 0]


def test_a_prompt_ends_where_the_assistants_reply_begins(renderer, prompts):
    text = renderer.processor.tokenizer.decode(prompts[0].ids)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_prompt_has_one_placeholder_for_each_merged_patch_of_its_picture(renderer, prompts):
    for prompt in prompts:
        # The grid counts patches in time, height and width; the model merges 2 x 2 of them into one token.
        time, height, width = prompt.tensors["image_grid_thw"][0].tolist()
        assert (prompt.ids == renderer.processor.image_token_id).sum() == time * height * width // 4
        assert prompt.tensors["pixel_values"].shape[0] == time * height * width


def test_prompts_are_padded_on_the_left_and_end_together(prompts):
    batch = collate(prompts, pad_id=565)
    longest = max(map(length, prompts))
    assert len({length(prompt) for prompt in prompts}) == 4
    for row, prompt in enumerate(prompts):
        pad = longest - length(prompt)
        assert batch["input_ids"][row, :pad].tolist() == [565] * pad
        assert batch["attention_mask"][row].tolist() == [0] * pad + [1] * length(prompt)


def test_a_row_of_a_batch_holds_what_its_prompt_holds_alone(prompts):
    batch = collate(prompts, pad_id=565)
    for row, prompt in enumerate(prompts):
        for name in ("input_ids", "mm_token_type_ids"):
            assert torch.equal(batch[name][row, -length(prompt) :], prompt.tensors[name][0])
    assert torch.equal(batch["pixel_values"], torch.cat([prompt.tensors["pixel_values"] for prompt in prompts]))
    assert torch.equal(batch["image_grid_thw"], torch.cat([prompt.tensors["image_grid_thw"] for prompt in prompts]))


def test_replies_follow_their_prompts_and_are_padded_on_the_right(prompts):
    replies = [np.array([7, 8, 9]), np.array([5])]
    batch, mask = append_responses(collate(prompts[:2], pad_id=565), replies, pad_id=565)
    assert batch["input_ids"][:, -3:].tolist() == [[7, 8, 9], [5, 565, 565]]
    assert batch["attention_mask"][:, -3:].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["mm_token_type_ids"][:, -3:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def pieces(text: str, offsets) -> list[str]:
    return [text[start:end] for start, end in offsets]


REPLIES = [
    '{"thoughts": "3 is smaller than 5 so go up", "action": "+"}',
    '{"thoughts": "größer, 上へ, 😀!", "action": "-"}',
    " spaces  and\n\nlines , before . punctuation ",
    "",
]


@pytest.mark.parametrize("text", REPLIES)
def test_the_offsets_of_decoded_tokens_cover_the_text_without_gap_or_overlap(renderer, text):
    ids, _ = renderer.response_ids(text)
    decoded, offsets = renderer.decode(ids)
    assert decoded == text
    assert len(offsets) == len(ids) and offsets[0][0] == 0 and offsets[-1][1] == len(text)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(offsets))
    assert "".join(pieces(decoded, offsets)) == text


def test_a_character_split_over_tokens_belongs_to_the_token_that_completes_it(renderer):
    # The euro sign is three bytes in UTF-8, and the tiny tokenizer knows no merge of them.
    ids, _ = renderer.response_ids("a€b")
    decoded, offsets = renderer.decode(ids)
    assert decoded == "a€b"
    assert pieces(decoded, offsets) == ["a", "", "", "€", "b", ""]


def test_half_a_character_at_the_end_still_belongs_to_some_token(renderer):
    ids, _ = renderer.response_ids("a€")
    decoded, offsets = renderer.decode(ids[:2])  # a and the first of three bytes
    assert decoded == "a\ufffd"
    assert offsets[0] == (0, 1) and offsets[-1] == (1, 2)


def test_the_end_of_turn_is_the_last_token_and_stands_after_the_last_character(renderer):
    ids, offsets = renderer.response_ids(REPLIES[0])
    assert ids[-1] == renderer.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert offsets[-1] == (len(REPLIES[0]), len(REPLIES[0]))
    assert renderer.decode(ids)[1][-1] == offsets[-1]


@pytest.mark.parametrize("text", REPLIES[:1])
def test_offsets_of_a_tokenised_text_and_of_its_decoded_tokens_are_the_same(renderer, text):
    ids, offsets = renderer.response_ids(text)
    assert renderer.decode(ids)[1] == offsets


def test_a_saved_picture_comes_back_pixel_by_pixel(tmp_path):
    from gtrturbo.store.pictures import load_picture
    from gtrturbo.store.saved_pictures import save_image

    picture = np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8)
    assert np.array_equal(load_picture(tmp_path, save_image(tmp_path, picture)), picture)


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_the_text_of_a_mark_is_text_in_a_reply_and_refused_in_a_prompt(renderer, mark):
    reply = f"go {mark} on"
    ids, offsets = renderer.response_ids(reply)
    special = set(renderer.processor.tokenizer.all_special_ids)
    assert [each in special for each in ids] == [False] * (len(ids) - 1) + [True]
    assert renderer.processor.tokenizer.decode(ids[:-1], skip_special_tokens=False) == reply
    assert renderer.decode(ids) == (reply, offsets)
    with pytest.raises(GtrTurboError, match=rf"a prompt holds the text '{re.escape(mark)}'.*\nlet the task write it otherwise"):
        renderer.prompt(chat(f"the page says {mark}"), [np.zeros((56, 56, 3), np.uint8)])
