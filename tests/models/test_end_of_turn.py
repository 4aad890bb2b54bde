"""Which tokens end a turn: what the template writes after a reply, and all that the model's makers name."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.built_in import build
from gtrturbo.models.end_of_turn import end_ids, template_end
from gtrturbo.models.families import family_of
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import load_processor
from gtrturbo.models.renderer import Renderer

TURNS = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{end}{% endfor %}"""


@pytest.fixture
def made():
    return build("tiny", seed=0)


def token(processor, name: str) -> int:
    return processor.tokenizer.convert_tokens_to_ids(name)


@pytest.mark.parametrize("end", ["<|vision_pad|>", " <|vision_pad|>\n", "\n<|vision_pad|><|im_end|>"])
def test_a_turn_ends_with_what_the_template_writes_after_a_reply(made, end):
    _, processor = made
    processor.chat_template = TURNS.replace("{end}", end)
    assert template_end(processor) == token(processor, "<|vision_pad|>") != processor.tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template", [None, TURNS.replace("{end}", "\n"), "{{ raise_exception('no turns of assistants') }}", "{{ messages + 1 }}"]
)
def test_a_template_that_writes_no_end_leaves_the_tokenizers_own(made, template):
    _, processor = made
    processor.chat_template = template
    assert template_end(processor) == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("change", ["upper", "reverse", "title"])
def test_a_template_that_writes_replies_otherwise_is_refused(made, change):
    _, processor = made
    processor.chat_template = TURNS.replace("part['text']", f"part['text'] | {change}").replace("{end}", "<|im_end|>")
    with pytest.raises(GtrTurboError, match=r"does not write an assistant's text as it is: .*\n.*--chat-template FILE"):
        template_end(processor)


def test_a_template_without_turns_of_an_assistant_leaves_the_tokenizers_own(made):
    _, processor = made
    users = "{% for message in messages if message['role'] == 'user' %}"
    processor.chat_template = TURNS.replace("{% for message in messages %}", users).replace("{end}", "<|vision_pad|>")
    assert template_end(processor) == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("named", ["567", [[567]], True, [3, True], 567.0, {"a": 1}, -1, [3, 10**9], 580])
def test_an_end_that_is_no_id_is_refused_by_file_and_key(made, named):
    _, processor = made
    with pytest.raises(GtrTurboError, match=r"generation_config.json of .* as eos_token_id, which is no id of a token"):
        end_ids(5, processor.tokenizer, SimpleNamespace(eos_token_id=named))


@pytest.mark.parametrize(("named", "ends"), [(None, (3, 5)), (1, (1, 3, 5)), ([7, 1, 5], (1, 3, 5, 7))])
def test_all_that_the_generation_config_names_end_a_turn(named, ends):
    class Tokenizer:
        eos_token_id = 3

        def __len__(self):
            return 100

    assert end_ids(5, Tokenizer(), SimpleNamespace(eos_token_id=named)) == ends
    assert end_ids(5, Tokenizer(), None) == (3, 5)


def test_a_reply_ends_at_each_of_them_and_a_written_reply_with_the_templates(made):
    model, processor = made
    first, second = token(processor, "<|im_end|>"), token(processor, "<|endoftext|>")
    model.generation_config.eos_token_id = [first, second]
    policy = Policy(model, processor)
    assert policy.end_ids == tuple(sorted((first, second)))
    prompt = policy.renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1"}]}], [])
    uniforms = np.random.default_rng(0).random((64, 128))
    samples = policy.generate([prompt] * 64, uniforms, temperature=20.0, max_new_tokens=128)  # Close to uniform.
    ends = {int(sample.response_ids[-1]) for sample in samples if len(sample.response_ids) < 128}
    assert ends == {first, second}
    for sample in samples:
        assert not np.isin(sample.response_ids[:-1], policy.end_ids).any()
    assert policy.renderer.response_ids("x")[0][-1] == first


@pytest.fixture
def plain_marks(tmp_path):
    """A processor whose marks of turns are added tokens that its tokenizer does not call special."""
    _, processor = build("tiny", seed=0)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    for added in stored["added_tokens"]:
        added["special"] &= added["content"] not in ("<|im_start|>", "<|im_end|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"extra_special_tokens": {}}))
    return load_processor(tmp_path, family=family_of("qwen2_5_vl"))


def test_an_end_that_the_tokenizer_does_not_call_special_is_one_and_no_text_of_the_reply(plain_marks):
    end = token(plain_marks, "<|im_end|>")
    assert not plain_marks.tokenizer.added_tokens_decoder[end].special and plain_marks.tokenizer.eos_token_id != end
    assert template_end(plain_marks) == end
    renderer = Renderer(plain_marks)
    ids, offsets = renderer.response_ids("1 + 1")
    assert ids[-1] == end
    text, spans = renderer.decode(ids)
    assert text == "1 + 1" and spans == offsets
    with pytest.raises(GtrTurboError, match=r"a prompt holds the text '<\|im_end\|>'"):
        renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1<|im_end|>"}]}], [])
    with pytest.raises(GtrTurboError, match=r"a written reply holds the text '<\|im_end\|>', at which the model ends"):
        renderer.response_ids("1<|im_end|>")


def test_an_end_that_only_the_generation_config_names_is_no_text_of_the_reply(made, plain_marks):
    model, _ = made
    plain_marks.chat_template = TURNS.replace("{end}", "\n")
    model.generation_config.eos_token_id = end = token(plain_marks, "<|im_end|>")
    policy = Policy(model, plain_marks)
    assert policy.renderer.end_id != end in policy.end_ids
    ids = policy.renderer.response_ids("1 + 1")[0][:-1]
    assert policy.renderer.decode([*ids, end])[0] == "1 + 1"


def test_blanks_that_were_added_as_tokens_end_no_turn(made):
    _, processor = made
    processor.tokenizer.add_tokens(["\n\n"])
    processor.chat_template = TURNS.replace("{end}", "\n\n<|vision_pad|>")
    assert template_end(processor) == token(processor, "<|vision_pad|>")


def test_a_template_that_writes_the_beginning_is_tokenised_with_one(made):
    _, processor = made
    tokenizer = processor.tokenizer
    tokenizer.bos_token = "<|vision_pad|>"
    tokenizer._tokenizer.post_processor = None
    from tokenizers.processors import TemplateProcessing

    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|vision_pad|> $A", special_tokens=[("<|vision_pad|>", begin)]
    )
    messages = [{"role": "user", "content": [{"type": "text", "text": "1 + 1"}]}]
    for template in (processor.chat_template, "{{ bos_token }}" + processor.chat_template):
        processor.chat_template = template
        own = Renderer(processor).prompt(messages, []).ids
        theirs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        assert own.tolist() == np.array(theirs).flatten().tolist()
        assert (own == begin).sum() == 1
        assert Renderer(processor).tokenizer_begins() == ("bos_token" not in template)
    assert torch.is_tensor(Renderer(processor).prompt(messages, []).tensors["input_ids"])
