"""Write docs/metrics.md, each number that a stage records, from the table below: `python -m docs.metrics`."""

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("metrics.md")
HEAD = """# Metrics

<!-- Written by `make docs` from docs/metrics.py; do not edit. -->

The numbers of an artifact stand in its `stage.json` under `metrics`; `gtrturbo show ARTIFACT` prints them. `ppo-step` also
writes a row per minibatch, and `sft` one per step, to `metrics.jsonl`: the tracker `jsonl`, which is always there. With `--log
tensorboard`, `wandb` or `trackio` a run sends them on as they arise.
Seconds, memory and host stand in `timing.json`, outside the artifact's id.
"""


@dataclass(frozen=True)
class Metric:
    """One recorded number.

    Attributes:
        stages: that record it, as their commands are called.
        meaning: formula and unit.
        healthy: what to expect of a run that goes well; empty where the number is plain bookkeeping.
    """

    stages: tuple[str, ...]
    meaning: str
    healthy: str = ""


PLAYED, LEARNED = ("rollout", "eval"), ("ppo-step",)
ASKED = (*PLAYED, "distill")
TAUGHT = ("distill",)
METRICS = {
    "episodes": Metric(PLAYED, "episodes that were finished"),
    "turns": Metric((*PLAYED, "distill", *LEARNED), "turns"),
    "success_rate": Metric(PLAYED, "episodes won / episodes", "above `chance_random` and `chance_constant`"),
    "success_low": Metric(PLAYED, "lower end of Wilson's 95 % interval of `success_rate`"),
    "success_high": Metric(PLAYED, "upper end of it"),
    "success_rate_KIND": Metric(PLAYED, "of a task whose episodes are of several kinds: won / episodes, of each kind apart"),
    "episodes_KIND": Metric(PLAYED, "episodes of that kind"),
    "positive_return_rate": Metric(
        PLAYED, "episodes with return > 0 / episodes: what the papers report as success", "beside `success_rate`"
    ),
    "return_mean": Metric(PLAYED, "mean over episodes of the undiscounted sum of the environment's rewards", "rising"),
    "length_mean": Metric(PLAYED, "turns per episode", "falling where a shorter way wins"),
    "illegal_rate": Metric((*PLAYED, *LEARNED), "replies that do not parse / replies", "near 0; 1 ends a run as collapsed"),
    "invalid_rate": Metric(PLAYED, "replies that are not even one JSON object / replies", "near 0"),
    "thought_accuracy": Metric(
        PLAYED, "turns whose reply states what the picture shows / turns", "not falling: success alone hides it"
    ),
    "thought_length": Metric(
        PLAYED, "characters of a thought, mean", "steady: it shrinks, or runs to the limit, where thoughts collapse"
    ),
    "self_bleu": Metric(
        PLAYED,
        "mean BLEU-4 of each thought against the others, on up to 32 different inputs ([Texygen](https://arxiv.org/abs/1802.01886))",
        "below 1: at 1 all thoughts are one template",
    ),
    "thought_entropy": Metric(
        PLAYED, "entropy estimate −log π of a sampled thought token at the sampling temperature, nats", "above 0"
    ),
    "thought_information": Metric(
        ("eval",),
        "nats that a thought tells about its input, by scoring thoughts of M inputs under each other's",
        "near its bound",
    ),
    "thought_information_bound": Metric(("eval",), "log M of these inputs, nats"),
    "chance_random": Metric(("eval",), "success of uniformly random legal actions on this task"),
    "chance_constant": Metric(("eval",), "success of the best single action, always given"),
    "chance_random_return": Metric(("eval",), "mean return of random actions"),
    "chance_constant_return": Metric(("eval",), "mean return of that constant action"),
    "chance_constant_action": Metric(("eval",), "which action that is"),
    "reward_mean": Metric(LEARNED, "environment's reward per turn, mean"),
    "format_reward_mean": Metric(
        LEARNED, "reward for the form of the reply per turn, mean", "0: negative where replies do not parse"
    ),
    "advantage_std": Metric(LEARNED, "standard deviation of the advantages of legal turns before normalisation", "above 0"),
    "explained_variance": Metric(
        LEARNED,
        "1 − Var(return − value) / Var(return), before the update",
        "rising from 0 towards 1; −0.13 … 0.93 in the quick start's run",
    ),
    "value_error": Metric(LEARNED, "root mean square of value − target, before the update", "falling"),
    "first_ratio_error": Metric(LEARNED, "largest abs(ratio − 1) before the first step", "0 up to rounding"),
    "sampler_trainer_gap_mean": Metric(
        LEARNED, "abs(sampler's − trainer's log-prob) per token, mean, nats", "rounding: 5e-7 in float32"
    ),
    "sampler_trainer_gap_max": Metric(LEARNED, "the largest of these, nats", "rounding: 2e-5 in float32"),
    "sampler_trainer_gap_warns_above": Metric(
        LEARNED, "of turns from a server: above this `sampler_trainer_gap_mean` it is told, nats per token"
    ),
    "sampler_trainer_gap_refuses_above": Metric(LEARNED, "of turns from a server: above this they are refused, nats per token"),
    "probe_tokens": Metric(ASKED, "tokens by which it was proved what a server serves"),
    "probe_tokens_left_out": Metric(
        ASKED, "with `--probe-turns`: recorded tokens of which the server told nothing that could be compared"
    ),
    "probe_gap_mean": Metric(
        ASKED, "mean distance of the server's log-probs of these from our own, nats per token", "below `probe_warns_above`"
    ),
    "probe_gap_max": Metric(ASKED, "largest of them, nats"),
    "probe_warns_above": Metric(ASKED, "above this mean it is told, by the type of the weights"),
    "probe_refuses_above": Metric(ASKED, "above this mean it is refused, by the type of the weights"),
    "probe_greedy_tokens": Metric(ASKED, "tokens that a server played at temperature 0, where that is what is asked for"),
    "probe_greedy_gap_max": Metric(
        ASKED, "most that one of them is less likely than the likeliest, nats", "0 but for ties by rounding"
    ),
    "probe_sampling_z": Metric(
        ASKED,
        "of the probe's tokens at the temperature that looks worst: Σ (log p + H) / √Σ Var, with entropy H",
        "0 ± 1 for samples; above where likely tokens are preferred",
    ),
    "probe_sampling_evidence": Metric(
        ASKED,
        "ln of how many times likelier they are at other temperatures, as the likeliest, or from a part of the distribution",
        "below 0, or little above; refused above 20, which samples reach with a probability of 2e-9",
    ),
    "probe_repeats_evidence": Metric(
        ASKED,
        "ln of how many times likelier the replies to one state, by other seeds, are where a reply is repeated than as samples",
        "below 0; refused above 20, which samples reach with a probability of 2e-9",
    ),
    "repeats_evidence": Metric(
        (*PLAYED, *LEARNED),
        "of all replies: ln of how many times likelier they are where some repeat one to the same prompt than as samples",
        "below 0, or little above; refused above 20, which samples reach with a probability of 2e-9",
    ),
    "repeat_rate": Metric(
        (*PLAYED, *LEARNED),
        "replies that were given to the same prompt before / replies to a prompt that was asked before",
        "rising as a policy grows sure; beside `repeats_evidence`",
    ),
    "probe_adapter_changes": Metric(ASKED, "mean change of these log-probs by the adapter, nats per token", "above the limits"),
    "probe_visual_changes": Metric(
        ASKED, "mean change of them by its layers on vision tower and projector, nats per token", "above the limits"
    ),
    "sampler_trainer_gap_kl": Metric(
        LEARNED,
        "mean of sampler's − trainer's log-prob per token, an estimate of KL(sampler ‖ trainer), nats",
        "0 up to rounding",
    ),
    "importance_truncated": Metric(
        LEARNED, "tokens whose weight min(p_trainer / p_sampler, 2) was cut / tokens", "0 where one model samples and trains"
    ),
    "effective_sample_size": Metric(LEARNED, "(Σ w)² / (n Σ w²) of the tokens' weights", "near 1"),
    "sampling_z": Metric(
        LEARNED,
        "of all tokens: Σ (log p + H) / √Σ Var, of log p by the trainer with entropy H",
        "0 ± 1 for samples; above where likely tokens are preferred",
    ),
    "sampling_evidence": Metric(
        LEARNED,
        "ln of how many times likelier they are at other temperatures, as the likeliest, or from a part of the distribution",
        "below 0, or little above; refused above 20, which samples reach with a probability of 2e-9",
    ),
    "policy_loss": Metric(LEARNED, "PPO's clipped surrogate, mean over turns"),
    "value_loss": Metric(LEARNED, "½ max(squared error, squared error of the clipped value), mean over turns", "falling"),
    "demo_loss": Metric(LEARNED, "−log π of the demos' thought tokens, mean, nats", "falling"),
    "kl_loss": Metric(LEARNED, "the KL of a minibatch where it is a loss, without β, nats per token", "falling"),
    "kl_mean": Metric(
        LEARNED, "the estimator that counts (by default max(0, k1)), mean over turns, nats", "small; 0 in the first iteration"
    ),
    "kl_k1_mean": Metric(LEARNED, "log π − log π_teacher of the tokens of `--kl-tokens`, mean, nats", "small; it may be below 0"),
    "thought_kl_k1": Metric(("distill",), "the same over the thought tokens that the teacher scored", "small; it may be below 0"),
    "ratio_min": Metric(
        LEARNED, "smallest π_new / π_old of a turn over all minibatches", "around 1; 0.0009 at the least in the quick start's run"
    ),
    "ratio_max": Metric(
        LEARNED,
        "largest of them; with the credits `token` and `bi-level` of tokens",
        "around 1; 8.6 at the most in the quick start's run",
    ),
    "clip_fraction": Metric(
        LEARNED,
        "turns without gradient / turns; with `token` and `bi-level` tokens / tokens",
        "well below 1; 0.05 … 0.31 in the quick start's run",
    ),
    "approx_kl": Metric(
        LEARNED, "mean of ratio − 1 − log ratio, nats per turn", "well below 1; 0.020 … 0.28 in the quick start's run"
    ),
    "grad_norm": Metric(LEARNED, "Euclidean norm of the gradient before clipping, mean over steps", "finite, steady"),
    "learning_rate": Metric(LEARNED, "of the last step"),
    "optimizer_steps": Metric(LEARNED, "steps that were taken before `--target-kl` ended the update"),
    "tokens": Metric(("distill",), "tokens that the teacher scored"),
    "demos": Metric(("distill",), "thoughts that can be imitated", "near `turns`"),
    "unparsed": Metric(("distill",), "replies of the teacher that do not parse, or name another action than is legal", "near 0"),
    "usable_share": Metric(
        TAUGHT, "turns of which the teacher said what can be read, if only that the student is right / turns", "near 1"
    ),
    "differing_share": Metric(TAUGHT, "demos that are other than the student's own reply / demos"),
    "right_share": Metric(
        TAUGHT,
        "demos that read the picture truly, and act as the task's expert, if there is one / demos; where the truth is known",
        "above the student's `thought_accuracy`",
    ),
    "teacher_calls": Metric(TAUGHT, "answers of a teacher that is asked in words"),
    "teacher_repairs": Metric(TAUGHT, "answers that could not be read, and were asked for once more", "near 0"),
    "teacher_repaired": Metric(TAUGHT, "those of them that could be read then", "near `teacher_repairs`"),
    "teacher_refused": Metric(TAUGHT, "turns about which it declined to answer", "0"),
    "teacher_truncated": Metric(TAUGHT, "answers that `--max-new-tokens` cut", "0"),
    "teacher_right": Metric(TAUGHT, "`--mode correct`: turns at which it said that the student is right"),
    "teacher_wrong": Metric(TAUGHT, "`--mode correct`: turns at which it corrected the student"),
    "teacher_unsolvable": Metric(TAUGHT, "`--mode correct`: turns at which it said that nothing can be won any more"),
    "teacher_verdict_agreement": Metric(
        TAUGHT,
        "`--mode correct`: verdicts that are those of the task's truth and expert / verdicts; where these are known",
        "near 1",
    ),
    "teacher_input_tokens": Metric(TAUGHT, "tokens that a server read, as it counts them"),
    "teacher_cached_tokens": Metric(TAUGHT, "those of them that it had cached"),
    "teacher_output_tokens": Metric(TAUGHT, "tokens that it wrote"),
    "examples": Metric(("sft",), "turns that are learned from"),
    "steps": Metric(("sft",), "steps that were taken: fewer than `--steps` where `--stop-loss` was reached"),
    "final_loss": Metric(("sft",), "running mean of −log π of the replies' tokens, nats", "falling"),
    "parameters": Metric(("init",), "parameters of the model"),
    "trainable_parameters": Metric(("init",), "those that a checkpoint trains: all, or the adapter's"),
    "checkpoints": Metric(("merge",), "checkpoints that were merged"),
    "delta_norm": Metric(("merge",), "‖ΔW‖ of the merge, over all tensors: of what comes out less the base"),
    "mean_delta_norm": Metric(
        ("merge",), "‖Σ wᵢ ΔWᵢ / Σ wᵢ‖ of the checkpoints by their weights, before any trimming; of `sce` after its selection"
    ),
    "norm_ratio": Metric(
        ("merge",),
        "`delta_norm` / `mean_delta_norm`",
        "near 1: the release's teacher has about ¼; 1.00 … 1.19 in the quick start's run",
    ),
    "cosine": Metric(
        ("merge",), "cosine of the angle between the merge's ΔW and the mean ΔW", "near 1; 0.96 … 1 in the quick start's run"
    ),
    "conflicts": Metric(("merge",), "entries with votes for both signs / entries", "rises with the number of checkpoints"),
    "kept": Metric(
        ("merge",), "entries of the checkpoints that count after trimming / entries", "`--density`, or above where many are equal"
    ),
    "changed": Metric(("merge",), "entries of the checkpoints that differ from the base / entries", "small after RL in bfloat16"),
}


def page() -> str:
    """Return the page's text: a table per stage."""
    stages = dict.fromkeys(stage for metric in METRICS.values() for stage in metric.stages)
    return "\n".join(
        [
            HEAD,
            *(_section(stage) for stage in ("init", "sft", "rollout", "distill", "ppo-step", "merge", "eval") if stage in stages),
        ]
    )


def _section(stage: str) -> str:
    rows = [f"| `{name}` | {metric.meaning} | {metric.healthy} |" for name, metric in METRICS.items() if stage in metric.stages]
    return "\n".join([f"## {stage}", "", "| metric | formula, unit | healthy |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
