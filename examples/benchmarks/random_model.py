"""Write a randomly initialised model of a published shape as a Hugging Face folder: its speed and memory, without its weights.

    python -m examples.benchmarks.random_model --device cuda --out runs/random-7b
    gtrturbo init --model runs/random-7b --lora-rank 128 --out runs/random
    gtrturbo rollout --expert --task numberline --env image=full --episodes 40 --out runs/demos
    gtrturbo sft runs/demos --checkpoint runs/random --steps 40 --batch-size 16 --learning-rate 3e-4 --warmup-steps 8 \\
        --stop-loss 0.3 --out runs/warm                                             # until its replies parse
    gtrturbo run --start runs/warm --model runs/random-7b --method turbo-kl --task numberline --env image=full --env horizon=4 \\
        --iterations 1 --episodes 8 --eval-episodes 4 --set rollout.num-envs=8 --set rollout.max-new-tokens=64 \\
        --set ppo-step.epochs=1 --set ppo-step.minibatch-size=16 --out runs/seven  # runs/seven/*/*/timing.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from examples.benchmarks.common import SHAPES, policy_of_shape
from gtrturbo.models.checkpoint import save_model
from gtrturbo.models.processor import save_processor


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-vl-7b")
    parser.add_argument("--device", default="cpu", help="where the weights are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    policy = policy_of_shape(options.shape, device=options.device, seed=options.seed)
    options.out.mkdir(parents=True)
    save_model(policy.model, options.out)
    save_processor(policy.processor, options.out)


if __name__ == "__main__":
    main()
