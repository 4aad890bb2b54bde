"""distill: a teacher annotates turns. It writes guidance, not weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gtrturbo.artifacts import DEMOS, SCORES, Draft, Result, read_manifest, seed_for, writing
from gtrturbo.config import DistillConfig
from gtrturbo.console import progress_bar
from gtrturbo.envs.task import Reply, Task, load_task
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.chat import load_picture
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import renderer_hash
from gtrturbo.models.scoring import score_all
from gtrturbo.models.speak import uniforms
from gtrturbo.models.transcript import read_transcript, read_turns, render
from gtrturbo.records import Demo, Turn, chat, mean, write_rows
from gtrturbo.stages import done, provenance
from gtrturbo.tensors import save_image, save_scores

HOTTER, HOTTEST = 1.1, 0.9


def run(config: DistillConfig) -> Result:
    """Score the student's tokens under the teacher (kl), or let the teacher write thoughts of its own (sft)."""
    if config.expert == (config.teacher is not None):
        raise GtrTurboError("distill needs either --teacher or --expert.", "give one of the two.")
    if config.expert and config.mode == "kl":
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode sft with --expert, or give --teacher.")
    read_manifest(config.rollouts, "turns")
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        if config.mode == "kl":
            _score(config, draft)
        else:
            _teach(config, draft)
    return done(draft)


def _load_teacher(config: DistillConfig) -> Policy:
    assert config.teacher is not None
    return load_policy(config.teacher, device=config.device, dtype=config.dtype)


def _score(config: DistillConfig, draft: Draft) -> None:
    """Write the teacher's log-prob of every token that the student sampled, with picture and prompt of each turn."""
    teacher = _load_teacher(config)
    transcript = read_transcript(config.rollouts, teacher.renderer)
    temperature = read_manifest(config.rollouts).config["temperature"]
    responses = transcript.tokens.response_ids
    with progress_bar("distill", len(responses)) as bar:
        rows, _ = score_all(
            teacher,
            transcript.prompts,
            responses,
            temperature=temperature,
            micro_batch_size=config.micro_batch_size,
            told=bar.advance,
        )
    save_scores(draft.folder / SCORES, rows)
    differences = np.concatenate(transcript.tokens.sample_logprobs) - np.concatenate(rows)
    thought = np.concatenate(transcript.tokens.thought_mask)
    draft.metrics = {"turns": len(rows), "tokens": len(differences), "thought_kl_k1": mean(differences[thought].tolist())}
    draft.renderer, draft.timing = _renderer(config), teacher.machine()


def _teach(config: DistillConfig, draft: Draft) -> None:
    """Write the teacher's thought for each legal turn, with the student's action in place of the teacher's."""
    settings = read_manifest(config.rollouts).config
    task = load_task(settings["task"], settings["env"])
    turns = [turn for turn in read_turns(config.rollouts) if turn.legal]
    taught = _expert_thoughts(task, turns) if config.expert else _teacher_thoughts(config, task, turns)
    demos = [
        keep_action(turn, text, reply, _copy_pictures(config.rollouts, draft.folder, turn))
        for turn, (text, reply) in zip(turns, taught, strict=True)
        if reply and not (config.expert and _is_right(turn, reply))
    ]
    write_rows(draft.folder / DEMOS, demos)
    draft.metrics = {"turns": len(turns), "demos": len(demos), "unparsed": sum(reply is None for _, reply in taught)}
    draft.renderer = _renderer(config)


Thought = tuple[str, Reply | None]


def _expert_thoughts(task: Task, turns: Sequence[Turn]) -> list[Thought]:
    texts = [task.expert(turn.info) for turn in turns]
    return [(text, task.parse(text)) for text in texts]


def _is_right(turn: Turn, reply: Reply) -> bool:
    """GTR's corrector is silent where the student is right: it reads the picture truly and acts as the expert does."""
    return bool(turn.reads_truly) and turn.action == reply.action


def _teacher_thoughts(config: DistillConfig, task: Task, turns: Sequence[Turn]) -> list[Thought]:
    """Ask again, hotter each time, those turns whose reply does not parse."""
    teacher = _load_teacher(config)
    prompts = [render(teacher.renderer, config.rollouts, turn.messages[:-1], turn.images) for turn in turns]
    thoughts: list[Thought] = [("", None)] * len(turns)
    temperature = config.temperature
    with progress_bar("distill", len(turns)) as bar:
        for attempt in range(config.retries + 1):
            open_rows = [row for row, (_, reply) in enumerate(thoughts) if reply is None]
            for start in range(0, len(open_rows), config.micro_batch_size):
                rows = open_rows[start : start + config.micro_batch_size]
                keys = [seed_for(config.seed, "thought", row, attempt) for row in rows]
                samples = teacher.generate(
                    [prompts[row] for row in rows],
                    uniforms(keys, config.max_new_tokens),
                    temperature=temperature,
                    max_new_tokens=config.max_new_tokens,
                )
                for row, sample in zip(rows, samples, strict=True):
                    text, _ = teacher.renderer.decode(sample.response_ids.tolist())
                    thoughts[row] = (text, task.parse(text))
                    bar.advance(int(thoughts[row][1] is not None))
            temperature = max(temperature, min(HOTTEST, HOTTER * temperature))
    return thoughts


def keep_action(turn: Turn, text: str, reply: Reply, images: list[str]) -> Demo:
    """Put the student's action in the place of the teacher's, and mark it so that it is never cloned."""
    assert turn.action is not None
    start, end = reply.action_span
    quoted = text[start - 1] == '"'
    action = turn.action if quoted else f'"{turn.action}"'
    question = turn.messages[0]["content"][-1]["text"]
    return Demo(
        messages=chat(question, text[:start] + action + text[end:]), images=images, unlearned=[(start, start + len(action))]
    )


def _copy_pictures(source: Path, folder: Path, turn: Turn) -> list[str]:
    return [save_image(folder, load_picture(source / image)) for image in turn.images]


def _renderer(config: DistillConfig) -> str | None:
    return renderer_hash(config.teacher) if config.teacher else None
