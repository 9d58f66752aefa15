"""Another distribution of the latent state, given from outside: 64 coin flips instead of 32 categoricals. Ten seconds.

A latent is a class with the methods of `reverie.latents.Latent`; only this class knows what a statistic means. Here the
world model is put together by hand. To train a whole agent with it: `reverie.Dreamer(..., modules={"latent":
BernoulliLatent})` (docs/modules.md).
"""

import math
import sys

import torch
from torch.nn.functional import softplus

from reverie.data.replay import Batch
from reverie.latents import Latent
from reverie.networks import ContinuePredictor, RewardPredictor, VectorDecoder
from reverie.observations import ObservationEncoder
from reverie.rssm import DiscreteRSSM
from reverie.world_model import WorldModel

UPDATES = int(sys.argv[1]) if len(sys.argv) > 1 else 150


class BernoulliLatent(Latent):
    """`size` independent bits with straight-through gradients. Statistics: one logit per bit."""

    def __init__(self, size=64):
        self.stoch_dim = self.stats_dim = size

    def noise(self, *batch, device=None, generator=None):
        return torch.rand(*batch, self.stoch_dim, device=device, generator=generator)

    def sample(self, stats, noise):
        probs = torch.sigmoid(stats.float())
        return (noise < probs).float() + (probs - probs.detach())  # the bit, with the gradient of its probability

    def mode(self, stats):
        probs = torch.sigmoid(stats.float())
        return (probs > 0.5).float() + (probs - probs.detach())

    def kl(self, left, right):
        """KL(left || right) in nats, summed over bits. softplus(x) is -log(1 - sigmoid(x))."""
        left, right = left.float(), right.float()
        probs = torch.sigmoid(left)
        return (probs * (left - right) - softplus(left) + softplus(right)).sum(-1)

    def entropy(self, stats):
        stats = stats.float()
        return (softplus(stats) - stats * torch.sigmoid(stats)).sum(-1)

    def summary(self, stats):
        """Numbers for the log: how undecided an average bit is, of at most 1."""
        return {"undecided": self.entropy(stats).mean() / (self.stoch_dim * math.log(2))}


def walks(count, length, generator):
    """A token on a ring of 8 cells that steps left or right; reward 1 on cell 0. -> Batch of (B, T, ...)."""
    action = torch.randint(0, 2, (count, length), generator=generator)
    start = torch.randint(0, 8, (count, 1), generator=generator)
    moves = torch.cat([torch.zeros(count, 1, dtype=torch.long), 2 * action[:, 1:] - 1], 1)
    cell = (start + moves.cumsum(1)) % 8
    is_first = torch.zeros(count, length, dtype=torch.bool)
    is_first[:, 0] = True
    never = torch.zeros_like(is_first)
    arrived = torch.nn.functional.one_hot(action, 2).float()  # action[:, t] led INTO step t (docs/time.md)
    reward = (cell == 0).float() * ~is_first
    return Batch({"cell": torch.nn.functional.one_hot(cell, 8).float()}, arrived, reward, is_first, never, never)


torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
encoder = ObservationEncoder({}, {"cell": 8}, embed_dim=0)
rssm = DiscreteRSSM(2, encoder.output_dim, rnn_hidden_dim=64, hidden_dim=64, latent=BernoulliLatent(64))
heads = {
    "obs/cell": VectorDecoder(rssm.feat_dim, 8, target="obs/cell"),
    "reward": RewardPredictor(rssm.feat_dim, transform="none"),
    "continue": ContinuePredictor(rssm.feat_dim),
}
world_model = WorldModel(encoder, rssm, heads, kl={"free_nats": 0.0}, kl_scale=0.3)
optimizer = torch.optim.Adam(world_model.parameters(), 1e-3)
for update in range(UPDATES):
    loss, posterior, metrics = world_model.loss(walks(16, 16, generator))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 30 == 0 or update == UPDATES - 1:
        undecided = rssm.latent.summary(posterior.stats.detach())["undecided"]
        print(
            f"update {update:4}  loss {float(loss.detach()):6.3f}  KL {float(metrics['kl']):6.3f} nats  "
            f"undecided {float(undecided):.2f}"
        )
