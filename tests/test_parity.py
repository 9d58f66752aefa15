"""Golden parity: every equation against the NumPy reference of `tests/reference`, and proof that the checks can fail.

`reverie selftest` runs the same checks; here each is a test, and faults are put into the source one by one.
"""

import __future__

import argparse
import importlib
import inspect
import json
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import derivative, slow

import reverie
from reverie.errors import UserError
from reverie.selftest import CHECKS, cases_of, run_checks, selftest_command
from reverie.selftest.golden import TOLERANCE, compare, load_cases


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_equation(check):
    for case in cases_of(check):
        errors = compare(case, check.compute(case), check.only)
        assert {key: error for key, error in errors.items() if not error <= TOLERANCE} == {}, case.name


# ------------------------------------------------------------------------------------------------------- fixtures


def test_fixtures_are_small():
    golden = Path(reverie.__file__).parent / "golden"  # of the installed package, where that is what is tested
    assert 0 < sum(path.stat().st_size for path in golden.iterdir()) < 320_000


def test_every_number_of_every_fixture_is_looked_at():
    """An array that no check compares would be a promise that nobody keeps."""
    seen = set()
    for check in CHECKS:
        for case in cases_of(check):
            seen |= {(case.name, key) for key in compare(case, {}, check.only)}
    stored = {
        (name, key) for name, case in load_cases().items() for key in case.arrays if key.startswith(("out.", "grad."))
    }
    assert stored - seen == set()


def test_complex_steps_are_derivatives():
    """The reference's gradients once more, by central differences."""
    rng = np.random.default_rng(0)
    x, h, w, b = rng.normal(size=2), rng.normal(size=3), rng.normal(size=(9, 5)), rng.normal(size=9)

    def value(h):
        return (slow.gru_step(x, h, w, b, np.ones(9), np.zeros(9)) ** 2).sum()

    differences = [(value(h + d) - value(h - d)) / 2e-6 for d in 1e-6 * np.eye(3)]
    np.testing.assert_allclose(derivative.gradient(value, h), differences, rtol=1e-7)
    left, right = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    by_formula = slow.categorical_kl_gradients(left, right)
    for i, function in enumerate((lambda x: slow.categorical_kl(x, right), lambda x: slow.categorical_kl(left, x))):
        np.testing.assert_allclose(derivative.gradient(function, (left, right)[i]), by_formula[i], rtol=1e-12)
    assert derivative.gradient(lambda x: (derivative.sg(x) * x).sum(), np.array([3.0])) == 3.0


def test_the_reference_gives_the_numbers_worked_out_by_hand():
    """implementation-details.md#fingerprints."""
    returns = slow.lambda_return([0, 0, 1], [0.5, 0.4, 0.3, 2], [0.9, 0.9, 0], 0.95)
    np.testing.assert_allclose(returns, [0.7605675, 0.8685, 1.0], rtol=1e-12)
    np.testing.assert_allclose(slow.discount_weights([0.9, 0.8, 0, 0.7]), [1, 0.9, 0.72, 0], rtol=1e-12)
    np.testing.assert_allclose(
        slow.gru_step(np.ones(1), np.ones(1), np.zeros((3, 2)), np.zeros(3)), [0.7311], rtol=1e-4
    )


# ------------------------------------------------------------------------------------------------------- coverage

#: What must have a fixture, and the check that has it.
WANTED = {
    "GRU step": "GRU step, layer norm",
    "prior/posterior logits": "recurrent step, prior, posterior",
    "straight-through sample": "straight-through sample",
    "KL with balance and free nats": "KL balanced",
    "image likelihood": "image likelihood",
    "reward likelihood": "reward likelihood, tanh",
    "continue likelihood, hard": "continue likelihood, hard",
    "continue likelihood, soft": "continue likelihood, discounted",
    "lambda-return": "lambda-return",
    "discount weights": "discount weights",
    "actor loss, reinforce": "actor loss, reinforce",
    "actor loss, dynamics": "actor loss, dynamics",
    "actor loss, both": "actor loss, both",
    "critic loss": "critic loss",
    "slow-target update": "slow critic, copy",
    "optimiser step": "optimiser: Adam, clipping, decay",
    "paper or released code: KL direction": "KL forward",
    "paper or released code: credit": "the released code's credit",
    "paper or released code: epsilon": "optimiser: Keras' epsilon",
    "paper or released code: decay": "optimiser: decay times learning rate",
    "whole world model": "world model loss",
    "whole behaviour": "actor's update",
}


def test_every_function_of_the_list_has_a_check():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert set(WANTED.values()) <= set(names)


@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_actor_losses_are_checked_for_discrete_and_continuous_policies(mode):
    (check,) = (check for check in CHECKS if check.name == f"actor loss, {mode}")
    assert {case.options["policy"] for case in cases_of(check)} == {"onehot", "trunc_normal", "tanh_normal"}


def test_free_nats_are_checked_above_and_below_and_in_both_averages():
    for check in (check for check in CHECKS if check.name.startswith("KL ")):
        kinds = {case.name.split("/")[-1]: case for case in cases_of(check)}
        assert set(kinds) == {"mean_above", "mean_below", "each_some"}
        assert [kinds[kind].options["free_avg"] for kind in sorted(kinds)] == [False, True, True]
        assert not kinds["mean_below"].arrays["grad.prior"].any()
        states = kinds["each_some"].arrays["grad.prior"].any(-1)
        assert states.any()
        assert not states.all()


def found_in_source(place):
    """The functions and classes that a check's `where` names."""
    module, names = place.split(":")
    found = [importlib.import_module(module)]
    for name in names.replace(" ", "").split("."):
        found = [getattr(found[-1], name.split(",")[0])]
    return found[-1]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_where_a_check_points_there_is_code(check):
    assert callable(found_in_source(check.where.split(", ")[0]))


# ------------------------------------------------------------------------------------------- a check that can fail


def edit(monkeypatch, place, old, new):
    """Do to a function what a user's editor would: replace a piece of its source, for everyone who uses it."""
    function = found_in_source(place)
    function = inspect.unwrap(function.fget if isinstance(function, property) else function)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{place} has no single {old!r} any more: adapt this test"
    scope = dict(function.__globals__)
    code = compile(source.replace(old, new), place, "exec", __future__.annotations.compiler_flag)
    exec(code, scope)
    edited = scope[function.__name__]
    edited = inspect.unwrap(edited.fget if isinstance(edited, property) else edited)
    monkeypatch.setattr(function, "__code__", edited.__code__)


OPS, NET, SCALARS, RSSM, AC = (
    f"reverie.{name}:" for name in ("ops", "networks", "distributions", "rssm", "actor_critic")
)
KL, WORLD, BEHAVIOR = f"{RSSM}DiscreteRSSM.kl_loss", "reverie.world_model:WorldModel.", "reverie.behavior:Behavior."
UPDATE = f"{BEHAVIOR}losses"
DIRECTOR = "reverie.extensions.director:"
ENSEMBLE = "reverie.extensions.ensemble:"
PRIORS_LEARN, PRIORS_SCORE = "ensemble: loss of priors", "ensemble: priors score states"
HEADS_LEARN, HEADS_SCORE = "ensemble: loss of one-step heads", "ensemble: one-step heads score actions"

KLS = ["KL balanced", "KL bidirectional", "KL forward", "KL plain", "KL separate"]
GRUS = ["GRU step, layer norm", "GRU step, no norm", "GRU step, RMS norm"]
MODEL = ["world model loss", "world model gradient"]
PREDICTED = ["what is predicted at t", *MODEL]
ACTOR, CRITIC = "actor's update", "critic's update"
DREAMT = ["rewards, continues, targets of a dream", ACTOR, CRITIC]
LIVES = ["actor loss, reinforce", "actor loss, dynamics", "actor loss, both"]
RETURNS = ["lambda-return, by hand", "lambda-return"]
OPTIMISERS = [check.name for check in CHECKS if check.name.startswith("optimiser")]
AGC = "optimiser: adaptive clipping"
RELEASED = "policy, truncated normal as released"

#: (function, what is there, what is put there, the checks that must fail, and no others)
FAULTS = [
    # one formula wrong
    (f"{OPS}symlog", "torch.log1p(x.clamp(min=0)), -", "x, -",
     ["symlog and symexp", "reward likelihood, symlog", "reward likelihood, two-hot", "critic loss, symlog",
      "critic loss, two-hot", "filtering", *PREDICTED]),
    (f"{OPS}straight_through", "return sample + (probs - probs.detach())", "return sample",
     ["straight-through sample", "policy, one-hot", MODEL[1], ACTOR, "hierarchy: loss of goals"]),
    (f"{OPS}squared_error", ".sum(-1)", ".mean(-1)", ["image likelihood", "vector likelihood", *PREDICTED]),
    (f"{OPS}two_hot_nll", "(1 - share) * below", "share * below",
     ["reward likelihood, two-hot", "critic loss, two-hot", *PREDICTED, CRITIC]),
    (f"{OPS}mix_uniform", "share / logits.shape[-1]", "share",
     ["straight-through sample", *MODEL, "dream", *DREAMT]),
    (f"{SCALARS}NormalScalar.nll", "self.squash(target)", "target",
     ["reward likelihood, tanh", "reward likelihood, sign", "reward likelihood, symlog", "critic loss, symlog",
      *PREDICTED]),
    (f"{SCALARS}NormalScalar.mean", "self.unsquash(stats.squeeze(-1).float())", "stats.squeeze(-1).float()",
     ["reward likelihood, symlog", "critic loss, symlog"]),
    ("reverie.layers:NormGRUCell.forward", "update - 1", "update",
     [*GRUS, "recurrent step, prior, posterior", "reset at a first step", "filtering", *PREDICTED, "dream", *DREAMT]),
    (f"{NET}ConvEncoder.forward", "self.layers(image", "self.layers[:-1](image",
     ["image encoder", "filtering", *PREDICTED]),
    (f"{NET}ContinuePredictor.loss", "self.discount * target", "target",
     ["continue likelihood, discounted", *PREDICTED]),
    (f"{NET}ContinuePredictor.forward", " / self.discount", "", ["continue likelihood, discounted", *DREAMT]),
    (KL, "(kl_balance, kl(posterior.detach(), prior)), (1 - kl_balance, kl(posterior, prior.detach()))",
     "(1 - kl_balance, kl(posterior.detach(), prior)), (kl_balance, kl(posterior, prior.detach()))",
     ["KL balanced", MODEL[1]]),
    (KL, "kl(posterior.detach(), prior)", "kl(posterior, prior)", ["KL balanced", MODEL[1]]),
    (KL, "kl(posterior, prior.detach())", "kl(posterior, prior)", ["KL balanced", MODEL[1]]),
    (f"{OPS}free_bits", "of_all(nats.mean(), shared).clamp(min=free_nats)", "of_all(nats.mean(), shared)", KLS),
    (f"{OPS}free_bits", "of_all(nats.mean(), shared).clamp(min=free_nats)", "nats.clamp(min=free_nats).mean()", KLS),
    (f"{RSSM}CategoricalLatent.kl", "left_log.exp() *", "right_log.exp() *",
     [*KLS, *MODEL, PRIORS_LEARN, "hierarchy: loss of goals"]),
    (f"{RSSM}GaussianLatent.mean_std", "+ 0.1", "+ 0.0",
     ["Gaussian latent", "filtering", *PREDICTED, "dream", *DREAMT, "ensemble: disagreement, Gaussian"]),
    ("reverie.distributions:TruncatedNormalPolicy.log_prob", " - torch.log(self.mass)", "",
     ["policy, truncated normal", RELEASED, "actor loss, reinforce", "actor loss, both"]),
    ("reverie.distributions:ReleasedTruncatedNormalPolicy._scaled", ".detach()", "", [RELEASED]),
    ("reverie.distributions:TanhNormalPolicy.log_prob", "gaussian - self._log_slope(x)", "gaussian",
     ["policy, tanh normal", "actor loss, reinforce", "actor loss, both"]),
    (f"{AC}compute_lambda_returns", "(1 - lambda_) * values[:, 1:]", "(1 - lambda_) * values[:, :-1]",
     [*RETURNS, *DREAMT, "hierarchy: windows of the manager"]),
    (f"{AC}compute_discount_weights", "torch.ones_like(discounts[:, :1]), discounts[:, :-1]", "discounts",
     ["discount weights", ACTOR, CRITIC, "hierarchy: segments of the worker", "hierarchy: windows of the manager"]),
    (f"{AC}compute_actor_loss", "(targets - baseline).detach()", "(targets - baseline)",
     ["actor loss, reinforce", "actor loss, both", ACTOR]),
    (f"{AC}compute_actor_loss", "reinforce = policy.log_prob(action.detach())", "reinforce = policy.log_prob(action)",
     [ACTOR]),
    (f"{AC}compute_actor_loss", "objective = targets", "objective = targets - baseline",
     ["actor loss, dynamics", ACTOR]),
    (f"{AC}compute_actor_loss", "objective + entropy_scale", "objective - entropy_scale", [*LIVES, ACTOR]),
    (f"{AC}compute_critic_loss", "values - targets.detach()", "values - targets", ["critic loss"]),
    (f"{AC}compute_critic_loss", "weights.detach() * (", "(",
     ["critic loss", "critic loss, symlog", "critic loss, two-hot", CRITIC]),
    (f"{AC}released_credit", "targets[:, 1:]", "targets[:, :-1]", ["the released code's credit", ACTOR]),
    (f"{AC}Critic.copy_from", "mine.copy_(theirs)", "None", ["slow critic, copy", "slow critic's schedule"]),
    (f"{AC}Critic.copy_from", "theirs, fraction)", "theirs, 1 - fraction)",
     ["slow critic, moving average", *DREAMT]),
    (f"{AC}ReturnScale.forward", "1 - self.decay", "self.decay", ["range of returns", ACTOR]),
    # the optimiser
    ("reverie.optim:keras_eps", "beta2**update", "beta2", ["optimiser: Keras' epsilon"]),
    ("reverie.optim:clip_adaptive_", "min=floor", "min=0", [AGC]),
    ("reverie.optim:LaProp._move", "(1 - beta2**t)", "1.0", ["optimiser: LaProp"]),
    ("reverie.optim:Optimizer.clip", "self.max_norm", "1e9", [name for name in OPTIMISERS if name != AGC]),
    ("reverie.optim:Optimizer.schedule", "self.weight_decay / lr if", "self.weight_decay if",
     [name for name in OPTIMISERS if name != "optimiser: decay times learning rate"]),
    # a step too early or too late
    (f"{RSSM}DiscreteRSSM.rollout_observation", "over_time(embed, action,",
     "over_time(embed, action.roll(-1, 1).nan_to_num(),", ["filtering", *PREDICTED]),
    (f"{RSSM}DiscreteRSSM.rollout_observation", "self.prior_net(posterior.deter)",
     "self.prior_net(posterior.deter.roll(1, 1))", ["filtering", *MODEL]),
    (f"{WORLD}targets", '"reward": batch.reward', '"reward": batch.reward.roll(1, 1)', PREDICTED),
    (f"{WORLD}targets", "1 - batch.is_terminal", "1 - batch.is_terminal.roll(1, 1)", PREDICTED),
    (f"{WORLD}dream_scores", "states = feat[:, :-1]", "states = feat[:, 1:]", DREAMT),
    (f"{WORLD}dream_scores", "states[:, 1:]", "states[:, :-1]", DREAMT),
    (f"{WORLD}dream_scores", "head(feat[:, 1:])", "head(feat[:, :-1])", DREAMT),
    # episodes that begin and end
    (f"{RSSM}DiscreteRSSM.observe", "reset_where(is_first, action)", "action",  # NaN: no step is made
     ["reset at a first step", "filtering", *PREDICTED, "world model's update changes the world model only"]),
    (f"{RSSM}DiscreteRSSM.observe", "State(*(reset_where(is_first, x) for x in state))", "state",
     ["reset at a first step", "filtering", *PREDICTED]),
    (f"{RSSM}DiscreteRSSM.rollout_observation", "torch.ones_like(is_first[:, :1])", "is_first[:, :1]",
     ["filtering", *PREDICTED]),
    (f"{WORLD}dream_scores", "torch.cat([alive[:, None], self.continues(states[:, 1:])], 1)",
     "self.continues(states)", DREAMT),
    (UPDATE, "targets, baseline, weights * alive[:, None]", "targets, baseline, weights", [ACTOR]),
    # gradients where none belong, or none where they belong
    (f"{WORLD}loss", "features.detach() if", "features if", [MODEL[1]]),
    (f"{BEHAVIOR}dream_action", "feat.detach()", "feat", [ACTOR]),
    (UPDATE, "dream.feat[:, :-1].detach()", "dream.feat[:, :-1]", [ACTOR]),
    (UPDATE, 'self.actor_grad != "reinforce"', "False", [ACTOR]),
    # put together wrongly
    (f"{RSSM}State.feat", "[self.stoch, self.deter]", "[self.deter, self.stoch]",
     [*PREDICTED, "dream", *DREAMT, HEADS_LEARN]),
    ("reverie.observations:preprocess", ".sub_(0.5)", "", ["filtering", *PREDICTED]),
    (f"{WORLD}loss", "self.kl_scale * kl_loss", "kl_loss", MODEL),
    (UPDATE, 'online if options.baseline == "online"', 'online if options.baseline == "slow"', [ACTOR]),
    (f"{BEHAVIOR}predict", "self.slow_critic if self.options.slow_critic else", "", DREAMT),
    (f"{BEHAVIOR}prepare", "% options.slow_critic_every == 0", "% options.slow_critic_every == -1",
     ["slow critic's schedule", *DREAMT, "behaviour's update changes actor and critic only"]),
    (f"{BEHAVIOR}critic_nll", "weight * self.critic.nll", "self.critic.nll", [CRITIC]),
    (f"{BEHAVIOR}entropy_scale", "updates / options.entropy_decay", "0", [ACTOR]),
    # ensembles
    ("reverie.latents:CategoricalLatent.disagreement", "of_all - of_each", "of_all",
     ["ensemble: disagreement, categorical", PRIORS_SCORE]),
    ("reverie.latents:GaussianLatent.disagreement", "correction=0", "correction=1",
     ["ensemble: disagreement, Gaussian"]),
    (f"{ENSEMBLE}PriorEnsemble.loss", "posterior.stats.detach()", "posterior.stats", [PRIORS_LEARN]),
    (f"{ENSEMBLE}PriorEnsemble.loss", "posterior.deter.detach()", "posterior.deter", [PRIORS_LEARN]),
    (f"{ENSEMBLE}PriorEnsemble.loss", "self.weights * nats", "nats", [PRIORS_LEARN]),
    (f"{ENSEMBLE}PriorEnsemble.of_states", ":-1, :", "1:, :", [PRIORS_SCORE]),
    (f"{ENSEMBLE}OneStepEnsemble.loss", "batch.action[:, 1:]", "batch.action[:, :-1].nan_to_num()", [HEADS_LEARN]),
    (f"{ENSEMBLE}OneStepEnsemble.loss", "inside * (nats", "1.0 * (nats", [HEADS_LEARN]),
    (f"{ENSEMBLE}OneStepEnsemble.loss", "posterior.stoch.detach()", "posterior.stoch", [HEADS_LEARN]),
    (f"{ENSEMBLE}OneStepEnsemble.of_arrivals", ":-1, :", "1:, :", [HEADS_SCORE]),
    ("reverie.extensions.explore:RunningDeviation.forward", "new.lerp(self.value, self.momentum)", "new",
     ["ensemble: rewards"]),
    # hierarchy
    (f"{DIRECTOR}GoalAutoencoder.losses", "deter.detach().float()", "deter.float()", ["hierarchy: loss of goals"]),
    (f"{DIRECTOR}GoalAutoencoder.losses", "torch.zeros_like(stats)", "stats.detach()", ["hierarchy: loss of goals"]),
    (f"{DIRECTOR}GoalAutoencoder.novelty", ".mean(-1)", ".sum(-1)", ["hierarchy: novelty"]),
    (f"{DIRECTOR}KLWeight.follow", "nats > target * (1 + self.tolerance)", "nats > target",
     ["hierarchy: weight of the code's entropy"]),
    (f"{DIRECTOR}goal_reward", "torch.maximum(*lengths)", "torch.minimum(*lengths)",
     ["hierarchy: max-cosine", "hierarchy: segments of the worker"]),
    (f"{DIRECTOR}segments", "states[:, every::every]", "states[:, every - 1 :: every]",
     ["hierarchy: segments of the worker"]),
    (f"{DIRECTOR}pursued", "going_on[:, :1].detach() * ", "", ["hierarchy: segments of the worker"]),
    (f"{DIRECTOR}abstract", "going_on[..., :-1]], -1).cumprod(-1)", "going_on[..., 1:]], -1).cumprod(-1)",
     ["hierarchy: windows of the manager"]),
    (f"{DIRECTOR}RunningMoments.forward", "known = (1 - self.decay**self.count)", "known = (1 - 0 * self.count)",
     ["hierarchy: scale of returns"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "old", "new", "expected"), FAULTS, ids=[f"{place.split(':')[1]} {new}" for place, _, new, _ in FAULTS]
)
def test_a_fault_breaks_the_checks_of_its_equation_and_no_others(place, old, new, expected, monkeypatch):
    edit(monkeypatch, place, old, new)
    assert [result.name for result in run_checks() if not result.ok] == expected


def test_every_check_has_been_seen_to_fail():
    """Except those whose equation is a variant of one that has."""
    never = {check.name for check in CHECKS} - {name for *_, expected in FAULTS for name in expected}
    assert never == {
        "GRU step, textbook cell",
        "dense layers",
        "reward likelihood, none",
        "continue likelihood, hard",
    }


@pytest.mark.parametrize("mode", ["forward", "separate"])
def test_a_variant_of_the_kl_loss_without_its_stop_gradients_is_noticed(mode, monkeypatch):
    from reverie import rssm

    variant = rssm.KL_VARIANTS[mode]

    class Leaking(torch.Tensor):
        """Its gradient cannot be stopped."""

        def detach(self):
            return self

    monkeypatch.setitem(
        rssm.KL_VARIANTS,
        mode,
        lambda kl, *stats_and_weights: variant(
            lambda left, right: kl(left.as_subclass(torch.Tensor), right.as_subclass(torch.Tensor)),
            *(x.as_subclass(Leaking) if isinstance(x, torch.Tensor) else x for x in stats_and_weights),
        ),
    )
    assert [result.name for result in run_checks() if not result.ok] == [f"KL {mode}", MODEL[1]]


def test_another_head_breaks_no_check_of_what_was_there(monkeypatch):
    """`selftest` compares with golden weights, which know nothing of a head that a reader adds."""
    from reverie import build
    from reverie.networks import VectorDecoder

    heads = build._heads

    def more(config, spec, feat_dim, mlp):
        found, scales = heads(config, spec, feat_dim, mlp)
        return found | {"another": VectorDecoder(feat_dim, 2, target="reward", mlp=mlp)}, scales

    monkeypatch.setattr(build, "_heads", more)
    assert [result.name for result in run_checks() if not result.ok] == []


def test_a_leak_into_the_world_model_is_noticed(monkeypatch):
    """An optimiser that also moves what the dream runs through."""
    from reverie.train import DreamerV2

    step = DreamerV2._step

    def leaking(self, name, loss):
        with torch.no_grad():
            next(self.world_model.parameters()).add_(1e-3)
        return step(self, name, loss)

    monkeypatch.setattr(DreamerV2, "_step", leaking)
    (result,) = run_checks("behaviour's update changes")
    assert not result.ok


# ------------------------------------------------------------------------------------------------------ the command


def command(**options):
    return selftest_command(argparse.Namespace(**{"json": False, "only": None} | options))


def test_selftest_says_that_all_equations_hold_and_takes_seconds(capsys):
    start = time.perf_counter()
    assert command() == 0
    assert time.perf_counter() - start < 60
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS) + 2
    assert all(line.startswith("ok ") for line in lines[1:-1])
    assert lines[-1].startswith(f"{len(CHECKS)} equations hold, worst relative error ")


def test_selftest_names_the_equation_that_broke_and_where(monkeypatch, capsys):
    edit(monkeypatch, f"{AC}compute_critic_loss", "values - targets.detach()", "values - targets")
    assert command() == 1
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines() if line.startswith("FAIL")] == ["FAIL critic loss"]
    assert out.splitlines()[-1].startswith(
        "broken: critic loss (paper Eq. 5, implementation-details.md#critic), "
        "in reverie.actor_critic:compute_critic_loss: "
        "critic/normal_none grad.targets is off by "
    )


def test_selftest_survives_code_that_raises_and_says_what_follows(monkeypatch, capsys):
    edit(monkeypatch, f"{AC}compute_discount_weights", "gamma * continues.detach()", "gamma * nonsense")
    assert command() == 1
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith(
        "broken: discount weights (implementation-details.md#imagination), "
        "in reverie.actor_critic:compute_discount_weights: "
    )
    assert "NameError: name 'nonsense' is not defined" in last[0]
    assert last[1].endswith("which may follow from it: look at this one first.")


def test_selftest_as_json_and_only_some(monkeypatch, capsys):
    assert command(json=True, only="KL") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert [check["name"] for check in told["checks"]] == KLS
    assert all(check["error"] < TOLERANCE for check in told["checks"])
    edit(monkeypatch, KL, "kl = self.latent.kl", "kl = None")
    assert command(json=True, only="kl balanced") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["checks"][0]["error"]) == (False, None)


def test_selftest_of_something_unknown_lists_what_there_is():
    with pytest.raises(UserError, match="no check is called 'nonsense'"):
        run_checks("nonsense")


def test_selftest_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    run_checks("KL balanced")
    assert torch.equal(before, torch.get_rng_state())
