"""Two ranks with halves of batch and noise compute what one does with the whole: losses, gradients.

Ranks are forked processes with gloo between them. Of the noise each rank draws its half of the draw for all: the first
axis of all noise is the batch, or the dreams of it.
"""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.finite import NonFinite
from reverie.ranks import ALONE, RankLost, Ranks, seed_of
from reverie.train import DreamerV2

FORK = multiprocessing.get_context("fork")
BATCH, LENGTH, UPDATES = 4, 6, 3
SPEC = Spec({"state": ObsKey(("state",), "vector", (3,), (3,), "")}, ActionSpec.discrete(3))
#: By name: settings under which something of a batch is measured as a whole.
CASES = {
    "plain": {"compute.mode": "reference"},
    "fast": {"compute.mode": "fast"},
    "scales": {"return_norm": "percentile", "advantage_center": "depth", "entropy_target": 0.5, "free_nats": 3.0,
               "free_avg": True, "compute.mode": "reference"},
    "ensemble": {"ensemble.members": 2, "ensemble.kind": "one_step", "behavior.explore": "ensemble",
                 "ensemble.bootstrap": False, "start_share": 1.0, "compute.mode": "reference"},
    "overshooting": {"overshooting": 1.0, "overshooting_starts": 0, "overshooting_depth": 3, "free_nats": 1.0,
                     "compute.mode": "reference"},
}  # fmt: skip


def run_ranks(work, size=2, *arguments, lost=None):
    """work(ranks, *arguments) in `size` forked processes -> what each returned, or the exception that it raised.

    lost: the rank whose process ends without a word.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, size + 1, is_master=True, wait_for_workers=False)
    port, queue = store.port, FORK.Queue()

    def body(rank):
        try:
            if size > 1:
                store = torch.distributed.TCPStore("127.0.0.1", port, size, is_master=False)
                torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
            queue.put((rank, work(Ranks(rank, size), *arguments)))
        except (Exception, SystemExit) as error:  # for the test to see
            queue.put((rank, error))

    processes = [FORK.Process(target=body, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=60) for process in processes[lost is not None :])
    for process in processes:
        process.join(30)
    return [found.get(rank) for rank in range(size)]


def make_agent(case):
    torch.manual_seed(0)
    small = {"env.id": "custom:toy", "batch_size": BATCH, "seq_len": LENGTH, "compute.precision": "float32"}
    return DreamerV2(load_preset("debug", small | CASES[case]), SPEC)


def make_batch(update):
    rng = np.random.default_rng(update)
    first = rng.random((BATCH, LENGTH)) < 0.2
    action = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (BATCH, LENGTH))]
    action[first] = np.nan
    draw = rng.normal(size=(BATCH, LENGTH, 3)).astype(np.float32)
    reward = np.where(first, 0, rng.normal(size=(BATCH, LENGTH))).astype(np.float32)
    last = np.roll(first, -1, 1) & (np.arange(LENGTH) < LENGTH - 1)
    batch = Batch({"state": draw}, action, reward, first, last, last & (rng.random((BATCH, LENGTH)) < 0.5))
    return batch.map(torch.from_numpy)


def part_of(batch, ranks):
    share = BATCH // ranks.size
    keep = slice(ranks.rank * share, (ranks.rank + 1) * share)
    return batch.map(lambda x: x[keep])


def share_noise(ranks, monkeypatch):
    """Let torch.rand and randn give each rank its part of what one rank with the whole batch would draw."""
    for name in ("rand", "randn"):
        whole = getattr(torch, name)

        def part(*shape, _whole=whole, **options):
            shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
            drawn = _whole(shape[0] * ranks.size, *shape[1:], **options)
            return drawn[ranks.rank * shape[0] : (ranks.rank + 1) * shape[0]].clone()

        monkeypatch.setattr(torch, name, part)


def three_updates(ranks, case, poison=-1):
    """-> [{"loss/NAME", "grad/NAME", "scale/i"}] of three updates; poison: this rank's reward is NaN in the second."""
    found = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        agent = make_agent(case)
        agent.join(ranks)
        share_noise(ranks, monkeypatch)
        torch.manual_seed(7)
        step = agent.optimizers.step

        def record(losses, check):
            def look(numbers, others):
                check(numbers, others)
                for name, value in zip(losses, numbers, strict=False):
                    found[-1][f"loss/{name}"] = value.detach().clone()
                    grads = [p.grad.flatten() for p in agent.optimizers[name].parameters]
                    found[-1][f"grad/{name}"] = torch.cat(grads)

            return step(losses, look)

        monkeypatch.setattr(agent.optimizers, "step", record)
        monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda parameters, limit: norm_of(parameters))
        for update in range(UPDATES):
            found.append({})
            batch = part_of(make_batch(update), ranks)
            if update == 1 and poison == ranks.rank:
                batch.reward[0, 2] = torch.nan
            agent.update(batch)
            found[-1] |= {f"scale/{i}": scale.clone() for i, scale in enumerate(agent.guard.scales)}
    return [{key: value.numpy() for key, value in each.items()} for each in found]


def norm_of(parameters):
    return torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in parameters]))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_compute_what_one_does(case):
    alone = three_updates(ALONE, case)
    both = run_ranks(three_updates, 2, case)
    for update, one in enumerate(alone):
        for rank in (0, 1):
            assert one.keys() == both[rank][update].keys()
            for key, value in one.items():
                size = max(1.0, float(np.abs(value).max()))
                assert np.abs(both[rank][update][key] - value).max() <= 1e-5 * size, (update, rank, key)
        for key in one:
            assert np.array_equal(both[0][update][key], both[1][update][key]), key  # bit for bit on both


def test_noise_and_batch_matter():
    """Else the test above would compare nothing."""
    alone = three_updates(ALONE, "plain")
    again = three_updates(ALONE, "plain")
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(alone, again, strict=True) for key in a)
    assert not np.allclose(alone[0]["grad/world_model"], alone[1]["grad/world_model"], atol=1e-3)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_nan_of_one_rank_stops_the_update_on_all(bad):
    found = run_ranks(three_updates_or_name, 2, "plain", bad)
    assert found == ["world model", "world model"]


def three_updates_or_name(ranks, case, bad):
    try:
        three_updates(ranks, case, bad)
    except NonFinite as trouble:
        return trouble.case.stage
    return "finite"


def test_what_ranks_exchange():
    def work(ranks):
        x = torch.tensor([1.0, 2.0]) * (ranks.rank + 1)
        averaged = ranks.average_([x, torch.full((2, 1), float(ranks.rank))])
        texts = ranks.exchange(b"" if ranks.first else b"four")
        return {
            "mean": ranks.mean(x).tolist(),
            "gather": ranks.gather(x).tolist(),
            "average": [each.tolist() for each in averaged],
            "total": ranks.total(ranks.rank + 1, 5),
            "any": (
                ranks.any(False),
                ranks.any(ranks.rank == 1),
                ranks.of_first(ranks.rank == 1),
                ranks.of_first(True),
            ),
            "texts": texts,
        }

    for found in run_ranks(work):
        assert found == {
            "mean": [1.5, 3.0],
            "gather": [1.0, 2.0, 2.0, 4.0],
            "average": [[1.5, 3.0], [[0.5], [0.5]]],
            "total": [3, 10],
            "any": (False, True, False, True),
            "texts": [b"", b"four"],
        }


def test_the_only_rank_gets_its_own():
    x = torch.ones(3)
    assert ALONE.mean(x) is x
    assert ALONE.gather(x) is x
    assert ALONE.exchange(b"a") == [b"a"]
    assert (ALONE.any(True), ALONE.any(False), ALONE.first) == (True, False, True)


def test_a_lost_rank_is_noticed():
    def work(ranks):
        if ranks.rank == 1:
            return "gone"  # its process ends
        for _ in range(1000):
            ranks.wait()
        return "never"

    first, second = run_ranks(work)
    assert isinstance(first, RankLost)
    assert second == "gone"


def test_seeds_of_ranks_differ():
    assert seed_of(3, 0) == 3
    assert len({seed_of(seed, rank) for seed in range(20) for rank in range(20)}) > 390


def test_gradients_are_this_ranks_own_elsewhere():
    """`apart`: a diagnosis of one rank waits for no other."""

    def work(ranks):
        agent = make_agent("scales")
        agent.join(ranks)
        if ranks.rank == 1:
            return 0.0
        with agent.apart():
            loss: Tensor = agent.world_model_loss(make_batch(0))[0]
        assert agent.ranks is ranks
        return float(loss.detach())

    assert run_ranks(work)[0] > 0
