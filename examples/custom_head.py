"""Another prediction head, given from outside: quantiles of the reward beside its mean. Ten seconds.

A head is a class with `forward` (the prediction) and `loss` (in nats or any other unit, per step). `target` names what
it learns from: "reward", "continue" or "obs/KEY"; a head that predicts something else has `target_of(batch, obs)`. To
train a whole agent with it: `reverie.Dreamer(..., modules={"heads": {"reward_quantiles": RewardQuantiles}})`
(docs/modules.md).
"""

import sys

import torch
from torch import nn

from reverie.data.replay import Batch
from reverie.networks import Head, RewardPredictor, VectorDecoder
from reverie.observations import ObservationEncoder
from reverie.rssm import DiscreteRSSM
from reverie.world_model import WorldModel

UPDATES = int(sys.argv[1]) if len(sys.argv) > 1 else 200
QUANTILES = (0.1, 0.5, 0.9)


class RewardQuantiles(Head):
    """Features (..., F) to quantiles of the reward (..., 3), by the pinball loss."""

    target = "reward"

    def __init__(self, feat_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(feat_dim, 64), nn.ELU(), nn.Linear(64, len(QUANTILES)))
        self.register_buffer("quantiles", torch.tensor(QUANTILES))

    def forward(self, feat):
        return self.net(feat)

    def loss(self, feat, target):
        """feat (B, T, F), target (B, T) -> (B, T)."""
        error = target.unsqueeze(-1) - self(feat)
        return torch.maximum(self.quantiles * error, (self.quantiles - 1) * error).sum(-1)


def bandit(count, length, generator):
    """Two machines: the first pays 1 each time, the second 0 or 2 by a coin. -> Batch of (B, T, ...)."""
    machine = torch.randint(0, 2, (count, length), generator=generator)
    coin = 2.0 * torch.randint(0, 2, (count, length), generator=generator)
    is_first = torch.zeros(count, length, dtype=torch.bool)
    is_first[:, 0] = True
    never = torch.zeros_like(is_first)
    action = nn.functional.one_hot(machine, 2).float()  # led into the step; the reward arrives with it
    reward = torch.where(machine == 0, 1.0, coin) * ~is_first
    seen = nn.functional.one_hot(machine, 2).float()  # the observation shows the machine, not the coin
    return Batch({"machine": seen}, action, reward, is_first, never, never)


torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
encoder = ObservationEncoder({}, {"machine": 2}, embed_dim=0)
rssm = DiscreteRSSM(2, encoder.output_dim, num_categoricals=8, num_categories=8, rnn_hidden_dim=64, hidden_dim=64)
heads = {
    "obs/machine": VectorDecoder(rssm.feat_dim, 2, target="obs/machine"),
    "reward": RewardPredictor(rssm.feat_dim, transform="none"),
    "reward_quantiles": RewardQuantiles(rssm.feat_dim),  # the loop over heads does the rest
}
world_model = WorldModel(encoder, rssm, heads, kl={"free_nats": 0.0}, kl_scale=0.1)
optimizer = torch.optim.Adam(world_model.parameters(), 1e-3)
for update in range(UPDATES):
    loss, _, metrics = world_model.loss(bandit(16, 16, generator))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 50 == 0 or update == UPDATES - 1:
        print(f"update {update:4}  loss {float(loss.detach()):6.3f}  quantiles {metrics['reward_quantiles_loss']:.3f}")

# The mean cannot tell the machines apart (1 and 1); the quantiles can: (1, 1, 1) and (0, any, 2).
with torch.no_grad():
    batch = bandit(64, 16, generator)
    _, posterior, _ = world_model.loss(batch)
    later = ~batch.is_first
    for machine in (0, 1):
        chosen = later & (batch.action[..., machine] == 1)
        mean = world_model.heads["reward"](posterior.feat)[chosen].mean()
        low, _, high = world_model.heads["reward_quantiles"](posterior.feat)[chosen].mean(0)
        print(f"machine {machine}: mean {mean:.2f}, 80 % of rewards between {low:.2f} and {high:.2f}")
