"""sft: supervised steps, loss on the reply only."""

import math

import torch

from gtrturbo.algorithms.ppo import cosine_learning_rate
from gtrturbo.config import SftConfig
from gtrturbo.console import progress_bar, stderr
from gtrturbo.distributed.collectives import total
from gtrturbo.distributed.escapes import visible
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import micro_batches, token_budget
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.overflow import train_again
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import require_usable
from gtrturbo.stages import done, provenance
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.ids import seed_for
from gtrturbo.store.trackers import tracking
from gtrturbo.store.writing import writing
from gtrturbo.train.demos import Example, Shuffle, imitation_loss, mixed, read_examples, require_fit
from gtrturbo.train.optimizer import Optimizer
from gtrturbo.train.sharding import prepare_split, save_trained

DECAY = 0.8


def run(config: SftConfig) -> Result:
    """Train on turns or demos until the running loss falls below stop_loss, or for `steps` steps."""
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        for told in mixed(config.data):
            stderr.print(visible(told), style="yellow", soft_wrap=True)
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype, trainable=True, split=config.fsdp)
        examples = read_examples(config.data, policy.renderer)
        if not examples:
            names = ", ".join(map(str, config.data))
            raise GtrTurboError(f"there is nothing to learn in {names}: every reply is illegal, or there is none.")
        require_fit(policy, examples)
        if config.gradient_checkpointing:
            policy.recompute_activations()
        draft.metrics = {"examples": len(examples)} | _train(config, policy, examples, draft)
        draft.timing = policy.machine()
        draft.renderer = save_trained(policy, config.checkpoint, draft, config.out)
    return done(draft)


def _train(config: SftConfig, policy: Policy, examples: list[Example], draft: Draft) -> dict[str, float]:
    torch.manual_seed(config.seed)
    rates = {"learning_rate": config.learning_rate, "value_learning_rate": config.learning_rate}
    head, policy.value_head = policy.value_head, None  # A value head has no part in imitation and passes through as it is.
    if config.fsdp:
        prepare_split(policy)
    tokens = token_budget(config.micro_batch_tokens, policy, recomputes=config.gradient_checkpointing)
    optimizer = Optimizer(policy, **rates, weight_decay=config.weight_decay)
    order = Shuffle(len(examples), seed=seed_for(config.seed, "sft"))
    running, step = math.inf, 0
    with tracking(config.log, draft.folder) as track, progress_bar("sft", config.steps) as bar:
        while step < config.steps and running >= config.stop_loss:
            rate = learning_rate(step, peak=config.learning_rate, warmup=config.warmup_steps, steps=config.steps)
            optimizer.set_learning_rate(rate, rate)
            loss = _add_gradients(policy, optimizer, [examples[i] for i in order.draw(config.batch_size)], tokens)
            norm = optimizer.step(max_grad_norm=config.max_grad_norm)
            if not math.isfinite(loss + norm):
                # At the first nothing was learned yet, so that it is the checkpoint's.
                mend = f"{config.checkpoint}: {train_again(policy.model.dtype)}" if step == 0 else "lower --learning-rate."
                raise GtrTurboError(f"loss is {loss} at step {step}. nothing was written.", mend)
            running = loss if math.isinf(running) else DECAY * running + (1 - DECAY) * loss
            row = {"step": step, "loss": loss, "running_loss": running, "grad_norm": norm, "learning_rate": rate}
            track("sft", config.out, step, row)
            step += 1
            bar.advance(note=f"loss {running:.3f}")
    policy.value_head = head
    require_usable(policy, examples[0].prompt, examples[0].response_ids)
    return {"steps": step, "final_loss": running}


def _add_gradients(policy: Policy, optimizer: Optimizer, batch: list[Example], tokens: int) -> float:
    """Add the gradients of the mean over all learned tokens of the batch; return that mean, in nats."""
    learned = sum(int(example.learned.sum()) for example in batch)
    losses = torch.zeros((), dtype=torch.float64)
    prompts, responses = [example.prompt for example in batch], [example.response_ids for example in batch]
    for part in micro_batches(range(len(batch)), prompts, responses, tokens=tokens, world=group().world):
        loss = part.counted * imitation_loss(policy, [batch[row] for row in part.rows]) / learned
        optimizer.backward(loss)
        losses += loss.item()
    return total(losses).item()


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Rise linearly to the peak over `warmup` steps, then fall to 0 along half a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine_learning_rate(step - warmup, initial=peak, final=0.0, total=max(1, steps - warmup))
