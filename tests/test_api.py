"""The library: stages as functions with the command line's names, and merges in memory."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import gtrturbo
from gtrturbo.config import MergeConfig
from gtrturbo.config.fields import fields
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.methods import METHODS, MergeRule
from gtrturbo.merging.plan import trims

SHAPES = {"a.weight": (60, 40), "norm.weight": (40,), "scalar": ()}


def states(k: int, *, dtype=torch.float32, scale: float = 0.1):
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    others = [
        {name: value + scale * torch.randn(value.shape, generator=generator) for name, value in base.items()} for _ in range(k)
    ]
    typed = [{name: value.to(dtype) for name, value in each.items()} for each in (base, *others)]
    return typed[0], typed[1:]


def save(folder, tensors):
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


def test_the_import_is_light_and_offers_the_functions():
    code = "import sys, gtrturbo; assert not {'torch', 'numpy', 'typer'} & sys.modules.keys(); print(sorted(dir(gtrturbo)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "merge" in done.stdout and "merge_tensors" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'marge'"):
        gtrturbo.marge  # noqa: B018


def test_the_function_has_the_commands_names_and_defaults():
    parameters = inspect.signature(gtrturbo.merge).parameters
    assert parameters.keys() == {field.name for field in fields(MergeConfig)} - {"dry_run"}
    assert parameters["method"].default == "ties" and parameters["density"].default == "0.8"
    assert "λ: the merged task vector" in gtrturbo.merge.__doc__


def test_a_merge_of_folders_returns_where_it_lies_its_id_and_its_metrics(tmp_path):
    base, others = states(2)
    paths = [save(tmp_path / f"m{i}", each) for i, each in enumerate((base, *others))]
    made = gtrturbo.merge(paths[1:], base=paths[0], out=tmp_path / "out", weights=[0.25, 0.75], method="della", density=0.5,
                          parameters={"epsilon": [0.1, 0.2]})  # fmt: skip
    assert made.out == tmp_path / "out" and len(made.id) == 64 and made.metrics["checkpoints"] == 2
    from gtrturbo.stages import execute

    said = MergeConfig(out=tmp_path / "out2", base=paths[0], checkpoints=tuple(paths[1:]), weights="0.25,0.75", method="della",
                       density="0.5", parameters=("epsilon=0.1,0.2",))  # fmt: skip
    assert execute(said).id == made.id


def test_what_the_command_refuses_the_function_refuses(tmp_path):
    with pytest.raises(GtrTurboError, match="missing: --out"):
        gtrturbo.merge([], base=tmp_path)
    with pytest.raises(TypeError, match="densty"):
        gtrturbo.merge([], out=tmp_path, densty=0.5)
    with pytest.raises(GtrTurboError, match="density must be"):
        gtrturbo.merge([], out=tmp_path, density=2)


@pytest.mark.parametrize("number", range(4))
def test_tensors_in_memory_are_merged_as_folders_are(tmp_path, number):
    """Every method in two types, one of a whole and one of a short fraction; every type with half of the methods."""
    dtype = (torch.float32, torch.bfloat16, torch.float64, torch.float16)[number]
    base, others = states(3, dtype=dtype)
    paths = [save(tmp_path / f"m{i}", each) for i, each in enumerate((base, *others))]
    from safetensors.torch import load_file

    for name, method in list(METHODS.items())[number // 2 :: 2]:
        count = 1 if method.most == 1 else 2 if method.most == 2 else 3
        own = {"t": 0.05} if name == "nearswap" else {}
        asked = {"parameters": own, **({"density": 0.6} if trims(method) else {})}
        merged = gtrturbo.merge_tensors(base, others[:count], name, **asked)
        folder = gtrturbo.merge(paths[1 : count + 1], base=paths[0], out=tmp_path / name, method=name, **asked).out
        for tensor, value in load_file(folder / "model.safetensors").items():
            assert merged[tensor].dtype == dtype and torch.equal(merged[tensor], value), (name, tensor)


def test_a_rule_is_a_function_and_inputs_stay_as_they_are():
    base, others = states(3)
    kept = {name: value.clone() for name, value in base.items()}
    merged = gtrturbo.merge_tensors(base, others, lambda task_vectors, weights: task_vectors.median(dim=0).values)
    for name, value in base.items():
        moved = np.median(np.stack([other[name].double() - value.double() for other in others]), axis=0)
        assert np.allclose(merged[name], value.double() + moved, atol=1e-6) and torch.equal(value, kept[name])
    by_record = gtrturbo.merge_tensors(
        base, others, MergeRule(lambda task_vectors, weights: task_vectors[0], trims=True), density=1
    )
    assert all(torch.allclose(by_record[name], others[0][name]) for name in base)


def test_whole_weights_need_no_base_and_integers_are_the_bases():
    _, others = states(2)
    for each in others:
        each["step"] = torch.tensor([7])
    merged = gtrturbo.merge_tensors(None, others, "linear", weights=[1, 3])
    expected = 0.25 * others[0]["a.weight"].double() + 0.75 * others[1]["a.weight"].double()
    assert torch.allclose(merged["a.weight"].double(), expected, atol=1e-7) and merged["step"].tolist() == [7]
    with pytest.raises(GtrTurboError, match="ties needs a base"):
        gtrturbo.merge_tensors(None, others)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda other: other.pop("scalar"), "checkpoint 1 has other tensors than the base .first: scalar"),
        (lambda other: other.update(scalar=torch.zeros(2)), "scalar of checkpoint 1 has shape"),
        (lambda other: other.update({"norm.weight": torch.full((40,), float("nan"))}), "norm.weight in .* holds a NaN"),
        (lambda other: other.update({"norm.weight": torch.zeros(40, dtype=torch.int32)}), "of type torch.int32"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, said):
    base, (other,) = states(1)
    change(other)
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge_tensors(base, [other])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.to("meta"), "is on the meta device"),
        (lambda value: value.to_sparse(), "is torch.sparse_coo"),
        (lambda value: value.to_sparse_csr(), "is torch.sparse_csr"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is quantised"),
        (lambda value: torch.nested.as_nested_tensor([value[0], value[1]]), "is nested"),
        (lambda value: value.tolist(), "is of type list, no plain tensor"),
        (lambda value: None, "is of type NoneType"),
        (lambda value: value.numpy().astype(object), "is an array of object"),
        (lambda value: value.to(torch.float8_e4m3fn), "is of type torch.float8_e4m3fn"),
    ],
)
@pytest.mark.parametrize("of_base", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_what_holds_no_plain_numbers_is_refused_by_name(change, said, of_base):
    base, (other,) = states(1)
    changed = base if of_base else other
    changed["a.weight"] = change(changed["a.weight"])
    with pytest.raises(GtrTurboError, match=f"a.weight of (the base|checkpoint 1) .*{said}|in the base torch.float8_e4m3fn"):
        gtrturbo.merge_tensors(base, [other])


@pytest.mark.parametrize(
    ("checkpoints", "said"),
    [
        (lambda other: other, "checkpoints are of type dict, not a list"),
        (lambda other: {"one": other}, "checkpoints are of type dict, not a list"),
        (lambda other: torch.nn.Linear(2, 2), "checkpoints are of type Linear"),
        (lambda other: "runs/one", "checkpoints are of type str"),
        (lambda other: [torch.nn.Linear(2, 2)], "checkpoint 1 is of type Linear, not a dictionary"),
        (lambda other: [other, None], "checkpoint 2 is of type NoneType"),
        (lambda other: ["runs/one"], "checkpoint 1 is of type str"),
        (lambda other: [dict(enumerate(other.values()))], "checkpoint 1 has a tensor called 0"),
        (lambda other: iter([]), "there is nothing to merge: no checkpoints"),
    ],
)
def test_what_is_no_list_of_state_dicts_is_refused(checkpoints, said):
    base, (other,) = states(1)
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge_tensors(base, checkpoints(other))


def test_arrays_of_numpy_and_lists_that_are_made_on_the_way_give_what_tensors_in_a_list_give():
    base, others = states(2)
    expected = gtrturbo.merge_tensors(base, others, weights=[1, 2], density=[0.5, 0.75])
    arrays = [{name: np.array(value.numpy()) for name, value in each.items()} for each in (base, *others)]
    for each in arrays:
        each["a.weight"].flags.writeable = False
    given = gtrturbo.merge_tensors(arrays[0], iter(arrays[1:]), weights=np.array([1, 2]), density=torch.tensor([0.5, 0.75]))
    for name, value in expected.items():
        assert torch.equal(given[name], value) and given[name].shape == value.shape, name


@pytest.mark.parametrize("state", [{}, {"step": torch.arange(3)}, {"a": torch.zeros(0, 3)}])
def test_where_nothing_is_a_number_to_merge_that_is_said(state):
    with pytest.raises(GtrTurboError, match="there is nothing to merge: the base holds no floating-point numbers"):
        gtrturbo.merge_tensors(state, [dict(state)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma": "x"}, "gamma must be a number, got 'x'"),
        ({"gamma": 2}, "gamma must be in"),
        ({"trim": "all"}, "trim must be one of tensor, global, got all"),
        ({"scale": float("nan")}, "scale must be in"),
        ({"scale": "much"}, "scale must be a number"),
        ({"normalize": "maybe"}, "normalize must be true or false"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"threads": -1}, "threads must be in"),
        ({"density": None}, "density must be in .0, 1., got None"),
        ({"weights": [None]}, "weights must be sma"),
        ({"parameters": ["count=true"]}, "parameters are of type list"),
        ({"parameters": {"count": "x"}}, "parameter count must be"),
    ],
)
def test_settings_in_memory_are_of_the_commands_kinds_and_ranges(settings, said):
    base, others = states(1)
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge_tensors(base, others, **settings)


def test_results_out_of_range_are_refused_or_saturated_in_memory():
    base, other = {"a": torch.full((3,), 6e4).half()}, {"a": torch.full((3,), 6.5e4).half()}
    with pytest.raises(GtrTurboError, match="3 of 3 entries"):
        gtrturbo.merge_tensors(base, [other], "task-arithmetic", scale=5)
    merged = gtrturbo.merge_tensors(base, [other], "task-arithmetic", scale=5, saturate=True)
    assert merged["a"].tolist() == [65504.0] * 3  # The largest number of float16.


@pytest.mark.parametrize(
    ("place", "said"),
    [("file/out", "file is no folder"), ("n" * 300, "is too long for its disk"), ("/proc/out", "nothing can be made in /proc")],
)
def test_a_place_where_nothing_can_be_made_is_told_in_the_commands_sentence(tmp_path, place, said):
    base, others = states(1)
    (tmp_path / "file").write_text("")
    folders = [save(tmp_path / name, tensors) for name, tensors in (("base", base), ("one", others[0]))]
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge(folders[1:], base=folders[0], out=tmp_path / place)


def test_tensors_of_any_layout_in_memory_are_merged():
    """Transposed, channels last, expanded, and as checkpoints of another layout than the base."""
    rng = torch.Generator().manual_seed(0)
    plain = {
        "t": torch.randn(3, 4, generator=rng),
        "c": torch.randn(2, 3, 4, 5, generator=rng),
        "e": torch.randn(1, 4, generator=rng),
    }
    other = {name: value + 1 for name, value in plain.items()}
    odd = {"t": plain["t"].t().contiguous().t(), "c": plain["c"].to(memory_format=torch.channels_last), "e": plain["e"]}
    other["e"], odd["e"], plain["e"] = other["e"].expand(6, 4), odd["e"].expand(6, 4), plain["e"].expand(6, 4).clone()
    assert not any(value.is_contiguous() for value in odd.values())
    expected = gtrturbo.merge_tensors(plain, [other], "task-arithmetic", scale=0.5)
    for base, checkpoint in ((odd, other), (plain, {name: value.clone() for name, value in other.items()})):
        merged = gtrturbo.merge_tensors(base, [checkpoint], "task-arithmetic", scale=0.5)
        assert all(torch.equal(merged[name], value) for name, value in expected.items())
    assert torch.allclose(expected["t"], plain["t"] + 0.5)


def test_arrays_whose_mask_or_order_of_bytes_would_be_lost_are_refused():
    base = {"w": np.zeros(3, np.float32)}
    with pytest.raises(GtrTurboError, match=r"masked array(.|\n)*filled"):
        gtrturbo.merge_tensors(base, [{"w": np.ma.masked_array(np.ones(3, np.float32), [0, 1, 0])}], "linear")
    with pytest.raises(GtrTurboError, match=r"astype"):
        gtrturbo.merge_tensors(base, [{"w": np.ones(3, ">f4")}], "linear")


def test_a_checkpoint_of_weight_0_has_no_vote():
    base, moves = {"w": torch.zeros(1)}, (1.0, -1.0, -2.0)
    checkpoints = [{"w": torch.tensor([move])} for move in moves]
    for more, weights in (([], [1, 1, 0]), ([{"w": torch.zeros(1)}], [1, 1, 0, -1])):
        for rule in ("ties", "breadcrumbs-ties"):
            asked = {"weights": weights, "density": 1, "parameters": {"count": True}} | ({"gamma": 0} if rule != "ties" else {})
            assert gtrturbo.merge_tensors(base, checkpoints + more, rule, **asked)["w"].tolist() == [1.0]


ODD_PARAMETERS = [
    ("dare-linear", {"rescale": (False, False)}, "rescale of dare-linear must be true or false"),
    ("dare-ties", {"rescale": 0}, "must be true or false"),
    ("multislerp", {"normalize_weights": (False, False)}, "must be true or false"),
    ("multislerp", {"eps": (0.1, 0.2)}, "eps of multislerp must be a number of at least 0"),
    ("karcher", {"max_iter": 1.5}, "max_iter of karcher must be a whole number of at least 1"),
    ("karcher", {"max_iter": 0}, "at least 1"),
    ("karcher", {"tol": -1}, "tol of karcher must be a number of at least 0"),
    ("della", {"epsilon": -1}, "a number of at least 0, or such a number for each checkpoint"),
    ("della", {"epsilon": (0.1, 0.2, 0.3)}, "epsilon has 3 numbers for 2 checkpoints"),
    ("ram", {"epsilon": True}, "a number of at least 0"),
    ("ram-plus", {"alpha": (0.1, 0.2)}, "a number of at least 0"),
    ("slerp", {"t": 0.3}, "no parameter t(.|\n)*--weights"),
]


@pytest.mark.parametrize(("rule", "parameters", "said"), ODD_PARAMETERS, ids=str)
def test_parameters_of_another_kind_or_range_are_refused(rule, parameters, said):
    base, others = states(2)
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge_tensors(base, others, rule, parameters=parameters)


def test_nearswap_goes_no_step_backwards():
    base, others = states(1)
    with pytest.raises(GtrTurboError, match="t of nearswap must be a number of at least 0"):
        gtrturbo.merge_tensors(base, others, "nearswap", parameters={"t": -1})


def test_a_number_is_no_list_of_checkpoints(tmp_path):
    with pytest.raises(GtrTurboError):
        gtrturbo.merge(5, base=tmp_path, out=tmp_path / "out")


def test_an_old_name_of_an_option_is_answered_with_the_new_one(tmp_path):
    with pytest.raises(GtrTurboError, match="count=true"):
        gtrturbo.merge([], base=tmp_path, out=tmp_path / "out", sign="count")
    with pytest.raises(GtrTurboError, match="on-invalid-reply"):
        gtrturbo.rollout(out=tmp_path / "out", task="numberline", expert=True, illegal="noop")


def test_options_by_name_are_the_same_in_any_order(tmp_path):
    asked = {"task": "numberline", "expert": True, "episodes": 1}
    made = gtrturbo.rollout(out=tmp_path / "a", env={"horizon": 3, "image": "tiny"}, **asked)
    assert gtrturbo.rollout(out=tmp_path / "a", env={"image": "tiny", "horizon": 3}, **asked).id == made.id


def test_turns_that_are_none_are_named_for_what_they_are(tmp_path):
    with pytest.raises(GtrTurboError, match="does not exist"):
        gtrturbo.load_turns(tmp_path / "gone")
    made = gtrturbo.init(out=tmp_path / "init")
    with pytest.raises(GtrTurboError, match=r"holds checkpoint .*, not turns"):
        gtrturbo.load_turns(made)


def test_tensors_with_the_negative_bit_are_merged():
    """The imaginary part of a conjugate is a view whose numbers lie in memory with the other sign."""
    for numbers, expected in ([1 + 2j], [-1.0]), ([1 + 2j, 3 - 4j], [-1.0, 2.0]):
        negative = torch.tensor(numbers, dtype=torch.complex64).conj().imag
        assert negative.is_neg()
        found = gtrturbo.merge_tensors({"w": negative}, [{"w": torch.zeros(len(numbers))}, {"w": negative}], "linear")
        assert found["w"].tolist() == expected
