"""Export a policy and play it with onnxruntime and NumPy alone: about 30 seconds on one core, most of it the export."""

import importlib.util
import json
from pathlib import Path

import reverie

agent = reverie.Dreamer("CartPole-v1", preset="vector", run="runs/exported", seed=0)
agent.learn(env_steps=1500, quiet=True)
path = agent.export("exported/policy.onnx")  # needs: pip install 'reverie-rl[export]'

# What follows needs neither Reverie nor torch. On another machine: `from policy_player import Policy`.
source = importlib.util.spec_from_file_location("policy_player", path.parent / "policy_player.py")
policy_player = importlib.util.module_from_spec(source)
source.loader.exec_module(policy_player)

for port in json.loads(Path("exported/policy.json").read_text())["inputs"]:
    print(f"{port['role']:12} {port['name']:12} {port['dtype']} {port['shape']}")

env = agent.make_env()
policy = policy_player.Policy(path)
obs, _ = env.reset(seed=0)
first, over, score = True, False, 0.0
while not over:
    obs, reward, terminated, truncated, _ = env.step(policy(obs, first=first))
    first, over, score = False, terminated or truncated, score + float(reward)
print(f"return {score}")
