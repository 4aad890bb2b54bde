"""One vocabulary for several: which tokens come out, and which row of which model is the embedding of each.

Source: mergekit 0.1.5, `tokenizer` of its recipes. New tokens get ids in the order of the models and of their ids there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gtrturbo.console import stderr, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.rearranged import PADDING
from gtrturbo.merging.recipes.models import Model
from gtrturbo.merging.recipes.recipe import ModelRef, WantedToken, WantedTokens
from gtrturbo.models.descriptions import has_vocabulary

if TYPE_CHECKING:
    from gtrturbo.models.vocabularies import Tokenizer

Rows = tuple[tuple[ModelRef, int], ...]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens that come out.

    Attributes:
        tokenizer: that comes out.
        ids: of its tokens.
        theirs: ids of each model's tokens.
        wanted: where embeddings are from, as the recipe says it.
        base: whose embedding is taken where a model lacks a token.
        size: rows of an embedding that come out.
    """

    tokenizer: "Tokenizer"
    ids: Mapping[str, int]
    theirs: Mapping[ModelRef, Mapping[str, int]]
    wanted: Mapping[str, WantedToken]
    base: ModelRef
    size: int

    @property
    def models(self) -> Collection[ModelRef]:
        return self.theirs

    def rows(
        self, model: ModelRef, listed: Sequence[ModelRef], counts: Mapping[ModelRef, int]
    ) -> tuple[np.ndarray, dict[int, Rows]]:
        """Say which row of a model's tensor each row is that comes out, and of which rows of others the rest are the mean.

        Args:
            model: whose tensor.
            listed: the models whose tensors are merged.
            counts: rows that each model's tensor has.
        """
        order = np.full(self.size, -1, np.int64)
        order[max(self.ids.values()) + 1 :] = PADDING
        mixed: dict[int, Rows] = {}
        for token, place in self.ids.items():
            here = {ref: at for ref in listed if (at := self.theirs[ref].get(token, -1)) >= 0 and at < counts[ref]}
            wanted = self.wanted.get(token)
            if model in here and not (wanted and wanted.force):
                order[place] = here[model]
            else:
                mixed[place] = self._from(token, wanted, here, counts)
        return order, mixed

    def _from(self, token: str, wanted: WantedToken | None, here: Mapping[ModelRef, int], counts: Mapping[ModelRef, int]) -> Rows:
        if wanted is None:
            return ((self.base, here[self.base]),) if self.base in here else tuple(here.items())
        if wanted.zero:
            return ()
        if wanted.model is None:
            raise GtrTurboError(
                f"tokenizer.tokens gives no source for {token!r}, which a model lacks.", "name a model, or kind: zero."
            )
        if wanted.token is None:
            at = self.theirs[wanted.model].get(token, -1)
        else:
            at = wanted.token if isinstance(wanted.token, int) else self.theirs[wanted.model].get(wanted.token, -1)
        if not 0 <= at < counts.get(wanted.model, 0):
            raise GtrTurboError(f"tokenizer.tokens takes {token!r} from a model that has no such token.", "name another source.")
        return ((wanted.model, at),)


def vocabulary_of(tokens: WantedTokens, models: Mapping[ModelRef, Model], base: ModelRef) -> Vocabulary:
    """Make the tokenizer that a recipe asks for.

    Raises:
        GtrTurboError: a tokenizer cannot be loaded.
    """
    from gtrturbo.models.vocabularies import add_all  # Takes seconds to import, and is rarely needed.

    found = {base: _load(models[base])}
    for ref, model in models.items():
        try:
            found[ref] = found.get(ref) or _load(model)
        except GtrTurboError:
            stderr.print(
                visible(f"{model.given} has no tokenizer: it is taken to be that of {models[base].given}."), style="yellow"
            )
            found[ref] = found[base]
    theirs = {ref: tokenizer.get_vocab() for ref, tokenizer in found.items()}
    if isinstance(tokens.source, ModelRef):
        out = _load(models[tokens.source])
    else:
        out = _load(models[base])
        if tokens.source == "union":
            add_all(out, list(found.values()))
    new = [token for token in tokens.tokens if token not in out.get_vocab()]
    if new:
        out.add_tokens(new)
    ids = out.get_vocab()
    multiple = tokens.multiple or 1
    size = -(-(max(ids.values()) + 1) // multiple) * multiple
    return Vocabulary(out, ids, theirs, tokens.tokens, base, size)


def _load(model: Model) -> "Tokenizer":
    from gtrturbo.models.vocabularies import load_tokenizer  # Takes seconds to import, and is rarely needed.

    folder = next((each for each in (model.given, model.layout.folder) if has_vocabulary(each)), None)
    if folder is None:
        raise GtrTurboError(f"{model.given} holds no tokenizer.", "leave tokenizer_source out, or save one there.")
    return load_tokenizer(folder)
