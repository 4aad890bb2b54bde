#!/usr/bin/env bash
# PPO alone beside a free teacher, from one start, at a learning rate that is too high for PPO: the built-in tiny VLM on NumberLine.
#
#   RUN=runs/demo SEED=41 examples/demo.sh
#
# Stopped and started again, it goes on where it was. Seed 41 was taken because it comes after those of docs/results.md.
set -euo pipefail
PATH="$PATH:$(cd "$(dirname "$0")/.." && pwd)/.venv/bin" # for a checkout that has no activated environment

RUN=${RUN:-runs/demo}
game=(--task numberline --env horizon=5 --seed "${SEED:-41}")
fast=(--iterations "${ITERATIONS:-25}" --set ppo-step.learning-rate=1e-3 --start "$RUN/start/checkpoints/0000")

ended() { # CODE: a run that collapsed ends with 3, and is what is to be seen
  [ "$1" -eq 0 ] || [ "$1" -eq 3 ] || exit "$1"
}

gtrturbo run --iterations 0 "${game[@]}" --set sft.stop-loss=0.03 --out "$RUN/start"

gtrturbo run --method ppo "${game[@]}" "${fast[@]}" --out "$RUN/ppo" >"$RUN/ppo.log" 2>&1 &
alone=$!
trap 'kill "$alone" 2>/dev/null || true' EXIT
code=0
gtrturbo run --method turbo-gated --keep-guidance 1 "${game[@]}" "${fast[@]}" --out "$RUN/turbo-gated" || code=$?
ended "$code"
code=0
wait "$alone" || code=$?
trap - EXIT
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || cat "$RUN/ppo.log" >&2
ended "$code"

gtrturbo compare "$RUN/turbo-gated" "$RUN/ppo" --baseline ppo
gtrturbo report "$RUN/turbo-gated" "$RUN/ppo" --out "$RUN/report.html"
echo "PPO alone and the free teacher side by side: $RUN/report.html"
