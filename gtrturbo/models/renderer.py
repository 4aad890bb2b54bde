"""The one renderer: prompt and image to token ids and pixels, for sampling and for training alike.

Each prompt is rendered alone and cached by its content; batches are put together by padding and concatenation, so what a
prompt is made of never depends on its neighbours. Sampled ids are trained on as they are: nothing is decoded and encoded again.
"""

import hashlib
import itertools
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.end_of_turn import template_end
from gtrturbo.models.families import DEFAULT, Family, written_ids
from gtrturbo.models.reading import reading_model
from gtrturbo.store.mending import mend_of
from gtrturbo.store.records import Message, parts_of, texts_of

CACHED_BYTES = 1 << 30
NO_TEMPLATE = "it has no chat template; write one: --chat-template FILE (documentation: engines)."
PICTURE_MARKS = ("image_token", "boi_token")  # What processors call the mark that a template writes for a picture.
TEXT_SHOWN = 60  # characters
LABELS = "labels"  # What PaliGemma's processor would have it learn, and no input.


@dataclass(frozen=True, eq=False)
class Prompt:
    """One rendered prompt: the tensors that a model takes, with a leading dimension of 1 for the per-token ones.

    `per_token` names these, and `in_replies` what they are in a reply, see `Family`.

    Prompts are told apart by identity: a renderer gives the same one for the same content.
    """

    tensors: dict[str, Tensor]
    per_token: Mapping[str, int | None] = field(default_factory=lambda: DEFAULT.per_token)
    in_replies: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size in memory; a picture of 300 × 300 pixels takes 2 MB."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def ids(self) -> np.ndarray:
        """Token ids, image placeholders included. [P] int32"""
        return self.tensors["input_ids"][0].numpy().astype(np.int32)


class Renderer:
    """Turn chat messages with pictures into prompts, each rendered once. `end_id` is the token that ends a reply."""

    def __init__(self, processor: Any, family: Family = DEFAULT) -> None:
        self.processor = processor
        self.family = family
        self.end_id = template_end(processor)
        self.end_at((self.end_id, processor.tokenizer.eos_token_id))
        self._cache: dict[str, Prompt] = {}
        self._bytes = 0
        self._rows: int | None = None

    def end_at(self, ends: Collection[int]) -> None:
        """Take tokens for ends of a reply, and so for no part of its text; not every tokenizer calls them special."""
        self._ends = frozenset(ends)
        self._pieces: dict[int, str] = {}
        added, apart = self.processor.tokenizer.added_tokens_decoder, {*ends, *written_ids(self.processor)}
        self._marks = sorted(token.content for identity, token in added.items() if token.special or identity in apart)

    def fit(self, rows: int) -> None:
        """Write only tokens that the model has one of so many rows of its embedding for.

        Raises:
            GtrTurboError: the tokenizer was made for another model, as one whose special tokens were renamed.
        """
        self._rows = rows
        tokenizer = self.processor.tokenizer
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._require_known([self.end_id, *(each for each in special if each is not None)])

    def _require_known(self, ids: Sequence[int]) -> None:
        if self._rows is not None and max(ids) >= self._rows:
            where = self.processor.tokenizer.name_or_path
            raise GtrTurboError(
                f"the tokenizer of {where} writes token {max(ids)}, and the model has {self._rows} of them.",
                f"put its tokenizer back; {mend_of(where)}",
            )

    def prompt(self, messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> Prompt:
        """Render messages up to where the assistant's reply begins.

        Args:
            messages: chat messages without the reply; image parts are filled from `pictures` in order.
            pictures: pixels, each [H, W, 3] uint8.

        Raises:
            GtrTurboError: the model cannot read them, or a text holds that of a special token.
        """
        key = _content_key(messages, pictures)
        if key not in self._cache:
            prompt = self._render(messages, pictures)
            self._bytes += prompt.nbytes
            while self._bytes > CACHED_BYTES and self._cache:
                self._bytes -= self._cache.pop(next(iter(self._cache))).nbytes
            self._cache[key] = prompt
        return self._cache[key]

    def _render(self, messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> Prompt:
        self._require_no_marks(messages)
        # Nested, as pictures of one prompt: LLaVA-OneVision cuts pictures into tiles where each is alone in its own.
        images = [[Image.fromarray(picture) for picture in pictures]] if len(pictures) else None
        name = self.processor.tokenizer.name_or_path
        untaught = "" if self.processor.chat_template else NO_TEMPLATE
        with reading_model(name, "cannot render a prompt", mend=untaught):
            text = self.processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        self._require_written(messages, text)
        sizes = ", ".join(f"{len(picture)} × {picture.shape[1]}" for picture in pictures) or "none"
        unmarked = self._unmarked(messages, text, len(pictures))
        mend = unmarked or f"the pictures are {sizes}: let the task show others; or {mend_of(name)}"
        with reading_model(name, "cannot render a prompt", mend=mend):
            batch = self.processor(text=[text], images=images, return_tensors="pt", padding=False, **self._own_start(text))
        self._require_known([int(batch["input_ids"].max())])
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor) and name != LABELS}
        return Prompt(tensors, self.family.per_token, self.family.in_replies)

    def _require_written(self, messages: Sequence[Message], text: str) -> None:
        """Refuse a template that leaves out what is asked, or writes it otherwise; blanks around a text are its own affair."""
        for message in messages:
            lost = next((part for part in texts_of([message]) if part.strip() not in text), None)
            if lost is not None and message["role"] != "assistant":  # Of earlier replies it may leave out the thoughts.
                raise GtrTurboError(
                    f"the chat template of {self.processor.tokenizer.name_or_path} does not write the text "
                    f"{lost.strip()[:TEXT_SHOWN]!r} of a {message['role']}'s message as it is.",
                    "write one that does: --chat-template FILE (documentation: engines).",
                )

    def _unmarked(self, messages: Sequence[Message], text: str, pictures: int) -> str:
        """Say what mends a template that writes another number of marks of pictures than there are; nothing where it does not."""
        marks = [mark for name in PICTURE_MARKS if isinstance(mark := getattr(self.processor, name, None), str)]
        parts = sum(part["type"] == "image" for message in messages for part in parts_of(message))
        if parts != pictures or not marks or pictures in map(text.count, marks):
            return ""
        return f"its chat template writes {max(map(text.count, marks))} marks for {pictures} pictures: --chat-template FILE."

    def _require_no_marks(self, messages: Sequence[Message]) -> None:
        """Refuse text that would become the mark of a picture or the end of a turn, here and on every server."""
        for text in texts_of(messages):
            if mark := next((mark for mark in self._marks if mark in text), None):
                raise GtrTurboError(
                    f"a prompt holds the text {mark!r}, which the model's tokenizer takes for a mark of its own.",
                    "let the task write it otherwise, such as with a space in it.",
                )

    def _own_start(self, text: str) -> dict[str, bool]:
        """Let the tokenizer write no beginning of sequence where the template has: transformers' own templates count on that."""
        begins = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if begins and text.startswith(begins) else {}

    def tokenizer_begins(self) -> bool:
        """Tell whether it is the tokenizer that writes the beginning of a sequence before a prompt, and not the template."""
        asked = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        text = self.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        return bool(self.processor.tokenizer("")["input_ids"]) and not self._own_start(text)

    def of_transformers(self, messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> Any:
        """Return the token ids that transformers itself renders a prompt to, to be compared with ours."""
        waiting = iter(pictures)
        filled = [
            message
            | {
                "content": [
                    {"type": "image", "image": Image.fromarray(next(waiting))} if part["type"] == "image" else part
                    for part in message["content"]
                ]
            }
            for message in messages
        ]
        return self.processor.apply_chat_template(filled, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]

    def response_ids(self, reply: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise a reply that no policy sampled, with the end-of-turn token; return ids and character offsets."""
        tokenizer = self.processor.tokenizer
        # The text of a special token is text like any other: `<|im_end|>` in a reply does not end it.
        encoded = tokenizer(reply, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        if ending := self._ends.intersection(tokenizer.added_tokens_decoder, encoded["input_ids"]):
            raise GtrTurboError(
                f"a written reply holds the text {tokenizer.decode(min(ending))!r}, at which the model ends its replies.",
                "leave that reply out, or write it otherwise, such as with a space in it.",
            )
        end = (len(reply), len(reply))
        ids = [*encoded["input_ids"], self.end_id]
        self._require_known(ids)
        return ids, [*map(tuple, encoded["offset_mapping"]), end]

    def decode(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """Decode sampled ids; return the text without special tokens and its end, and each token's characters in it.

        A token's characters are those that it adds to the decoded prefix, so a token that completes a character owns it.
        """
        text = self._text(ids)
        pieces = [self._piece(each) for each in ids]
        if "\ufffd" not in text and "".join(pieces) == text:
            ends = list(itertools.accumulate(map(len, pieces)))
        else:  # A character of several tokens, or a tokenizer whose tokens read otherwise in a row than alone.
            ends = [len(_stable(self._text(ids[: count + 1]))) for count in range(len(ids))]
        if ends:
            ends[-1] = len(text)
        return text, list(zip([0, *ends[:-1]], ends, strict=True))

    def _text(self, ids: Sequence[int]) -> str:
        ids = ids[:-1] if ids and ids[-1] in self._ends else ids
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def _piece(self, identity: int) -> str:
        if identity not in self._pieces:
            self._pieces[identity] = self._text([identity])
        return self._pieces[identity]


def _stable(text: str) -> str:
    # A character of several tokens decodes to U+FFFD until its last token is there.
    return text.rstrip("\ufffd")


def _content_key(messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(repr(messages).encode())
    for picture in pictures:
        digest.update(repr(picture.shape).encode() + picture.tobytes())
    return digest.hexdigest()


def collate(prompts: Sequence[Prompt], *, pad_id: int, multiple: int | None = None) -> dict[str, Tensor]:
    """Put prompts into one batch, padded on the left to the longest, or to the next multiple above it: P tokens.

    Returns: per-token tensors [B, P]; pixels and grids concatenated in the order of the prompts, with zeros where one has more or
        larger parts of pictures than another, as processors put a batch together.
    """
    length = max(padded_length(prompt, multiple) for prompt in prompts)
    names = dict.fromkeys(name for prompt in prompts for name in prompt.tensors)
    return {name: _join(prompts, name, length, pad_id) for name in names}


def padded_length(prompt: Prompt, multiple: int | None) -> int:
    """Return a prompt's length in tokens, or the next multiple above it."""
    length = prompt.tensors["input_ids"].shape[1]
    return (length // multiple + 1) * multiple if multiple else length


def _join(prompts: Sequence[Prompt], name: str, length: int, pad_id: int) -> Tensor:
    rows = [prompt.tensors[name] for prompt in prompts if name in prompt.tensors]
    if name not in prompts[0].per_token:
        return _stacked(rows)
    fill = prompts[0].per_token[name]
    fill = pad_id if fill is None else fill
    return torch.cat([torch.nn.functional.pad(row, (length - row.shape[1], 0), value=fill) for row in rows])


def _stacked(rows: list[Tensor]) -> Tensor:
    """Concatenate along the first dimension, with zeros at the end of those that are shorter in another."""
    sizes = [max(row.shape[axis] for row in rows) for axis in range(1, rows[0].ndim)]
    if all(list(row.shape[1:]) == sizes for row in rows):
        return torch.cat(rows)
    whole = rows[0].new_zeros(sum(map(len, rows)), *sizes)
    for part, row in zip(whole.split([*map(len, rows)]), rows, strict=True):
        part[tuple(map(slice, row.shape))] = row
    return whole


def append_responses(
    batch: dict[str, Tensor],
    responses: Sequence[np.ndarray],
    *,
    pad_id: int,
    per_token: Container[str] = DEFAULT.per_token,
    in_replies: Mapping[str, int] = DEFAULT.in_replies,
) -> tuple[dict[str, Tensor], Tensor]:
    """Append replies to a batch of prompts, padded on the right to the longest, R tokens.

    Returns: the batch with per-token tensors [B, P + R], and the mask of real reply tokens. [B, R] bool
    """
    ids, mask = stack_responses(responses, pad_id=pad_id)
    tails = {"input_ids": ids, "attention_mask": mask.long()}
    joined = {
        name: torch.cat([value, tails.get(name, torch.full_like(ids, in_replies.get(name, 0)))], dim=1)
        if name in per_token
        else value
        for name, value in batch.items()
    }
    return joined, mask


def stack_responses(responses: Sequence[np.ndarray], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Put replies into one batch, padded on the right to the longest: ids [B, R] and the mask of real tokens [B, R] bool."""
    longest = max(len(response) for response in responses)
    ids = torch.full((len(responses), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(responses), longest, dtype=torch.bool)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.from_numpy(np.asarray(response, dtype=np.int64))
        mask[row, : len(response)] = True
    return ids, mask
