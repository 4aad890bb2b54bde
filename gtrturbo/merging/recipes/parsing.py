"""What YAML holds, read as a recipe of mergekit, and written again with its models under other names."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.recipes.recipe import (
    OF_A_MODEL,
    SWITCHES,
    ModelRef,
    Module,
    Recipe,
    Settings,
    Slice,
    Source,
    WantedToken,
    WantedTokens,
)
from gtrturbo.merging.recipes.values import check

NUMBERS = {"weight", "density", "gamma", "epsilon", "scale", "lambda", "t", "select_topk", "r", "alpha", "eps", "max_iter", "tol"}
TOP = {"merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype", "tokenizer_source",
       "tokenizer", "chat_template", "name"}  # fmt: skip
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def parse_recipe(content: Any, name: str, exists: Callable[[str], bool] = lambda path: Path(path).exists()) -> Recipe:
    """Check what YAML holds, and make a recipe of it.

    Args:
        content: as read.
        name: of the file, for errors.
        exists: tells whether a text is a path that is there, so that a + in it stands for no adapter.

    Raises:
        GtrTurboError: it is no recipe, or says what no recipe says; by name.
    """
    if not isinstance(content, dict) or "merge_method" not in content:
        raise GtrTurboError(f"{name} is no recipe of mergekit: it has no merge_method.")
    return _Parser(name, exists).recipe(content)


@dataclass(frozen=True)
class _Parser:
    name: str
    exists: Callable[[str], bool]

    def recipe(self, content: dict[Any, Any]) -> Recipe:
        self._refuse(content.keys() - TOP, "")
        base = content.get("base_model")
        dtype = content.get("out_dtype") or content.get("dtype")
        for key in ("out_dtype", "dtype"):
            if content.get(key) and str(content[key]).removeprefix("torch.") not in DTYPES:
                raise self._wrong(f"{key} must be one of {', '.join(DTYPES)}, got {content[key]}.")
        template = content.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise self._wrong(f"chat_template must be a text, got {type(template).__name__}.")
        return Recipe(
            method=str(content["merge_method"]),
            modules=self._modules(content),
            base=self.ref(base, "base_model") if base is not None else None,
            parameters=self._settings(content.get("parameters"), "parameters."),
            dtype=DTYPES[str(dtype).removeprefix("torch.")] if dtype else None,
            tokens=self._tokens(content),
            chat_template=template or None,
            content=content,
        )

    def _modules(self, content: dict[Any, Any]) -> dict[str, Module]:
        given = [key for key in ("models", "slices", "modules") if content.get(key)]
        if len(given) != 1:
            raise self._wrong(f"one of models, slices and modules must be there, got {' and '.join(given) or 'none'}.")
        if given[0] != "modules":
            return {"": self._module(content, "")}
        if not isinstance(content["modules"], dict):
            raise self._wrong("modules must be a mapping from names to models or slices.")
        found = {}
        for name, module in content["modules"].items():
            where = f"modules.{name}."
            if not isinstance(module, dict) or bool(module.get("models")) == bool(module.get("slices")):
                raise self._wrong(f"modules.{name} must have models or slices.")
            self._refuse(module.keys() - {"models", "slices", "parameters", "name"}, where)
            found[str(name)] = self._module(module, where)
        return found

    def _module(self, content: dict[Any, Any], where: str) -> Module:
        parameters = self._settings(content.get("parameters"), f"{where}parameters.") if where else {}
        if content.get("slices"):
            slices = tuple(
                self._slice(each, f"{where}slices[{i}].") for i, each in enumerate(self._list(content, "slices", where))
            )
            return Module(slices, parameters)
        sources = tuple(self._source(each, f"{where}models") for each in self._list(content, "models", where))
        return Module((Slice(sources),), parameters)

    def _slice(self, content: Any, where: str) -> Slice:
        if not isinstance(content, dict):
            raise self._wrong(f"{where.rstrip('.')} must be a mapping with sources.")
        self._refuse(content.keys() - {"sources", "base_model", "parameters", "residual_weight"}, where)
        if content.get("residual_weight") is not None:
            raise self._wrong(f"{where}residual_weight is set, which nothing reads.")
        base = content.get("base_model")
        sources = tuple(self._source(each, f"{where}sources", layers=True) for each in self._list(content, "sources", where))
        lengths = {source.layers[1] - source.layers[0] for source in sources if source.layers}
        if len(lengths) > 1:
            raise self._wrong(f"the sources of {where.rstrip('.')} have different numbers of layers.")
        parameters = self._settings(content.get("parameters"), f"{where}parameters.")
        return Slice(sources, parameters, self.ref(base, f"{where}base_model") if base is not None else None)

    def _source(self, content: Any, where: str, *, layers: bool = False) -> Source:
        if not isinstance(content, dict) or content.get("model") is None:
            raise self._wrong(f"an entry of {where} names no model.")
        ref = self.ref(content["model"], f"{where}.model")
        self._refuse(
            content.keys() - ({"model", "parameters", "layer_range"} if layers else {"model", "parameters"}), f"{where} {ref}: "
        )
        parameters = self._settings(content.get("parameters"), f"parameters of {ref}: ", OF_A_MODEL)
        return Source(ref, parameters, self._range(content.get("layer_range"), where) if layers else None)

    def _range(self, value: Any, where: str) -> tuple[int, int]:
        fine = isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) and each is not True for each in value)
        if not fine or not 0 <= value[0] < value[1]:
            raise self._wrong(f"layer_range of {where} must be [first, last) with first < last, got {value}.")
        return value[0], value[1]

    def _list(self, content: dict[Any, Any], key: str, where: str) -> list[Any]:
        value = content.get(key)
        if not isinstance(value, list) or not value:
            raise self._wrong(f"{where}{key} must be a list.")
        return value

    def _settings(self, content: Any, where: str, known: set[str] = NUMBERS | SWITCHES) -> Settings:
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise self._wrong(f"{where.rstrip('.: ')} must be a mapping.")
        self._refuse(content.keys() - known, where)
        for name, setting in content.items():
            check(f"{self.name}: {where}", name, setting, truth=name in SWITCHES)
        return dict(content)

    def ref(self, value: Any, where: str) -> ModelRef:
        """Read a model: a text with or without +ADAPTER, or a mapping of model, lora and the like."""
        if isinstance(value, dict):
            self._refuse(value.keys() - {"model", "lora", "override_architecture"}, f"{where}.")
            if value.get("model") is None:
                raise self._wrong(f"{where} names no model.")
            lora = self._path(value["lora"], f"{where}.lora") if value.get("lora") is not None else None
            return ModelRef(self._path(value["model"], f"{where}.model"), lora)
        path = self._path(value, where)
        if "+" not in path or self.exists(path):
            return ModelRef(path)
        splits = [(path[:i], path[i + 1 :]) for i, letter in enumerate(path) if letter == "+"]
        whole = [pair for pair in splits if all(map(self.exists, pair))]
        if len(splits) > 1 and len(whole) != 1:
            raise self._wrong(f"{where} {path} can be cut at more than one +.", "write {model: MODEL, lora: ADAPTER}.")
        model, lora = (whole or splits)[0]
        if not model or not lora:
            raise self._wrong(f"{where} {path} names no model or no adapter beside its +.")
        return ModelRef(model, lora)

    def _path(self, value: Any, where: str) -> str:
        if isinstance(value, dict):
            self._refuse(value.keys() - {"path", "revision"}, f"{where}.")
            path, revision = value.get("path"), value.get("revision")
            return f"{self._path(path, where)}@{revision}" if revision else self._path(path, where)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise self._wrong(f"{where} must be a folder or a Hugging Face id, got {str(value)[:40]!r}.")
        return os.path.expanduser(value)

    def _tokens(self, content: dict[Any, Any]) -> WantedTokens | None:
        source, section = content.get("tokenizer_source"), content.get("tokenizer")
        if source is not None and section is not None:
            raise self._wrong("tokenizer_source and tokenizer are both there.", "leave one out.")
        if section is None:
            return WantedTokens(self._token_source(source, "tokenizer_source")) if source is not None else None
        if not isinstance(section, dict):
            raise self._wrong("tokenizer must be a mapping.")
        self._refuse(section.keys() - {"source", "tokens", "pad_to_multiple_of"}, "tokenizer.")
        multiple = section.get("pad_to_multiple_of")
        if multiple is not None and not (isinstance(multiple, int) and 0 < multiple <= 1 << 20):
            raise self._wrong(f"tokenizer.pad_to_multiple_of must be a positive whole number, got {multiple}.")
        tokens = section.get("tokens") or {}
        if not isinstance(tokens, dict):
            raise self._wrong("tokenizer.tokens must be a mapping from tokens.")
        found = {str(name): self._token(str(name), token) for name, token in tokens.items()}
        return WantedTokens(self._token_source(section.get("source", "union"), "tokenizer.source"), found, multiple)

    def _token_source(self, value: Any, where: str) -> Any:
        return value if value in ("union", "base") else self.ref(value, where)

    def _token(self, name: str, content: Any) -> WantedToken:
        where = f"tokenizer.tokens.{name}"
        if not isinstance(content, dict):
            raise self._wrong(f"{where} must be a mapping with a source.")
        self._refuse(content.keys() - {"source", "force"}, f"{where}.")
        force, source = bool(content.get("force", False)), content.get("source")
        if isinstance(source, dict) and "kind" in source:
            if source["kind"] == "zero":
                return WantedToken(zero=True, force=force)
            self._refuse(source.keys() - {"kind", "model", "token", "token_id"}, f"{where}.source.")
            given = [key for key in ("token", "token_id") if source.get(key) is not None]
            if source["kind"] != "model_token" or len(given) != 1 or "model" not in source:
                raise self._wrong(f"{where}.source must be of kind zero, or model_token with model and token or token_id.")
            return WantedToken(self.ref(source["model"], f"{where}.source.model"), source[given[0]], force=force)
        return WantedToken(self.ref(source, f"{where}.source") if source is not None else None, force=force)

    def _refuse(self, names: Any, where: str) -> None:
        if names:
            raise self._wrong(f"it sets {where}{min(map(str, names))}, which merge does not read.", "leave it out if you can.")

    def _wrong(self, what: str, fix: str = "what recipes may say is in the documentation: merge.") -> GtrTurboError:
        return GtrTurboError(f"{self.name}: {what}", fix)


def rewritten(recipe: Recipe, places: Mapping[ModelRef, str], *, base: str | None) -> str:
    """Write a recipe as a manifest holds it, its models under other names; `base`: one that it does not name."""

    parser = _Parser("recipe", lambda path: Path(path).exists())
    content = json.loads(json.dumps(recipe.content))
    content.pop("name", None)
    for holder, key in _models_in(content):
        holder[key] = places[parser.ref(holder[key], key)]
    if base is not None:
        content["base_model"] = base
    return json.dumps(content, sort_keys=True)


def _models_in(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Find where a recipe names models: the mapping and its key."""
    found = [(content, "base_model")] if content.get("base_model") is not None else []
    if content.get("tokenizer_source") not in (None, "union", "base"):
        found.append((content, "tokenizer_source"))
    section = content.get("tokenizer") or {}
    if section.get("source") not in (None, "union", "base"):
        found.append((section, "source"))
    for token in (section.get("tokens") or {}).values():
        source = token.get("source")
        if isinstance(source, dict) and "kind" in source:
            found += [(source, "model")] if "model" in source else []
        elif source is not None:
            found.append((token, "source"))
    for part in [content, *(content.get("modules") or {}).values()]:
        found += [(each, "model") for each in part.get("models") or []]
        for each in part.get("slices") or []:
            found += [(each, "base_model")] if each.get("base_model") is not None else []
            found += [(source, "model") for source in each["sources"]]
    return found
