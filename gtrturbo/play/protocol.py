"""Answers of a server as the OpenAI protocol has them, and the ids beside them; what stands there too is not looked at."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from gtrturbo.play.teachers import ROUNDING


def _as_unicode(text: str) -> str:
    """Refuse halves of characters, which JSON can hold and no file."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_as_unicode)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
LogProb = Annotated[float, Field(strict=True, ge=float(np.finfo(np.float32).min), le=ROUNDING, allow_inf_nan=False)]


@dataclass(frozen=True)
class ServedModel:
    id: Annotated[Text, Field(min_length=1)]
    root: Text | None = None
    created: Any = None


@dataclass(frozen=True)
class ServedModels:
    data: Annotated[list[ServedModel], Field(min_length=1)]


@dataclass(frozen=True)
class ReplyMessage:
    content: Text | None


@dataclass(frozen=True)
class TextChoice:
    message: ReplyMessage
    finish_reason: Any = None

    @property
    def ended(self) -> bool:
        """Whether it is said that the model ended the reply."""
        return self.finish_reason not in (None, "length")


@dataclass(frozen=True)
class Chat:
    """A reply as every server gives it."""

    choices: Annotated[list[TextChoice], Field(min_length=1)]


@dataclass(frozen=True)
class LikelyToken:
    token: Text
    logprob: LogProb


@dataclass(frozen=True)
class TokenLogProb:
    logprob: LogProb
    token: Text = ""
    top_logprobs: list[LikelyToken] | None = None


@dataclass(frozen=True)
class LogProbs:
    content: list[TokenLogProb] | None = None


@dataclass(frozen=True)
class SampledChoice(TextChoice):
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    logprobs: LogProbs | None = None


@dataclass(frozen=True)
class Completion:
    """A reply with its tokens: vLLM gives the prompt's beside the choices, SGLang in them."""

    choices: Annotated[list[SampledChoice], Field(min_length=1)]
    prompt_token_ids: list[TokenId] | None = None
