"""One run of Stable-Baselines3 on a task of a suite, for `benchmarks/beside_sb3.py`, in SB3's own environment.

The task is the suite's (`suites.plan.maker`), the settings are the zoo's (`sb3_zoo.toml`). The run is evaluated both
after shares of the suite's CPU minutes and after the suite's environment steps, so that the score at equal CPU seconds
and the score at equal steps are of one run. It ends when it has used up both budgets, or after the zoo's number of
steps. There are no checkpoints: a run that is stopped starts again.
"""

from __future__ import annotations

import argparse
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from suites.meter import Meter, hardware, write_json
from suites.plan import Plan, Task, maker, read_plan
from suites.results import FORMAT, summary
from suites.schedule import follow_parent

ALGORITHMS = {"ppo": sb3.PPO, "dqn": sb3.DQN, "sac": sb3.SAC}
SHARES = 15  # evaluations in the suite's CPU minutes, besides those at its steps
NOT_SETTINGS = ("zoo", "nearest", "n_timesteps", "n_envs", "normalize", "frame_stack", "policy", "stochastic")


class Plain(gym.Wrapper):
    """What SB3 can take: float32 actions and one flat vector where there are several entries, or tiny images."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        if isinstance(env.action_space, spaces.Box):
            self.action_space = spaces.Box(
                env.action_space.low.astype(np.float32), env.action_space.high.astype(np.float32), dtype=np.float32
            )
        space = env.observation_space
        shape = space.shape or ()
        self.flat = isinstance(space, spaces.Dict) or (len(shape) == 3 and min(shape[:2]) < 36)
        self.scale = 255.0 if len(shape) == 3 else 1.0
        if self.flat:
            size = spaces.flatdim(space)
            self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def _seen(self, obs: Any) -> Any:
        if not self.flat:
            return obs
        return (spaces.flatten(self.env.observation_space, obs) / self.scale).astype(np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """The first observation."""
        obs, info = self.env.reset(**kwargs)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step of the task."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(obs), float(reward), bool(terminated), bool(truncated), info


def vector(task: Task, zoo: dict[str, Any], count: int, *, training: bool) -> VecEnv:
    """`count` environments with the zoo's wrappers in the zoo's order; for evaluation with their own rewards."""
    make = maker(task)
    envs: VecEnv = DummyVecEnv([lambda: Monitor(Plain(make()))] * count)
    if zoo.get("normalize"):
        envs = VecNormalize(
            envs,
            training=training,
            norm_obs=zoo["normalize"] is True,
            norm_reward=training,
            gamma=zoo.get("gamma", 0.99),
        )
    return VecFrameStack(envs, zoo["frame_stack"]) if zoo.get("frame_stack") else envs


def setting(value: Any) -> Any:
    """ "lin_0.1" -> the schedule from 0.1 to 0; anything else stays."""
    if isinstance(value, str) and value.startswith("lin_"):
        start = float(value[4:])
        return lambda left: left * start
    return value


class Marks(BaseCallback):
    """Evaluates when a share of the CPU minutes or some more steps have passed, and ends the run."""

    def __init__(self, task: Task, evaluate: Callable[[], None], meter: Meter, most: int) -> None:
        super().__init__()
        self.task, self.evaluate, self.meter, self.most = task, evaluate, meter, most
        self.every = max(1.0, 60 * task.cpu_minutes / SHARES)  # CPU seconds
        self.next_cpu, self.next_steps = self.every, float(task.eval_every)
        self.ended_by = ""

    def _on_step(self) -> bool:
        cpu, steps = self.meter.cpu, self.num_timesteps
        if cpu >= self.next_cpu or steps >= self.next_steps:
            self.evaluate()
            self.next_cpu = (cpu // self.every + 1) * self.every
            while self.next_steps <= steps:  # evenly within the suite's budget, then ever more apart
                self.next_steps += max(self.task.eval_every, 0.15 * (self.next_steps - self.task.env_steps))
        if cpu >= 60 * self.task.cpu_minutes and steps >= self.task.env_steps:
            self.ended_by = "both budgets"
        elif steps >= self.most:
            self.ended_by = "n_timesteps"
        return not self.ended_by


def train(task: Task, plan: Plan, algorithm: str, zoo: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run. -> its facts."""
    meter, machine = Meter(), hardware()
    torch.set_num_threads(1)
    envs = vector(task, zoo, zoo.get("n_envs", 1), training=True)
    watched = vector(task, zoo, min(4, plan.eval_episodes), training=False)
    settings = {key: setting(value) for key, value in zoo.items() if key not in NOT_SETTINGS}
    model = ALGORITHMS[algorithm](zoo.get("policy", "MlpPolicy"), envs, seed=seed, device="cpu", **settings)
    lines: list[dict[str, Any]] = []

    def evaluate(episodes: int = plan.eval_episodes) -> None:
        spent = meter.state()
        with meter.evaluating():
            if isinstance(model.get_vec_normalize_env(), VecNormalize):
                inner: Any = watched.venv if isinstance(watched, VecFrameStack) else watched
                inner.obs_rms = model.get_vec_normalize_env().obs_rms
            watched.seed(10_000 + 1000 * seed)
            greedy = not zoo.get("stochastic", False)
            scores, lengths = evaluate_policy(
                model, watched, episodes, deterministic=greedy, return_episode_rewards=True
            )
        line = {"env_steps": model.num_timesteps, "updates": int(model._n_updates), "spent": spent}
        lines.append(line | {"mean": float(np.mean(scores)), "scores": [float(x) for x in scores], "lengths": lengths})

    marks = Marks(task, evaluate, meter, zoo["n_timesteps"])
    model.learn(zoo["n_timesteps"], callback=marks)
    evaluate(plan.final_episodes)
    facts = summary(task, plan, lines, ended_by=marks.ended_by or "n_timesteps", spent=meter.state())
    versions = {"stable_baselines3": sb3.__version__, "torch": torch.__version__, "gymnasium": gym.__version__}
    return {"versions": versions, "hardware": machine, "settings": zoo, **facts}


def main() -> None:
    """Train and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("task")
    parser.add_argument("algorithm", choices=list(ALGORITHMS))
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--about", nargs=3, metavar=("COMMIT", "STARTED", "COMMAND"), default=("", "", ""))
    parser.add_argument("--minutes", type=float, help="so many CPU minutes and 600 steps, to try it out")
    args = parser.parse_args()
    follow_parent()
    warnings.filterwarnings("ignore", category=UserWarning)
    plan = read_plan(args.plan)
    (task,) = plan.only([args.task]).tasks
    if args.minutes:
        task = Task(**{**vars(task), "cpu_minutes": args.minutes, "env_steps": 600, "eval_every": 300})
    zoo = tomllib.loads((Path(__file__).with_name("sb3_zoo.toml")).read_text())[args.task][args.algorithm]
    commit, started, command = args.about
    head = {
        "format": FORMAT,
        "suite": plan.name,
        "label": f"{task.label}--{args.algorithm}",
        "task": task.label,
        "seed": args.seed,
        "learner": f"sb3-{args.algorithm}",
        "command": command,
        "commit": commit,
        "started": started,
    }
    write_json(args.out, head | train(task, plan, args.algorithm, zoo, args.seed))


if __name__ == "__main__":
    main()
