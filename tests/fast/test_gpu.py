"""What only a GPU can show. Skipped without one; `benchmarks/gpu.sh` runs it where there is one."""

import numpy as np
import pytest
import torch

from reverie.config.presets import preset_names
from reverie.errors import UserError
from tests.fast.test_fast import agent_of, batch_of, off, updates

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
UPDATES = 6  # three to warm up, one that is captured, two that are replayed


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def on_gpu(preset, mode, **settings):
    return agent_of(preset, mode, **{"compute.device": "cuda"} | settings)


@pytest.mark.parametrize("mode", ["fast", "graph"])
@pytest.mark.parametrize("preset", preset_names())
def test_every_mode_makes_the_same_updates(preset, mode):
    plain, quick = updates(on_gpu(preset, "reference"), UPDATES), updates(on_gpu(preset, mode), UPDATES)
    for step, ((metrics, gradients), (told, found)) in enumerate(zip(plain, quick, strict=True)):
        assert told == pytest.approx(metrics, rel=1e-2, abs=1e-3), step
        limit = 1e-4 if step == 0 else 2e-2  # then Adam makes full steps of gradients that are nothing but rounding
        assert {n: d for n in found if (d := off(found[n], gradients[n])) > limit} == {}, step


@pytest.mark.parametrize("mode", ["reference", "fast", "graph"])
def test_the_gpu_agrees_with_the_processor(mode):
    """On a batch of its own noise: the losses that do not depend on samples much."""
    cpu, gpu = agent_of("demo", "reference"), on_gpu("demo", mode)
    gpu.load_state_dict(cpu.state_dict())
    theirs, ours = updates(cpu, 1)[0][0], updates(gpu, 1)[0][0]
    keys = [key for key in theirs if "loss" in key and "world_model" in key]
    assert keys
    assert {k: ours[k] for k in keys} == pytest.approx({k: theirs[k] for k in keys}, rel=0.1, abs=0.1)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_a_captured_update_never_waits():
    agent = on_gpu("demo", "graph")
    batch = batch_of(agent)
    for _ in range(UPDATES):
        agent.update(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            agent.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_captured_updates_take_no_more_memory_each_time():
    agent = on_gpu("demo", "graph")
    batch = batch_of(agent)
    for _ in range(UPDATES):
        agent.update(batch)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        agent.update(batch)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 2**20


@pytest.mark.parametrize("mode", ["fast", "graph"])
def test_bfloat16_is_near(mode):
    plain = updates(on_gpu("demo", "reference"), 1)[0][0]
    low = updates(on_gpu("demo", mode, **{"compute.precision": "bfloat16"}), UPDATES)
    assert low[0][0] == pytest.approx(plain, rel=0.1, abs=0.1)
    assert all(np.isfinite(list(metrics.values())).all() for metrics, _ in low)


def test_two_captured_agents_side_by_side_are_as_alone():
    alone = updates(on_gpu("demo", "graph"), UPDATES)[-1][0]
    agents, streams = [on_gpu("demo", "graph") for _ in range(2)], [torch.cuda.Stream() for _ in range(2)]
    torch.manual_seed(1)
    told = []
    for seed in range(UPDATES):
        for agent, stream in zip(agents, streams, strict=True):
            with torch.cuda.stream(stream):
                told.append(agent.update(batch_of(agent, seed)))
    torch.cuda.synchronize()
    assert np.isfinite([float(value) for metrics in told for value in metrics.values()]).all()
    assert float(told[-1]["world_model/loss"]) == pytest.approx(alone["world_model/loss"], rel=0.2)


def test_acting_there_and_weights_back_here(tmp_path):
    import reverie
    from reverie import checkpoint

    agent = on_gpu("demo", "graph")
    for seed in range(UPDATES):
        agent.update(batch_of(agent, seed))
    player = agent.player(num_envs=3, mode="train")
    obs = {key: value[:3, 0].cpu().numpy() for key, value in batch_of(agent).obs.items()}
    assert player.act(obs, np.ones(3, bool)).shape == (3, agent.spec.action.size)
    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent))
    loaded = reverie.load_player(tmp_path / "saved", num_envs=3, device="cpu")
    for mine, theirs in zip(loaded.actor.parameters(), agent.actor.parameters(), strict=True):
        assert torch.equal(mine, theirs.cpu())


@pytest.mark.parametrize("mode", ["reference", "fast", "graph"])
def test_a_gpu_without_memory_is_told_with_a_batch_that_fits(make_run, tmp_path, mode):
    settings = {"compute.device": "cuda", "compute.mode": mode, "train.batch_size": 64, "model.hidden_dim": 512}
    run = make_run(tmp_path / "run", env_steps=10_000, **settings)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2_000_000) / total)
    try:
        with pytest.raises(UserError, match="the GPU ran out of memory") as caught:
            run.train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "train.batch_size=" in caught.value.hint
