"""Write a randomly initialised model of a published shape as a Hugging Face folder: all of its speed and memory, none of its weights.

    python -m examples.benchmarks.random_model --device cuda --out runs/random-7b
    gtrturbo init --model runs/random-7b --lora-rank 128 --out runs/start
    gtrturbo run --start runs/start --model runs/random-7b --method turbo-kl --iterations 2 --episodes 8 --out runs/seven
    gtrturbo show runs/seven
"""

import argparse
from pathlib import Path

from examples.benchmarks.common import SHAPES, policy_of_shape
from gtrturbo.models.checkpoint import save_model
from gtrturbo.models.processor import save_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-vl-7b")
    parser.add_argument("--device", default="cpu", help="where the weights are drawn; the folder is the same size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    policy = policy_of_shape(options.shape, device=options.device, seed=options.seed)
    options.out.mkdir(parents=True)
    save_model(policy.model, options.out)
    save_processor(policy.processor, options.out)


if __name__ == "__main__":
    main()
