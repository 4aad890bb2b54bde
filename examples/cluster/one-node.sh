#!/usr/bin/env bash
# One machine with 8 GPUs: torchrun starts the same command once per GPU. sft and ppo-step share every minibatch; stages that
# do not share their work are done by the first process, and the others wait.
#
#   MODEL=Qwen/Qwen2.5-VL-7B-Instruct OUT=runs/points24 examples/cluster/one-node.sh
#
# Started again with the same OUT, the run goes on where it was.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}
OUT=${OUT:-runs/points24}
GPUS=${GPUS:-8}

# An adapter: each GPU holds the whole model and the gradients of the adapter are summed. For full weights leave out --lora-rank
# and add --set sft.fsdp=true --set ppo-step.fsdp=true, which splits weights, gradients and optimiser over the GPUs.
torchrun --standalone --nproc-per-node="$GPUS" --no-python \
  gtrturbo run --method turbo-kl --task points24 --model "$MODEL" --lora-rank 128 --iterations 30 --episodes 256 --out "$OUT" \
  --set sft.gradient-checkpointing=true --set ppo-step.gradient-checkpointing=true
