"""What recipes may say, and what is refused with a sentence: bad YAML, dangerous YAML, and settings that no recipe has."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import content, read

import gtrturbo
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.recipes import as_options, parse_recipe, read_recipe
from gtrturbo.merging.recipes.recipe import ModelRef
from gtrturbo.merging.recipes.values import settle

BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1"),
        ("merge_method: ties\nmerge_method: linear", "merge_method is there twice"),
        (BOMB, "alias"),
        ("a: &a [*a]", "alias"),
        ("[" * 1000, "nested|no YAML"),
        ("a: 1:30", "1:30 is another number"),
        ("a: 010", "010 is another number"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("merge_method: ties\n---\nmerge_method: linear", "holds several documents, and a merge is one"),
        ("a: *missing", "undefined alias"),
        ("- 1", "no recipe of mergekit"),
        ("", "no recipe of mergekit"),
        ("merge_method: ties\nmodels: [{model: m, parameters: {weight: .nan}}]", "weight must be a number, got 'nan'"),
        ("merge_method: ties\nmodels: [{model: m, parameters: {weight: " + "9" * 5000 + "}}]", "weight must be a number"),
        ("merge_method: ties\nmodels: [{model: m}]\nparameters: {density: 0." + "9" * 5000 + "}", None),
    ],
)
def test_yaml_that_is_bad_or_means_two_things_is_one_sentence(text, said, tmp_path):
    file = tmp_path / "r.yml"
    file.write_text(text)
    if said is None:
        assert read_recipe(file).parameters == {"density": 1.0}
        return
    with pytest.raises(GtrTurboError, match=said) as error:
        read_recipe(file)
    assert len(error.value.what) < 300 + len(str(file)) and str(file) in error.value.what


def test_a_recipe_may_name_models_and_filters_by_alias_for_every_layer(tmp_path):
    """As long frankenmerges on the hub do, with one slice for each layer."""
    part = "  - sources: [{{model: *m, layer_range: [{0}, {1}], <<: *f}}]\n"
    head = "name: &m a\nparameters: {scale: 1}\nmerge_method: passthrough\nslices:\n"
    scale = "&f {parameters: {scale: [{filter: q_proj, value: 0.5}, {value: 1}]}}"
    first = f"  - sources: [{{model: *m, layer_range: [0, 1], <<: {scale}}}]\n"
    (tmp_path / "r.yml").write_text(head + first + "".join(part.format(i, i + 1) for i in range(1, 300)))
    assert len(read_recipe(tmp_path / "r.yml").modules[""].slices) == 300


def test_aliases_that_unfold_to_too_much_are_refused(tmp_path):
    wide = ", ".join(["0.5"] * 1000)
    uses = "".join("  - {model: m, parameters: {weight: *w}}\n" for _ in range(200))
    (tmp_path / "r.yml").write_text(f"merge_method: linear\nparameters: {{weight: &w [{wide}]}}\nmodels:\n{uses}")
    with pytest.raises(GtrTurboError, match="more than 100,000 values"):
        read_recipe(tmp_path / "r.yml")


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path):
    (tmp_path / "large.yml").write_text("#" * 2_000_000)
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\x00")
    for name in ("large.yml", "bytes.yml", "none.yml"):
        with pytest.raises(GtrTurboError, match=name):
            read_recipe(tmp_path / name)


def recipe(**change):
    content = {"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}]} | change
    return parse_recipe({key: value for key, value in content.items() if value != "absent"}, "r.yml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": "absent"}, "one of models, slices and modules must be there, got none"),
        ({"slices": [{"sources": []}]}, "got models and slices"),
        ({"models": {}}, "one of models"),
        ({"models": ["m"]}, "an entry of models names no model"),
        ({"models": [{"model": 3}]}, "must be a folder or a Hugging Face id, got '3'"),
        ({"models": [{"model": "m", "layer_range": [0, 1]}]}, "layer_range, which merge does not read"),
        ({"models": [{"model": "m", "parameters": {"weight": "heavy"}}]}, "weight must be a number, got 'heavy'"),
        ({"models": [{"model": "m", "parameters": {"weight": True}}]}, None),
        ({"models": [{"model": "m", "parameters": {"weight": []}}]}, "weight is an empty list"),
        ({"models": [{"model": "m", "parameters": {"weight": [[1]]}}]}, "weight is a list of lists"),
        ({"models": [{"model": "m", "parameters": {"weight": [{"filter": "x"}]}}]}, "no filter with a value"),
        ({"models": [{"model": "m", "parameters": {"weight": [1, {"value": 2}]}}]}, "mixes numbers and filters"),
        ({"models": [{"model": "m", "parameters": {"weight": {"value": {"value": 1}}}}]}, "a filter within a filter"),
        ({"models": [{"model": "m", "parameters": {"wieght": 1}}]}, "parameters of m: wieght"),
        ({"models": [{"model": "m", "parameters": [1]}]}, "must be a mapping"),
        ({"models": [{"model": "a+b+c"}]}, "can be cut at more than one"),
        ({"models": [{"model": "a+"}]}, "names no model or no adapter"),
        ({"parameters": {"normalize": "maybe"}}, "normalize must be true or false, got 'maybe'"),
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "base"}, "tokenizer_source and tokenizer are both there"),
        ({"tokenizer": {"tokens": {"x": 1}}}, "tokenizer.tokens.x must be a mapping"),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "model": "m"}}}}},
            "must be of kind zero, or model_token",
        ),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "pad_to_multiple_of must be a positive"),
        ({"chat_template": 3}, "chat_template must be a text"),
        ({"models": "absent", "slices": [{"sources": [{"model": "m", "layer_range": [2, 1]}]}]}, "first < last, got"),
        ({"models": "absent", "slices": [{"sources": [{"model": "m", "layer_range": [0, 99999999999999]}]}]}, None),
        (
            {
                "models": "absent",
                "slices": [{"sources": [{"model": "m", "layer_range": [0, 2]}, {"model": "n", "layer_range": [0, 1]}]}],
            },
            "different numbers of layers",
        ),
        ({"models": "absent", "modules": {"default": {}}}, "modules.default must have models or slices"),
        (
            {"models": "absent", "slices": [{"sources": [{"model": "m", "layer_range": [0, 1]}], "residual_weight": 1}]},
            "nothing reads",
        ),
        ({"surprise": 1}, "it sets surprise"),
    ],
)
def test_what_no_recipe_says_is_refused_by_name(change, said):
    if said is None:
        recipe(**change)
        return
    with pytest.raises(GtrTurboError, match=said) as error:
        recipe(**change)
    assert error.value.fix


def test_models_are_named_in_all_forms(tmp_path):
    plus = tmp_path / "c++"
    plus.mkdir()
    named = [str(plus), "m+l", {"model": "m", "lora": "l"}, {"model": {"path": "m", "revision": "r"}}, {"model": {"path": "m"}}]
    found = recipe(models=[{"model": each} for each in named]).models()[1:]
    assert found == [ModelRef(str(plus)), ModelRef("m", "l"), ModelRef("m@r"), ModelRef("m")]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (0.5, [0.5] * 3),
        ("6e-1", [0.6] * 3),
        ([1, 0], [1, 0.5, 0]),
        ([0, 0.3, 0.9], [0, 0.3, 0.9]),
        ([0.25], [0.25] * 3),
        ({"value": [2, 4]}, [2, 3, 4]),
        ([{"filter": "mlp", "value": 1}, {"value": 0}], [0] * 3),
        ([{"filter": "attn", "value": [0, 1]}, {"value": 7}], [0, 0.5, 1]),
        ([{"filter": "mlp", "value": 1}], [None] * 3),
        ([{"filter": "*", "value": 3}, {"filter": "attn", "value": 1}], [3] * 3),
    ],
)
def test_a_setting_runs_over_layers_and_filters(setting, expected):
    made = recipe(parameters={"t": setting})
    found = [settle("t", [made.parameters], tensors=("model.layers.1.self_attn.q_proj.weight",), t=t) for t in (0, 0.5, 1)]
    assert found == pytest.approx(expected)


def test_the_innermost_scope_counts_unless_no_filter_of_it_fits():
    inner, outer = {"weight": [{"filter": "mlp", "value": 1}]}, {"weight": 2}
    for part in (inner, outer):
        recipe(parameters=part)
    assert [settle("weight", [inner, outer], tensors=(name,), t=0) for name in ("a.mlp.w", "a.norm.w")] == [1, 2]


def test_a_parameter_that_a_method_does_not_read_is_told(folders, capsys):
    file = folders.root / "r.yml"
    file.write_text("merge_method: linear\nmodels: [{model: m}]\nparameters: {lambda: 0.5, int8_mask: true, weight: 1}\n")
    assert as_options(read_recipe(file)) is not None
    assert "linear does not read lambda" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("template", ["{% for", "{{ messages[0]", "{% nosuch %}", " ", "nosuch"])
def test_a_chat_template_that_is_none_is_refused_before_the_work(folders, family, template):
    base, others = family(1)
    recipe = {
        "merge_method": "linear",
        "base_model": str(base),
        "models": [{"model": str(others[0]), "parameters": {"weight": 1}}],
    }
    (folders.root / "r.yml").write_text(json.dumps(recipe | {"chat_template": template}))
    with pytest.raises(GtrTurboError, match=r"chat_template .* cannot be used: it is no template"):
        folders.merge(recipe=str(folders.root / "r.yml"))
    assert not (folders.root / "merged1").exists()


def test_a_home_folder_is_meant_by_its_sign(folders, family, monkeypatch):
    base, others = family(1)
    expected = content(folders.merge(others[0], base=base))
    monkeypatch.setenv("HOME", str(folders.root))
    recipe = {"merge_method": "ties", "base_model": f"~/{base.name}", "parameters": {"density": 0.8, "weight": 1}}
    (folders.root / "r.yml").write_text(json.dumps(recipe | {"models": [{"model": f"~/{others[0].name}"}]}))
    assert content(folders.merge(recipe="~/r.yml")) == expected
    made = gtrturbo.merge([f"~/{others[0].name}"], base=Path(f"~/{base.name}"), out="~/out")
    assert made.out == folders.root / "out" and content(made.out) == expected


def test_a_recipe_of_whole_numbers_alone_is_refused(folders):
    paths = [folders.write(name, {"ids": np.arange(3)}, "I64") for name in ("base", "other")]
    recipe = {
        "merge_method": "ties",
        "base_model": str(paths[0]),
        "models": [{"model": str(paths[1])}],
        "chat_template": "chatml",
    }
    (folders.root / "r.yml").write_text(json.dumps(recipe))
    with pytest.raises(GtrTurboError, match="there is nothing to merge: the recipe's tensors hold no floating-point numbers"):
        folders.merge(recipe=str(folders.root / "r.yml"))


def test_a_recipe_has_the_id_of_its_content_wherever_its_models_lie(folders, family, tmp_path):
    base, others = family(2)
    text = "merge_method: ties\nbase_model: {0}\nmodels: [{{model: {1}}}, {{model: {2}}}]\nparameters: {{density: [0.5, 1.0]}}\n"
    (folders.root / "a.yml").write_text(text.format(base, *others))
    one = folders.merge(recipe=str(folders.root / "a.yml"))
    moved = [path.rename(tmp_path / f"moved{i}") for i, path in enumerate((base, *others))]
    (folders.root / "b.yml").write_text(text.format(*moved))
    two = folders.merge(recipe=str(folders.root / "b.yml"))
    assert (one / "stage.json").read_bytes() == (two / "stage.json").read_bytes() and content(one) == content(two)
    said = json.loads((one / "stage.json").read_text())["config"]
    assert json.loads(said["recipe"])["models"] == [{"model": "1"}, {"model": "2"}] and said["method"] == "ties"
    assert str(tmp_path) not in (one / "stage.json").read_text()


def test_options_beside_a_recipe_that_says_more_are_refused(folders, family):
    base, others = family(1)
    file = folders.root / "r.yml"
    file.write_text(
        f"merge_method: ties\nbase_model: {base}\nmodels: [{{model: {others[0]}}}]\nparameters: {{density: [0.5, 1.0]}}\n"
    )
    for option, value in (("weights", "1"), ("rank", 2), ("include", ("*",)), ("trim", "global")):
        with pytest.raises(GtrTurboError, match=f"--{option} does not go with a recipe"):
            folders.merge(recipe=str(file), **{option: value})


def test_threads_do_not_change_a_recipes_bytes_and_a_dry_run_says_what_it_reads(folders, family):
    from gtrturbo.config import MergeConfig
    from gtrturbo.stages import preview

    shapes = {f"model.layers.{i}.mlp.weight": (40, 30) for i in range(3)} | {"embed.weight": (50, 30)}
    base, others = family(2, shapes=shapes, dtypes="BF16")
    file = folders.root / "r.yml"
    listed = f"models: [{{model: {others[0]}}}, {{model: {others[1]}}}]"
    file.write_text(f"merge_method: dare_ties\nbase_model: {base}\n{listed}\nparameters: {{density: [0.5, 0.9], weight: 1}}\n")
    one, four = (folders.merge(recipe=str(file), threads=threads, verify=4) for threads in (1, 4))
    assert content(one) == content(four) and read(one).keys() == shapes.keys()
    said = preview(MergeConfig(out=folders.root / "x", recipe=str(file)))
    assert "dare-ties of 2 checkpoints" in said and "4 merged" in said


def test_a_base_that_is_not_there_is_said_to_be_so(tmp_path):
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: linear\nbase_model: {tmp_path}/nope\nmodels: [{{model: {tmp_path}/nope}}]\n"
    )
    with pytest.raises(GtrTurboError, match=r"/nope does not exist\.\nname a folder"):
        gtrturbo.merge(recipe=tmp_path / "recipe.yml", out=tmp_path / "out")
