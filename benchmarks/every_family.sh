#!/bin/sh
# Every installed family by the command line: check-env, 2,000 steps of training, evaluation. One line each.
#   sh benchmarks/every_family.sh [DIRECTORY]
runs=${1:-runs/families2000}
mkdir -p "$runs"
failed=0
try() { # preset, id, settings...
  preset=$1 env=$2
  shift 2
  run="$runs/$(echo "$env$*" | tr -c 'A-Za-z0-9.-' '-')"
  reverie check-env "$env" --steps 100 "$@" >"$run.check" 2>&1
  checked=$?
  if reverie train --env "$env" --preset "$preset" --run "$run" --env-steps 2000 \
    prefill=500 eval_every=0 eval_episodes=2 random_baseline=false time_limit=1000 "$@" >"$run.log" 2>&1 &&
    reverie eval "$run" --episodes 2 >"$run.eval" 2>&1; then
    echo "ok    $env $* (check-env $checked)  $(grep -m1 ': return' "$run.eval")"
  else
    echo "FAIL  $env $*: $(grep -h -m1 error: "$run.log" "$run.eval")"
    failed=1
  fi
}
try demo ALE/Pong-v5 image_size=32 grayscale=true
try vector LunarLander-v3
try demo CarRacing-v3 image_size=32 action_repeat=4
try vector CartPole-v1
try demo Pendulum-v1 pixels=true image_size=32
try demo crafter/reward image_size=32
try dmc-small dmc/walker-walk
try demo dmc/cartpole-swingup pixels=true image_size=32
try demo MemoryMaze-9x9 image_size=32 num_envs=1
try minatar MinAtar/Breakout-v1
try demo MiniGrid-Empty-Random-6x6-v0
try demo BabyAI-GoToRedBallGrey-v0
try demo MiniWorld-Hallway-v0 image_size=32 num_envs=1
try vector HalfCheetah-v5
try vector popgym-RepeatPreviousEasy-v0
try demo VizdoomBasic-v1 image_size=32 num_envs=2
exit $failed
