# What is asked, as options of gtrturbo run. An arm is a method or one change to it; all arms of a task and seed start from one checkpoint.

# PPO was tried on seed 0 alone; the loss to stop the warm start at was chosen by the starts of seeds 0 to 3. See search.jsonl.
seeds-numberline := 1 2 3 4 5 6 7 8
iterations-numberline := 12
task-numberline := --task numberline --env horizon=5
start-numberline := --set sft.stop-loss=0.03
loop-numberline := --episodes 64 --iterations $(iterations-numberline) --eval-every 6
merged-at-numberline := 6 12
merged-arm-numberline := turbo-kl
eval-numberline := --env image=tiny --max-new-tokens 64

# Tuned on seeds 0 and 1, so told on others. Rewards are ten times NumberLine's: so is the KL's weight in turbo-kl-10.
seeds-ezpoints := 2 3 4 5 6 7 8 9
iterations-ezpoints := 8
task-ezpoints := --task ezpoints
loop-ezpoints := --episodes 64 --iterations $(iterations-ezpoints) --eval-every 4 --eval-episodes 100
merged-at-ezpoints := 4
merged-arm-ezpoints := turbo-kl-10
# The fourth update has no fifth checkpoint.
unmerged-ezpoints := every-5
eval-ezpoints := --env image=tiny --max-new-tokens 64 --episodes 100 --num-envs 64
teacher-ezpoints := --set expert.random-expert-share=0

# Tuned on seeds 0 and 1, so told on others. Most deals are won or lost whatever one does, so it takes many.
seeds-blackjack := 2 3 4 5 6 7 8 9
iterations-blackjack := 8
task-blackjack := --task blackjack
loop-blackjack := --episodes 512 --iterations $(iterations-blackjack) --eval-every 8 --eval-episodes 2000
eval-blackjack := --env image=tiny --max-new-tokens 64 --temperature 0.6 --episodes 2000 --num-envs 250

# Tried on seed 0 alone. Hands that adding and subtracting solve; a fifth of them is evaluated on and never trained on.
seeds-points24 := 1 2 3 4 5 6 7 8
iterations-points24 := 12
task-points24 := --task points24 --env family=sums --env deals=train --eval-env deals=held-out
start-points24 := --set expert.random-expert-share=1 --set expert.episodes=800 --set sft.stop-loss=0 --set sft.steps=1500
loop-points24 := --episodes 64 --iterations $(iterations-points24) --eval-every 6 --eval-episodes 100 --set rollout.num-envs=64 \
  --set eval.num-envs=100 --set ppo-step.learning-rate=1e-4 --set ppo-step.value-learning-rate=1e-2 --set ppo-step.epochs=2 \
  --set ppo-step.gamma=1 --set ppo-step.format-invalid=-10 --set ppo-step.detach-value=true --set ppo-step.value-coef=0.02

# Tried on seeds 1, 2 and 11, see docs/results-stable.md. The lake is one and the same: what is read is where one stands.
seeds-frozenlake := 1 2 3 4 5
iterations-frozenlake := 8
task-frozenlake := --model small --task frozenlake --env lake=4x4 --env reads=place --set eval.panel=fixed
start-frozenlake := --set sft.steps=1400
loop-frozenlake := --episodes 48 --iterations $(iterations-frozenlake) --eval-every 8 --set ppo-step.schedule-updates=8 \
  --set ppo-step.learning-rate=1e-4

# Tried on seed 41, see docs/results-stable.md. An empty room as lines; where the panel begins no training does. Needs the extra minigrid.
seeds-minigrid := 31 32 33 34 35
iterations-minigrid := 12
task-minigrid := --task minigrid:MiniGrid-Empty-Random-5x5-v0 --env look=text --env horizon=8 --set eval.panel=held-out \
  --set eval.temperature=0.6
start-minigrid := --set expert.random-expert-share=0.6 --set expert.episodes=600 --set sft.steps=300 --set sft.stop-loss=0 \
  --set sft.warmup-steps=50
loop-minigrid := --episodes 64 --iterations $(iterations-minigrid) --eval-every 12

# A teacher from outside for on-policy distillation: the same supervised steps, until next to nothing is left to learn.
teacher-numberline := --set sft.stop-loss=0.004 --set sft.steps=400

arm-ppo := --method ppo
# On NumberLine, chosen on seeds 0 and 9, one step per epoch: eight deals an update are too few for PPO's nine steps.
one-step-numberline := --set ppo-step.minibatch-size=256
arm-grpo = --method grpo $(one-step-$(1))
arm-gigpo = --method gigpo $(one-step-$(1))
# Sixteen deals an update, four times each, with PPO's steps: of eight deals few end both ways, and the others teach nothing.
arm-grpo-of-4 := --method grpo --group-size 4
arm-gigpo-of-4 := --method gigpo --group-size 4
# GAE over the tokens of replies, with PPO's settings.
arm-token := --method ppo --set ppo-step.credit=token
arm-bi-level := --method ppo --set ppo-step.credit=bi-level
arm-turbo-kl := --method turbo-kl --eval-teachers
arm-turbo-sft := --method turbo-sft --eval-teachers
arm-gtr := --method gtr
arm-opd = --method opd --teacher $(call teacher,$(1),$(2))/checkpoints/0000
arm-static-kl := --method static-kl

# GTR with a corrector on a server: of 100 answers so many are wrong. $(1) task, $(2) seed, $(3) arm. A run's server has a port of its
# own, as answers are kept by the server's address, and keeps what it paid for in its own folder, so that it pays for all it uses.
wrong-00 := 0
wrong-20 := 0.2
wrong-50 := 0.5
first-port-numberline := 20000
first-port-ezpoints := 26000
port = $(shell expr $(first-port-$(1)) + 100 \* $(patsubst gtr-wrong-%,%,$(3)) + $(2))
corrector = $(PYTHON) ../teachers/corrector_server.py --port $(port) --wrong $($(3:gtr-%=%)) --seed $(2) --
corrected = --method gtr --teacher openai:solver --address http://127.0.0.1:$(port) --hints truth --hints expert --prices ../teachers/prices.yaml \
  --answers $(OUT)/$(1)/$(3)/$(2)/answers
$(foreach w,00 20 50,$(eval arm-gtr-wrong-$(w) = $$(call corrected,$$(1),$$(2),gtr-wrong-$(w))))
$(foreach w,00 20 50,$(eval with-gtr-wrong-$(w) = $$(call corrector,$$(1),$$(2),gtr-wrong-$(w))))

# Changes to turbo-kl, one at a time; on EZPoints to turbo-kl-10.
turbo = --method turbo-kl --eval-teachers $(kl-$(1))
kl-ezpoints := --set ppo-step.kl-coef=10
arm-k1 = $(turbo) --set ppo-step.kl-estimator=k1
arm-abs = $(turbo) --set ppo-step.kl-estimator=abs
arm-full = $(turbo) --set ppo-step.kl-estimator=full --set distill.top-logprobs=512
arm-k2-loss = $(turbo) --set ppo-step.kl-estimator=k2 --set ppo-step.kl-placement=loss
arm-full-loss = --method turbo-loss --eval-teachers $(kl-$(1))
arm-advantage = $(turbo) --set ppo-step.kl-placement=advantage
arm-return = $(turbo) --set ppo-step.kl-placement=return
arm-reply = $(turbo) --set ppo-step.kl-tokens=reply
arm-turbo-kl-10 := --method turbo-kl --eval-teachers --set ppo-step.kl-coef=10
arm-density-0.2 = $(turbo) --set merge.density=0.2
arm-density-1 = $(turbo) --set merge.density=1
arm-linear = $(turbo) --set merge.method=linear
arm-ema-0.5 = $(turbo) --set merge.weights=ema:0.5
arm-every-2 = $(turbo) --merge-every 2
arm-every-5 = $(turbo) --merge-every 5
# make works in this folder, where release.py is.
release-kl := --set distill.mode=release.py:BLIND --set ppo-step.kl-estimator=release.py:BLIND_KL --set ppo-step.kl-placement=return
arm-release-merge = $(turbo) --set merge.method=release.py:MERGE
arm-release-kl = $(turbo) $(release-kl)
arm-release = $(turbo) --set merge.method=release.py:MERGE $(release-kl)

# Merges of the same checkpoints of `merged-arm`, 1 … K, beside the teacher of its own; only every N-th where `every` says so.
merge-ties :=
merge-density-0.2 := --density 0.2
merge-density-0.5 := --density 0.5
merge-density-1 := --density 1
merge-linear := --method linear
merge-ema-0.25 := --weights ema:0.25
merge-ema-0.5 := --weights ema:0.5
merge-ema-0.75 := --weights ema:0.75
merge-every-2 :=
merge-every-5 :=
every-merge-every-2 := 2
every-merge-every-5 := 5

# Which teacher keeps PPO alive where it learns too fast, at learning rates RATES, over so many updates; from seeds that nothing was chosen by.
rates-numberline := 1e-4 2e-4 5e-4 1e-3 2e-3
long-numberline := 30
fresh-numberline := 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40
rates-ezpoints := 5e-5 1e-4 2e-4 5e-4 1e-3
long-ezpoints := 15
fresh-ezpoints := 10 11 12 13 14 15 16 17
# A start that reads and keeps to the rules, and plays by chance: an anchor that does not move must hold the student back.
task-numberline-weak := $(task-numberline)
start-numberline-weak := $(start-numberline) --set expert.random-expert-share=1
rates-numberline-weak := 1e-3
long-numberline-weak := 30
fresh-numberline-weak := 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40
# Whether what a teacher keeps is kept for good: at half of that rate, three times as long.
task-numberline-long := $(task-numberline)
start-numberline-long := $(start-numberline)
rates-numberline-long := 5e-4
long-numberline-long := 100
fresh-numberline-long := 25 26 27 28 29 30 31 32
# PPO's other ways to learn too fast, at the preset's rate: three times the epochs, and minibatches of an eighth.
task-numberline-epochs := $(task-numberline)
start-numberline-epochs := $(start-numberline)
regime-numberline-epochs := --set ppo-step.epochs=9
rates-numberline-epochs := 2e-4
long-numberline-epochs := 30
fresh-numberline-epochs := 25 26 27 28 29 30 31 32
task-numberline-small := $(task-numberline)
start-numberline-small := $(start-numberline)
regime-numberline-small := --set ppo-step.minibatch-size=8
rates-numberline-small := 2e-4
long-numberline-small := 30
fresh-numberline-small := 25 26 27 28 29 30 31 32
# A start that has learned to read what a teacher is told, truth and outcome. Where all demonstrations are won an outcome says nothing,
# so some are played by chance. After 160 steps a start of seed 0 read neither hints nor pictures (0.31 and 0.33).
task-numberline-told := $(task-numberline)
start-numberline-told := $(start-numberline) --set expert.hints=truth --set expert.hints=outcome --set expert.random-expert-share=0.5 \
  --set sft.steps=400
rates-numberline-told := 1e-3
long-numberline-told := 30
fresh-numberline-told := 25 26 27 28 29 30 31 32
# FrozenLake from a start that wins little: PPO learns it fast, and does not keep it.
task-lake := $(task-frozenlake)
start-lake := --set sft.steps=900
# The preset's own rate: PPO falls on half of the seeds there.
rates-lake := 2e-4
long-lake := 20
fresh-lake := 15 16 17 18 19 20 21 22
long = --episodes $(or $(episodes-$(1)),64) --iterations $(long-$(1)) $(regime-$(1))
regime-ezpoints := --eval-episodes 100
episodes-lake := 48
own := free_teachers.py
who-ppo := --method ppo
who-merged := --method turbo-loss
who-static := --method static-loss
# The start, told more than it saw. Not the newest: what reads hints is the start, which was taught to; no update teaches it again.
who-truth := --method static-loss --hints truth
who-outcome := --method static-loss --hints outcome
who-newest := --method $(own):NEWEST
who-gated := --method turbo-gated
who-gated-newest := --method turbo-gated --set merge.method=linear --set merge.weights=ema:1
who-sma := --method turbo-loss --set merge.method=linear
who-ema-0.1 := --method turbo-loss --set merge.method=linear --set merge.weights=ema:0.1
who-ema-0.5 := --method turbo-loss --set merge.method=linear --set merge.weights=ema:0.5
who-ema-0.9 := --method turbo-loss --set merge.method=linear --set merge.weights=ema:0.9
who-ram := --method turbo-loss --set merge.method=ram
who-reward := --method turbo-kl
who-reward-10 := --method turbo-kl --set ppo-step.kl-coef=10
who-reward-30 := --method turbo-kl --set ppo-step.kl-coef=30
who-imitation := --method turbo-sft
who-imitation-static := --method $(own):IMITATED_START
who-imitation-gated := --method $(own):IMITATED_AHEAD
who-both := --method $(own):BOTH
who-expert := --method gtr
# PPO alone with one guard each, so that no teacher is credited with what a guard does.
who-dual-clip := --method ppo --set ppo-step.guard=dual-clip
who-clipped-only := --method ppo --set ppo-step.guard=clipped-only
who-log-ratio := --method ppo --set ppo-step.guard=log-ratio
who-target-kl := --method ppo --set ppo-step.target-kl=0.05
who-adam-epsilon := --method ppo --set ppo-step.adam-epsilon=1e-7
# What an invalid reply costs: nothing, and three times the preset's.
who-penalty-0 := --method ppo --set ppo-step.format-invalid=0
who-penalty-3 := --method ppo --set ppo-step.format-invalid=-3
who-grpo = --method grpo $(one-step-$(1))
who-gigpo = --method gigpo $(one-step-$(1))
# The positive control: a checkpoint that supervised steps on the expert made.
who-trained = --method static-loss --teacher $(call teacher,$(1),$(2))/checkpoints/0000
