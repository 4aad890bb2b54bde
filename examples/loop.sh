#!/usr/bin/env bash
# GTR-Turbo's loop by hand: the built-in tiny VLM learns NumberLine. `gtrturbo run` does the same in one process.
#
#   ITERATIONS=3 OUT=runs/by-hand examples/loop.sh
#
# Each command prints the folder that it wrote. A command whose folder is there already does nothing, so a loop that was
# stopped goes on where it was.
set -euo pipefail
PATH="$PATH:$(cd "$(dirname "$0")/.." && pwd)/.venv/bin" # for a checkout that has no activated environment

OUT=${OUT:-runs/loop}
ITERATIONS=${ITERATIONS:-25}

task=(--task numberline --env image=tiny --env horizon=5)
step=(--epochs 3 --minibatch-size 64 --learning-rate 2e-4 --value-learning-rate 2e-3
      --clip-range 0.2 --value-clip-range 10 --max-grad-norm 0.5 --format-invalid -1)

evaluate() { # CHECKPOINT NUMBER: play the same deals with every checkpoint
  gtrturbo eval --checkpoint "$1" "${task[@]}" --max-new-tokens 64 --out "$OUT/evals/$2"
}

# Checkpoint 0: random weights, then supervised steps on what a scripted expert says.
init=$(gtrturbo init --out "$OUT/init")
expert=$(gtrturbo rollout --expert "${task[@]}" --episodes 400 --out "$OUT/expert")
base=$(gtrturbo sft --checkpoint "$init" --steps 160 --stop-loss 0.06 --learning-rate 3e-3 --out "$OUT/checkpoints/0000" "$expert")
evaluate "$base" 0000

checkpoint=$base
checkpoints=("$base") # merge leaves the base out by itself
for ((k = 0; k < ITERATIONS; k++)); do
  now=$(printf %04d "$k") next=$(printf %04d $((k + 1)))
  teacher=$(gtrturbo merge --base "$base" --cache "$OUT/thresholds" --out "$OUT/teachers/$now" "${checkpoints[@]}")
  turns=$(gtrturbo rollout --checkpoint "$checkpoint" "${task[@]}" --temperature 0.6 --max-new-tokens 64 --seed $((k + 1)) \
    --out "$OUT/rollouts/$now")
  scores=$(gtrturbo distill --teacher "$teacher" --rollouts "$turns" --out "$OUT/guidance/$now")
  checkpoint=$(gtrturbo ppo-step --checkpoint "$checkpoint" --rollouts "$turns" --scores "$scores" "${step[@]}" \
    --seed $((k + 1)) --out "$OUT/checkpoints/$next")
  checkpoints+=("$checkpoint")
done

evaluate "$checkpoint" "$(printf %04d "$ITERATIONS")"
