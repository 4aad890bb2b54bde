"""What is damaged and who reads it, as a table: each kind of artifact, what a merge keeps, runs, and resume logs."""

from dataclasses import dataclass

from campaign.prepared import PLAY, SMALL, UPDATE

ARTIFACT = "artifact"
PLAY_ONCE = PLAY.replace("--episodes 3", "--episodes 1")
LOOKS = {"show": "show artifact", "check": "show artifact --check"}
MODEL = {
    "sft": "sft {expert} --checkpoint artifact --out out --steps 1 --batch-size 2",
    "rollout": f"rollout --checkpoint artifact --out out {PLAY_ONCE}",
    "eval": f"eval --checkpoint artifact --out out {PLAY_ONCE}",
    "distill": "distill --rollouts {turns} --teacher artifact --out out",
    "thoughts": "distill --rollouts {turns} --teacher artifact --mode thoughts --out out --max-new-tokens 40",
    "init": "init --model artifact --out out --lora-rank 2",
}
TURNS = {
    "distill": "distill --rollouts artifact --teacher {init} --out out",
    "expert": "distill --rollouts artifact --expert --mode thoughts --out out",
    "sft": "sft artifact --checkpoint {warm} --out out --steps 2 --batch-size 2",
    "show turn": "show artifact --turn 0",
    "show episode": "show artifact --episode 1",
}
SCORED = f"ppo-step --checkpoint {{warm}} --rollouts {{turns}} --scores artifact --out out {UPDATE}"
RUN = f"run --out artifact --method turbo-kl --start {{warm}} --iterations 2 {SMALL}"


@dataclass(frozen=True)
class Subject:
    """A prepared folder whose files are damaged.

    Attributes:
        source: name of the prepared folder.
        cases: how many are drawn of all mutations of all files.
        readers: commands, by name; the folder stands at `place` beside their output.
        beside: other prepared folders that are copied beside it, under their names.
        without: parts of the folder that are removed first, so that there is work left.
        files: how many files are damaged, drawn; all if None.
    """

    source: str
    cases: int
    readers: dict[str, str]
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    files: int | None = None
    place: str = ARTIFACT


SUBJECTS = {
    "full": Subject(
        "warm", 300, MODEL | LOOKS | {
            "ppo-step": f"ppo-step --checkpoint artifact --rollouts {{turns}} --out out {UPDATE}",
            "merge": "merge artifact {ppo} --base {init} --out out",
            "merge base": "merge {ppo} --base artifact --out out",
        },
    ),
    "trained": Subject(
        "ppo", 260, LOOKS | {
            "ppo-step": f"ppo-step --checkpoint artifact --rollouts {{ppo_turns}} --out out {UPDATE}",
            "rollout": MODEL["rollout"],
            "merge": "merge {warm} artifact --base {init} --out out",
        },
    ),
    "adapter": Subject(
        "adapter_ppo", 240, LOOKS | {
            "rollout": MODEL["rollout"],
            "sft": MODEL["sft"],
            "merge": "merge adapter2 artifact --out out",
            "merge rank": "merge adapter2 artifact --out out --rank 2",
            "distill": MODEL["distill"],
        },
        beside=("warm", "adapter2"),
    ),
    "turns": Subject(
        "turns", 260, TURNS | LOOKS | {"ppo-step": f"ppo-step --checkpoint {{warm}} --rollouts artifact --out out {UPDATE}"}
    ),
    "expert": Subject("expert", 100, {"sft": TURNS["sft"], "show turn": TURNS["show turn"]} | LOOKS),
    "scores": Subject(
        "scores", 180, LOOKS | {
            "ppo-step": SCORED,
            "ppo-step full": f"{SCORED} --kl-estimator full",
            "show turn": "show {turns} --turn 0 --scores artifact",
        },
    ),
    "demos": Subject(
        "demos", 150, LOOKS | {
            "sft": "sft artifact --checkpoint {warm} --out out --steps 2 --batch-size 2",
            "ppo-step": f"ppo-step --checkpoint {{warm}} --rollouts {{turns}} --demos artifact --out out {UPDATE}",
        },
    ),
    "evaluation": Subject("evaluation", 100, LOOKS | {"show turn": TURNS["show turn"]}),
    "merged": Subject("merged", 100, LOOKS | {"rollout": MODEL["rollout"], "distill": MODEL["distill"]}),
    "state": Subject("state", 120, {"merge": "merge {warm} {ppo} --base {init} --out out --state artifact"}),
    "cache": Subject("cache", 100, {"merge": "merge {warm} {ppo} --base {init} --out out --cache artifact"}, files=2),
    "run": Subject(
        "run", 150, {"run": RUN, "show": LOOKS["show"], "compare": "compare artifact {other_run} --out out",
        "report": "report artifact --out out.html"},
        files=16,
    ),
    "unfinished run": Subject(
        "run", 100, {"run": RUN}, without=("checkpoints/0002", "evals/0002", "guidance/0001", "teachers/0001"), files=12
    ),
    "rollout log": Subject(
        "rollout_log", 110, {"rollout": f"rollout --out out --checkpoint {{warm}} {PLAY} --num-envs 1 --temperature 0.5"},
        place=".out.journal",
    ),
    "distill log": Subject(
        "distill_log", 100, {"distill": "distill --out out --rollouts {turns} --expert --mode thoughts"}, place=".out.journal"
    ),
    "eval log": Subject(
        "eval_log", 100, {"eval": f"eval --out out --checkpoint {{warm}} {PLAY} --num-envs 1"}, place=".out.journal"
    ),
}  # fmt: skip
