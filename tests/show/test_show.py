"""show: what is printed of each kind of artifact, with the numbers worked out by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gtrturbo.config import ShowConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Played, Response, State
from gtrturbo.play.recording import write_turns
from gtrturbo.show.artifact import show
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.names import DEMOS, SCORES, TOKENS, TURNS
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.pruned import prune
from gtrturbo.store.records import Demo, Turn, chat, write_rows
from gtrturbo.store.tensors import TurnTokens, load_turn_tokens, save_scores, save_turn_tokens
from gtrturbo.store.writing import writing
from gtrturbo.tasks.reply import read_reply

REPLY = '{"thoughts": "up", "action": "+"}'
ACTION_START = REPLY.index('"action"')
SPANS = [(0, 13), (13, 19), (19, len(REPLY)), (len(REPLY), len(REPLY))]
GARBLED = "go [bold]up\x1b[2J"
SUCCESS = {"episodes": 4, "turns": 3, "success_rate": 0.75, "success_low": 0.3006, "success_high": 0.9544}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def colours(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)


def turn(episode: int, number: int, reply: str = REPLY, **changes) -> Turn:
    legal = reply == REPLY
    plain = Turn(
        episode=episode,
        turn=number,
        seed=11,
        messages=chat("Where is the dot?", reply),
        images=["images/dot.png"],
        action="+" if legal else None,
        executed="+",
        legal=legal,
        perception_correct=True if legal else None,
        reward=0.0,
        reward_terms={"environment": 0.0},
        terminated=False,
        truncated=False,
        won=False,
        info={"Current": 3},
    )
    return replace(plain, **changes)


THREE_TURNS = [
    turn(5, 0, reward=-0.5, reward_terms={"environment": -1.0, "bonus": 0.5}),
    turn(5, 1, reward=2.0, reward_terms={"environment": 2.0}, terminated=True, won=True),
    turn(6, 0, GARBLED, executed="-", truncated=True),
]


def make_turns(out: Path, turns=THREE_TURNS, *, kind: str = "turns", metrics=SUCCESS) -> Path:
    """Write turns whose replies were sampled in four tokens each, the first two thought; the garbled one is all thought."""
    made = Provenance(stage="rollout", kind=kind, config={"first_episode": 5}, inputs={"checkpoint": "a" * 64})
    with writing(out, made) as draft:
        (draft.folder / "images").mkdir()
        (draft.folder / "images/dot.png").write_bytes(b"x" * 1000)
        (draft.folder / "images/box.png").write_bytes(b"x" * 500)
        write_rows(draft.folder / TURNS, turns)
        thought = [np.array([True, True, not t.legal, not t.legal]) for t in turns]
        tokens = TurnTokens(
            prompt_ids=[np.array([1, 2])] * len(turns),
            response_ids=[np.array([3, 4, 5, 6])] * len(turns),
            response_spans=[np.array(SPANS if t.legal else [(0, 3), (3, 9), (9, 15), (15, 15)]) for t in turns],
            thought_mask=thought,
            action_mask=[~mask for mask in thought],
            sample_logprobs=[np.array([-1.0, -1.5, -0.25, -0.125])] * len(turns),
        )
        save_turn_tokens(draft.folder / TOKENS, tokens)
        draft.metrics = metrics
    return out


def make_scores(out: Path, turns: Path) -> Path:
    made = Provenance(stage="distill", kind="scores", config={}, inputs={"rollouts": artifact_id(turns)})
    with writing(out, made) as draft:
        save_scores(draft.folder / SCORES, [np.array([-3.0, -0.5, -0.25, -4.125])] * 3)
        draft.metrics = {"turns": 3, "tokens": 12, "thought_kl_k1": 0.875}
    return out


def make_checkpoint(out: Path, *, inputs=None, stage: str = "ppo-step", adapter: bool = False) -> Path:
    with writing(out, Provenance(stage=stage, kind="checkpoint", config={"seed": 1}, inputs=inputs or {})) as draft:
        layers = {f"layers.{i}.w": np.zeros((2, 3), np.float32) for i in range(2)}
        save_file(layers | {"norm": np.zeros(4, np.float16)}, draft.folder / f"{'adapter_' * adapter}model.safetensors")
        save_file({"updates": np.array(7), "exp_avg.norm": np.zeros(4)}, draft.folder / "optimizer.safetensors")
        if adapter:
            config = {"r": 8, "lora_alpha": 16, "base_model_name_or_path": "../init/base"}
            (draft.folder / "adapter_config.json").write_text(json.dumps(config))
        draft.metrics = {"clip_fraction": 0.123456, "turns": 1234567}
    return out


def printed(capsys, artifact: Path, **options) -> str:
    show(ShowConfig(artifact=artifact, **options))
    return capsys.readouterr().out


def lines(text: str) -> list[str]:
    """Split into lines with every run of spaces made one."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_importing_show_imports_no_torch():
    heavy = "('torch', 'transformers', 'gymnasium')"
    code = f"import sys, gtrturbo.show.artifact; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_manifest_shows_id_inputs_metrics_and_sizes(tmp_path, capsys):
    path = make_checkpoint(tmp_path / "c", inputs={"checkpoint": "1" * 64, "data": ["2" * 64, "3" * 64]})
    out = lines(printed(capsys, path))
    full = artifact_id(path)
    for line in (
        "kind checkpoint",
        "stage ppo-step",
        f"id {full[:12]} {full}",
        "seed 1",
        "checkpoint 111111",
        "data 222222 333333",
        "clip_fraction 0.1235",
        "turns 1234567",
    ):
        assert line in out
    assert f"optimizer.safetensors {(path / 'optimizer.safetensors').stat().st_size} bytes" in out
    assert any(line.startswith("seconds ") for line in out)


def test_full_checkpoint_shows_its_tensors_and_updates(tmp_path, capsys):
    out = lines(printed(capsys, make_checkpoint(tmp_path / "c")))
    assert "weights full, 3 tensors, 16 parameters" in out  # 2·(2·3) + 4
    assert "updates 7" in out
    assert "layers.*.w 2 × [2, 3] F32" in out
    assert "norm 1 × [4] F16" in out


def test_lora_checkpoint_shows_rank_alpha_and_base(tmp_path, capsys):
    out = lines(printed(capsys, make_checkpoint(tmp_path / "c", adapter=True)))
    assert "weights LoRA (rank 8, alpha 16, base ../init/base), 3 tensors, 16 parameters" in out


def test_model_folder_without_manifest_shows_its_tensors(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": np.zeros((2, 5), np.float32)}, tmp_path / "model.safetensors")
    assert "weights full, 1 tensors, 10 parameters" in lines(printed(capsys, tmp_path))


def test_turns_show_success_and_how_to_see_an_episode(tmp_path, capsys):
    path = make_turns(tmp_path / "two words")
    out = lines(printed(capsys, path))
    assert "success 75.0 % of 4 episodes won (95 % interval 30.1-95.4 %)" in out
    assert f"episodes 5-8, see one with: gtrturbo show '{path}' --episode 5" in out
    assert "images/ 1.5 kB in 2 files" in out


def test_evaluation_shows_success_beside_chance(tmp_path, capsys):
    levels = {"chance_random": 0.2, "chance_constant": 0.25}
    path = make_turns(tmp_path / "e", kind="evaluation", metrics=SUCCESS | levels)
    assert "by chance 20.0 % with random actions, 25.0 % with always the same one" in lines(printed(capsys, path))


def test_evaluation_without_chance_says_so(tmp_path, capsys):
    path = make_turns(tmp_path / "e", kind="evaluation", metrics=SUCCESS)
    assert "by chance not measured" in lines(printed(capsys, path))


def test_scores_show_turns_and_mean(tmp_path, capsys):
    path = make_scores(tmp_path / "s", make_turns(tmp_path / "t"))
    # (−3 − 0.5 − 0.25 − 4.125) / 4 = −1.96875
    assert "scores 3 turns, 12 tokens, mean log-prob of the teacher -1.969 nats" in lines(printed(capsys, path))


def make_demos(out: Path) -> Path:
    with writing(out, Provenance(stage="distill", kind="demos", config={"[red]": 1}, inputs={})) as draft:
        demos = [Demo(chat("Where?", word), ["images/a.png"], [(0, 2)]) for word in ("first", "second")]
        write_rows(draft.folder / DEMOS, demos)
        draft.metrics = {"demos": 2, "turns": 3}
    return out


def test_demos_show_the_first_demo(tmp_path, capsys):
    out = lines(printed(capsys, make_demos(tmp_path / "d")))
    assert "demos 2 of 3 turns" in out
    assert f"picture {tmp_path}/d/images/a.png" in out
    assert "reply first" in out
    assert "reply second" not in out


def test_part_of_a_demo_without_loss_has_the_colour_of_an_action(tmp_path, capsys, colours):
    assert "\x1b[1;35mfi\x1b[0m\x1b[36mrst" in printed(capsys, make_demos(tmp_path / "d"))


def test_names_in_brackets_are_printed_as_they_are(tmp_path, capsys, monkeypatch):
    path = make_demos(tmp_path / "d")
    assert "[red]" in printed(capsys, path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "[red]" in printed(capsys, path)


def test_episode_shows_each_turn_and_the_return(tmp_path, capsys):
    path = make_turns(tmp_path / "t")
    out = lines(printed(capsys, path, episode=5))
    assert out == [
        f"episode 5 of {path}, seed 11",
        "",
        "turn 0 (row 0)",
        f"picture {path}/images/dot.png",
        "prompt Where is the dot?",
        "state Current 3",
        f"reply {REPLY}",
        "executed +",
        "legal yes",
        "reads truly yes",
        "reward -0.5 = environment -1 + bonus 0.5",
        "",
        "turn 1 (row 1)",
        f"picture {path}/images/dot.png",
        "prompt as before",
        "state Current 3",
        f"reply {REPLY}",
        "executed +",
        "legal yes",
        "reads truly yes",
        "reward 2 = environment 2",
        "ends terminated, won",
        "",
        "return 1.5 in 2 turns: terminated, won",
    ]


def test_turn_shows_that_row_only(tmp_path, capsys):
    out = lines(printed(capsys, make_turns(tmp_path / "t"), turn=2))
    assert [line for line in out if line.startswith("turn ")] == ["turn 0 (row 2)"]
    assert "ends truncated, not won" in out
    assert "reads truly unknown: the reply did not parse" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"executed": "-"}, "the reply did not parse: - was executed, drawn at random"),
        ({"executed": None}, "the reply did not parse: nothing was executed"),
        ({"executed": None, "terminated": True}, "the reply did not parse: nothing was executed, the episode ended"),
    ],
)
def test_reply_that_did_not_parse_says_what_was_executed(tmp_path, capsys, changes, said):
    turns = [turn(5, 0, GARBLED, **changes), *([] if "terminated" in changes else [turn(5, 1, terminated=True)])]
    path = make_turns(tmp_path / "t", turns)
    assert f"executed {said}" in lines(printed(capsys, path, turn=0))


def test_thought_and_action_have_their_colours(tmp_path, capsys, colours):
    out = printed(capsys, make_turns(tmp_path / "t"), turn=0)
    thought, action = REPLY[:ACTION_START], REPLY[ACTION_START:]
    assert f"\x1b[36m{thought}\x1b[0m\x1b[1;35m{action}\x1b[0m" in out  # cyan, bold magenta
    assert f"file://{tmp_path}/t/images/dot.png" in out


def test_escape_sequences_of_a_reply_do_not_reach_the_terminal(tmp_path, capsys):
    out = printed(capsys, make_turns(tmp_path / "t"), turn=2)
    assert "go [bold]up␛[2J" in out
    assert "\x1b" not in out


def test_scores_in_a_pipe_are_a_table_of_tokens(tmp_path, capsys):
    turns = make_turns(tmp_path / "t")
    out = lines(printed(capsys, turns, turn=0, scores=make_scores(tmp_path / "s", turns)))
    assert r'"{\"thoughts\": " thought -1.000 -3.000 +2.000' in out
    assert r'"\"up\", " thought -1.500 -0.500 -1.000' in out
    assert r'"\"action\": \"+\"}" action -0.250 -0.250 +0.000' in out
    assert '"" action -0.125 -4.125 +4.000' in out
    # Thought tokens: (2 − 1) / 2, and (2 + 0) / 2 where negative ones count as 0.
    assert "thought k1 mean +0.5, clipped at 0 1 nats per token over 2 tokens" in out


def test_scores_colour_thought_tokens_by_k1(tmp_path, capsys, colours):
    turns = make_turns(tmp_path / "t")
    out = printed(capsys, turns, turn=0, scores=make_scores(tmp_path / "s", turns))
    # +2 nats is full red; −1 is half way from (88, 88, 88) to (20, 80, 230).
    assert '\x1b[38;2;255;255;255;48;2;200;20;20m{"thoughts": \x1b[0m' in out
    assert '\x1b[38;2;255;255;255;48;2;54;84;159m"up", \x1b[0m' in out
    assert (
        '\x1b[4m"action": "+"}\x1b[0m\x1b[4m¶\x1b[0m' in out
    )  # underlined, though the teacher differs by 4 nats on the end of turn
    assert "k1 in nats per token" in out


def test_end_of_a_garbled_reply_is_coloured_too(tmp_path, capsys, colours):
    turns = make_turns(tmp_path / "t")
    out = printed(capsys, turns, turn=2, scores=make_scores(tmp_path / "s", turns))
    assert "48;2;200;20;20m¶\x1b[0m" in out  # +4 nats
    assert "mean +1.25, clipped at 0 1.5 nats per token over 4 tokens" in out  # (2 − 1 + 0 + 4) / 4, (2 + 4) / 4


def test_scores_without_colours_on_a_terminal_are_a_table(tmp_path, capsys, colours, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    turns = make_turns(tmp_path / "t")
    assert "+2.000" in printed(capsys, turns, turn=0, scores=make_scores(tmp_path / "s", turns))


def test_lines_in_a_pipe_are_neither_wrapped_nor_padded(tmp_path, capsys):
    question = "far " * 100 + "away?"
    out = printed(capsys, make_turns(tmp_path / "t", [turn(5, 0, messages=chat(question, REPLY), terminated=True)]), turn=0)
    assert question in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_check_of_a_whole_artifact_is_ok(tmp_path, capsys):
    path = make_turns(tmp_path / "t")
    out = printed(capsys, path, check=True).splitlines()
    assert out[-1] == f"ok: 4 files match, id {artifact_id(path)[:12]}"


def test_check_names_changed_missing_and_unknown_files(tmp_path):
    path = make_turns(tmp_path / "t")
    content = bytearray((path / TOKENS).read_bytes())
    content[-1] ^= 1
    (path / TOKENS).write_bytes(content)
    (path / "images/box.png").unlink()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(GtrTurboError) as error:
        show(ShowConfig(artifact=path, check=True))
    damage = "changed tokens.safetensors, missing images/box.png, not in the manifest notes.txt"
    assert error.value.what == f"{path} is damaged: {damage}."


def test_missing_file_shows_in_the_list(tmp_path, capsys):
    path = make_turns(tmp_path / "t")
    (path / TURNS).unlink()
    with pytest.raises(GtrTurboError, match=r"t is damaged: missing turns\.jsonl\."):
        show(ShowConfig(artifact=path))
    assert "turns.jsonl missing" in lines(capsys.readouterr().out)


@pytest.mark.parametrize("options", [{}, {"episode": 5}, {"turn": 0}])
def test_pictures_and_tokens_that_are_gone_are_told_beside_what_is_left(tmp_path, capsys, options):
    path = make_turns(tmp_path / "t")
    for name in (TOKENS, "images/dot.png"):
        (path / name).unlink()
    with pytest.raises(GtrTurboError, match=rf"t is damaged: missing images/dot\.png {TOKENS}\."):
        show(ShowConfig(artifact=path, **options))
    assert capsys.readouterr().out


def test_a_checkpoint_without_its_weights_is_no_model_of_no_parameters(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "init/model.safetensors").unlink()
    with pytest.raises(GtrTurboError, match=r"init is damaged: missing model\.safetensors\."):
        show(ShowConfig(artifact=run / "init"))
    out = lines(capsys.readouterr().out)
    assert "weights missing model.safetensors" in out and not any("0 parameters" in line for line in out)
    assert any(line.endswith(", missing model.safetensors") for line in lines(printed(capsys, run)))


def test_pruned_weights_are_called_pruned_and_not_missing(tmp_path, capsys):
    path = make_checkpoint(tmp_path / "c", adapter=True)
    prune(path, ["adapter_model.safetensors"], remake="gtrturbo merge --out 'two words' --overwrite")
    out = lines(printed(capsys, path, check=True))
    assert "weights LoRA (rank 8, alpha 16, base ../init/base), pruned (adapter_model.safetensors)" in out
    assert "adapter_model.safetensors pruned" in out
    assert out[out.index("pruned files are made again with") + 1] == "gtrturbo merge --out 'two words' --overwrite"
    assert out[-1] == f"ok: 2 files match, 1 pruned, id {artifact_id(path)[:12]}"
    assert "missing" not in " ".join(out)


def test_a_pruned_optimizer_leaves_the_weights_to_be_shown(tmp_path, capsys):
    path = make_checkpoint(tmp_path / "c")
    prune(path, ["optimizer.safetensors"], remake="")
    out = lines(printed(capsys, path))
    assert "weights full, 3 tensors, 16 parameters" in out
    assert "optimizer.safetensors pruned" in out


def test_check_of_a_run_counts_pruned_files_apart(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    prune(run / "init", ["optimizer.safetensors"], remake="")
    prune(run / "checkpoints/0000", ["model.safetensors", "optimizer.safetensors"], remake="")
    out = lines(printed(capsys, run, check=True))
    assert out[-1] == "ok: 5 files of 3 artifacts match, 3 are pruned"  # 1 + 0 + 4
    told = [line.partition("clip_fraction 0.1235")[2] for line in out if line.startswith(("init ", "checkpoints/0000 "))]
    assert told == [", pruned model.safetensors optimizer.safetensors", ", pruned optimizer.safetensors"]


def test_check_finds_damage_beside_what_was_pruned(tmp_path):
    path = make_checkpoint(tmp_path / "c")
    prune(path, ["optimizer.safetensors"], remake="")
    (path / "model.safetensors").unlink()
    with pytest.raises(GtrTurboError, match=r"c is damaged: missing model\.safetensors\."):
        show(ShowConfig(artifact=path, check=True))


def make_run(run: Path) -> Path:
    make_checkpoint(run / "init", stage="init")
    make_checkpoint(run / "checkpoints/0000", inputs={"checkpoint": artifact_id(run / "init")})
    make_turns(run / "rollouts/0000")
    return run


def test_run_lists_its_artifacts(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "rollouts/.0001.partial").mkdir()
    (run / "rollouts/.0001.partial/stage.json").write_text("half")
    out = lines(printed(capsys, run))
    assert out[0] == f"{run}: 3 artifacts"
    assert [line for line in out if line[-1:].isdigit()] == [
        f"checkpoints/0000 checkpoint ppo-step {artifact_id(run / 'checkpoints/0000')[:12]} clip_fraction 0.1235",
        f"init checkpoint init {artifact_id(run / 'init')[:12]} clip_fraction 0.1235",
        f"rollouts/0000 turns rollout {artifact_id(run / 'rollouts/0000')[:12]} success_rate 0.75",
    ]


def test_check_of_a_run_counts_files_and_names_inputs_from_elsewhere(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    out = printed(capsys, run, check=True).splitlines()
    assert out[-2:] == [
        f"rollouts/0000: its checkpoint aaaaaa is not in {run}.",
        "ok: 8 files of 3 artifacts match",  # 2 + 2 + 4
    ]


def test_check_of_a_run_names_the_damaged_artifact(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "init/model.safetensors").write_bytes(b"")
    with pytest.raises(GtrTurboError, match=r"1 of 3 artifacts in .* are damaged\. init: changed model\.safetensors\."):
        show(ShowConfig(artifact=run, check=True))
    assert "checkpoints/0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "options", "what", "fix"),
    [
        ("none", {}, "there is no folder none.", "name the folder"),
        ("empty", {}, "empty has no stage.json, and no artifact lies below it.", "run it again with the same --out"),
        ("t", {"episode": 9}, "t has no episode 9.", "it holds 2 episodes: 5-6."),
        ("t", {"turn": 3}, "t has no turn 3.", "turns.jsonl has rows 0-2."),
        ("t", {"episode": 5, "turn": 0}, "--episode and --turn are both given.", "one of the two"),
        ("t", {"scores": Path("s")}, "--scores colours replies, but no episode is named.", "--episode E or --turn ROW"),
        ("c", {"episode": 0}, "c holds checkpoint (made by ppo-step): only turns and evaluations have episodes.", "rollout"),
        ("run", {"episode": 0}, "run is a run, and has no episodes itself.", "gtrturbo show run/rollouts/0000"),
    ],
)
def test_error_says_what_is_wrong_and_what_mends_it(tmp_path, monkeypatch, folder, options, what, fix):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make_turns(Path("t"))
    make_checkpoint(Path("c"))
    make_run(Path("run"))
    with pytest.raises(GtrTurboError) as error:
        show(ShowConfig(artifact=Path(folder), **options))
    assert error.value.what == what
    assert fix in error.value.fix


def test_scores_of_other_turns_are_refused(tmp_path):
    scores = make_scores(tmp_path / "s", make_turns(tmp_path / "t"))
    other = make_turns(tmp_path / "other", THREE_TURNS[:2])
    with pytest.raises(GtrTurboError) as error:
        show(ShowConfig(artifact=other, turn=0, scores=scores))
    made_for, given = artifact_id(tmp_path / "t")[:6], artifact_id(other)[:6]
    assert error.value.what == f"the scores in {scores} were made for turns {made_for}, but {other} is {given}."
    assert error.value.fix == f"run: gtrturbo distill --rollouts {other} --mode kl …"


def test_truncated_tokens_name_the_command_that_checks(tmp_path):
    turns = make_turns(tmp_path / "t")
    scores = make_scores(tmp_path / "s", turns)
    (turns / TOKENS).write_bytes((turns / TOKENS).read_bytes()[:-8])
    with pytest.raises(GtrTurboError, match=r"tokens\.safetensors cannot be read(.|\n)*--check"):
        show(ShowConfig(artifact=turns, turn=0, scores=scores))


def test_written_turns_keep_the_characters_of_each_token(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    spoken = Response(REPLY, np.array([1]), np.array([3, 4, 5, 6]), SPANS, np.zeros(4, np.float32))
    state = State(episode=5, turn=0, messages=chat("Where?"), images=[picture], info={})
    reply = read_reply(REPLY, required=("thoughts", "action"), actions=("+", "-"))
    write_turns(tmp_path, [[Played(state, spoken, reply, turn(5, 0), None)]])
    tokens = load_turn_tokens(tmp_path / TOKENS)
    assert tokens.response_spans[0].tolist() == [list(span) for span in SPANS]
    assert tokens.thought_mask[0].tolist() == [True, True, False, False]


@pytest.mark.parametrize("columns", ["0", "00", "-1", "x", ""])
def test_a_terminal_of_no_width_is_shown_what_another_is(tmp_path, columns):
    (tmp_path / "model").mkdir()
    words = [sys.executable, "-m", "gtrturbo", "show", str(tmp_path / "model")]
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text("{}")
    done = subprocess.run(words, env=os.environ | {"COLUMNS": columns}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "model.safetensors" in done.stdout, done
