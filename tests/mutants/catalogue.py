"""Bugs that Dreamers really had, as one-line edits of our source. The tests must notice every one of them.

`thread` names where the bug was met: repository and issue or pull request, or the row of FACTS.md section 4 that
describes it in the official code (A) or in ports (B). "ours" is a mistake that is merely easy to make.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One edit: `old` occurs exactly once in src/reverie/`file` and becomes `new`."""

    id: str
    file: str
    old: str
    new: str
    harm: str
    thread: str
    first: str  # the test file that should notice it first; the others follow if it does not


def _m(id: str, where: str, old: str, new: str, harm: str, thread: str) -> Mutant:
    file, first = where.split(" < ")
    return Mutant(id, file, old, new, harm, thread, first)


MUTANTS = [
    # ---------------------------------------------------------------------------------------------- one step too many
    _m("reward-shifted", "world_model.py < test_world_model", '"reward": batch.reward,', '"reward": batch.reward.roll(-1, 1),',
       "The reward head learns the reward of the next step.", "epignatelli/navix PR 152; FACTS B5"),
    _m("dream-reward-shifted", "train.py < test_train", 'return head("reward")(states), critic(feat), continues',
       'return head("reward")(feat[:, 1:]), critic(feat), continues',
       "Dreamed rewards belong to the next state, values do not.", "RajGhugare19/dreamerv2 issue 1; FACTS B5"),
    _m("dream-continue-shifted", "train.py < test_train", "self.world_model.continues(states[:, 1:])], 1)",
       "self.world_model.continues(states[:, :-1])], 1)", "A dream ends one step too late.", "epignatelli/navix PR 152; FACTS B5"),
    _m("lambda-early-bootstrap", "actor_critic.py < test_actor_critic", "* values[:, 1:]", "* values[:, :-1]",
       "The lambda-return bootstraps from the state itself.", "yusukeurakami/dreamer-pytorch PR 13; FACTS B5"),
    _m("lambda-late-bootstrap", "actor_critic.py < test_actor_critic", "future, returns = values[:, -1], []",
       "future, returns = values[:, -2], []", "The last value that bootstraps is one step early.", "yusukeurakami/dreamer-pytorch PR 13; FACTS B5"),
    _m("weights-not-shifted", "actor_critic.py < test_actor_critic",
       "torch.cat([torch.ones_like(discounts[:, :1]), discounts[:, :-1]], 1).cumprod(1)", "discounts.cumprod(1)",
       "The action that reaches the end gets no gradient.", "epignatelli/navix PR 152; FACTS B6"),
    _m("action-shifted", "rssm.py < test_alignment", "over_time(embed, action, is_first, noise)",
       "over_time(embed, action.roll(-1, 1), is_first, noise)", "The model is told the action out of a step instead of into it.",
       "danijar/dreamerv2 issue 58; FACTS B4"),
    _m("advantage-off-centre", "train.py < test_options", 'if options.advantage == "released":', "if True:",
       "Actions are scored by G_{k+1} - v_k whatever was asked for.", "danijar/dreamerv2 issue 60; FACTS A1"),
    _m("baseline-shifted", "train.py < test_train", 'online if options.baseline == "online" else values[:, :-1]',
       'online if options.baseline == "online" else values[:, 1:]', "The baseline is the next state's value.", "ours"),
    _m("prior-shifted", "rssm.py < test_rssm", "return posterior, self.prior_net(posterior.deter)",
       "return posterior, self.prior_net(posterior.deter.roll(-1, 1))", "The prior is compared with the wrong step's posterior.",
       "epignatelli/navix PR 152; FACTS B4"),
    # --------------------------------------------------------------------------------------------------------- resets
    _m("is-first-ignored", "rssm.py < test_rssm", "state = State(*(reset_where(is_first, x) for x in state))", "state = State(*state)",
       "Memory leaks from one episode into the next.", "epignatelli/navix PR 152; FACTS A5"),
    _m("action-kept-at-reset", "rssm.py < test_rssm", "self.recurrent_step(state, reset_where(is_first, action))",
       "self.recurrent_step(state, torch.nan_to_num(action))", "The last action of an episode acts on the next one.",
       "pytorch/rl PR 4128, jurgisp/pydreamer; FACTS B2"),
    _m("window-start-not-a-reset", "rssm.py < test_rssm",
       "is_first = torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], 1)", "pass",
       "A window starts from NaN actions or from nowhere.", "FACTS A5"),
    _m("is-first-late", "collect.py < test_collect", "return _rows(obs, action, reward, ended, last, terminated), episodes",
       "return _rows(obs, action, reward, last, last, terminated), episodes", "The flag stands on the last step instead of the first.",
       "Eclectic-Sheep/sheeprl PR 60; FACTS B3"),
    _m("dream-never-advances", "rssm.py < test_rssm", "state = self.prior(self.recurrent_step(state, action), noise_k)",
       "state = self.prior(self.recurrent_step(start, action), noise_k)", "Each dreamed step starts from the first state again.",
       "pytorch/rl issue 3236"),
    _m("player-keeps-memory", "player.py < test_player", "np.asarray(first | self.fresh)", "np.asarray(first & False)",
       "The policy's memory is not reset between episodes.", "danijar/dreamerv2 issue 36; FACTS B21"),
    # ---------------------------------------------------------------------------------------------------------- the KL
    _m("kl-sides-swapped", "rssm.py < test_rssm", "sides = [(kl_balance, kl(fixed_posterior, prior)), (1 - kl_balance, kl(posterior, fixed_prior))]",
       "sides = [(kl_balance, kl(prior, fixed_posterior)), (1 - kl_balance, kl(fixed_prior, posterior))]",
       "KL(prior || posterior) instead of KL(posterior || prior).", "danijar/dreamerv2 issue 4"),
    _m("kl-stop-gradient-wrong-side", "rssm.py < test_rssm",
       "sides = [(kl_balance, kl(fixed_posterior, prior)), (1 - kl_balance, kl(posterior, fixed_prior))]",
       "sides = [(kl_balance, kl(posterior, fixed_prior)), (1 - kl_balance, kl(fixed_posterior, prior))]",
       "The encoder gets 0.8 of the gradient and the prior 0.2: collapse.", "Eclectic-Sheep/sheeprl issue 302; FACTS 1.8"),
    _m("kl-no-stop-gradient", "rssm.py < test_rssm", "fixed_posterior, fixed_prior = posterior.detach(), prior.detach()",
       "fixed_posterior, fixed_prior = posterior, prior", "No balancing: both sides get the whole gradient.", "the design document's formula; FACTS 2 row 1"),
    _m("free-nats-per-state", "rssm.py < test_rssm",
       "return value.mean().clamp(min=free_nats) if free_avg else value.clamp(min=free_nats).mean()",
       "return value.clamp(min=free_nats).mean()", "Free nats are compared state by state.",
       "danijar/dreamer issues 44, 53, 56; juliusfrost/dreamer-pytorch PR 75; FACTS B11"),
    _m("kl-scale-ignored", "world_model.py < test_world_model", "self.kl_scale * kl_loss", "kl_loss",
       "Atari's 0.1 becomes 1.", "FACTS B15, A19"),
    _m("unimix-ignored", "rssm.py < test_options", "return mix_uniform(logits, self.unimix)", "return logits",
       "The option is read and does nothing.", "danijar/dreamerv3 issue 219"),
    _m("unimix-left-on", "config.py < test_presets", '    unimix: float = opt(0.0,', '    unimix: float = opt(0.01,',
       "A DreamerV3 ingredient in a DreamerV2.", "FACTS B26"),
    # ------------------------------------------------------------------------------------------------------- gradients
    _m("no-straight-through", "ops.py < test_ops", "return sample + (probs - probs.detach())", "return sample.detach()",
       "Dynamics gradients never reach a discrete actor, the encoder learns nothing through z.", "epignatelli/navix PR 152; FACTS B7"),
    _m("dream-actions-detached", "train.py < test_train", "self.policy(feat.detach()).sample()",
       "self.policy(feat.detach()).sample().detach()", "In dynamics mode the actor gets the entropy gradient only.",
       "epignatelli/navix PR 152, simulusion 0.4.2; FACTS B7"),
    _m("dynamics-without-a-graph", "train.py < test_train", 'torch.set_grad_enabled(self.actor_grad != "reinforce")',
       "torch.set_grad_enabled(False)", "Dynamics mode with everything detached: continuous control cannot train.",
       "jurgisp/pydreamer HEAD; FACTS B8"),
    _m("action-attached-in-score", "actor_critic.py < test_actor_critic", "score = log_prob(action.detach())", "score = log_prob(action)",
       "A straight-through leak into the REINFORCE term.", "danijar/dreamerv2 commit 6504715; FACTS A2"),
    _m("advantage-attached", "actor_critic.py < test_actor_critic", "(targets - baseline).detach()\n", "(targets - baseline)\n",
       "The score's weight is differentiated too.", "ours"),
    _m("critic-loss-unweighted", "actor_critic.py < test_actor_critic",
       "loss = (weights.detach() * (0.5 * error**2 if nll is None else nll)).mean()",
       "loss = (0.5 * error**2 if nll is None else nll).mean()", "States after the end are trained on.", "danijar/dreamer issue 18"),
    _m("heads-do-not-shape-the-state", "world_model.py < test_world_model", "feat, targets = posterior.feat,",
       "feat, targets = posterior.feat.detach(),", "Only the KL trains the representation (paper's ablation: 0.04 of 1.64).", "FACTS 4.3; paper Table 2"),
    _m("prior-trains-through-the-posterior", "rssm.py < test_rssm", "fixed_posterior, fixed_prior = posterior.detach(), prior.detach()",
       "fixed_posterior, fixed_prior = posterior, prior.detach()", "The prior's side also drags the posterior along.", "ours"),
    _m("behaviour-leaks-into-the-model", "train.py < test_train",
       "        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):\n            parameter.grad = gradient",
       "        optimizer.zero_grad()\n        loss.backward(retain_graph=True)", "The actor's gradients pile up in the world model.",
       "FACTS B20"),
    _m("posterior-not-detached", "train.py < test_train", "return posterior.detach(), {", "return posterior, {",
       "Dreams start with a graph into the world model.", "FACTS B20"),
    _m("wrong-parameters", "train.py < test_train", '"critic": self._optimizer(self.critic, config.behavior.critic_lr),',
       '"critic": self._optimizer(self.slow_critic, config.behavior.critic_lr),', "The value optimiser owns another network.",
       "juliusfrost/dreamer-pytorch PR 79; FACTS B10"),
    # ---------------------------------------------------------------------------------------------- actor and critic
    _m("entropy-sign", "actor_critic.py < test_actor_critic", "objective + entropy_scale * entropy", "objective - entropy_scale * entropy",
       "The policy collapses instead of exploring.", "jsikyoon/dreamer-torch issue 6; FACTS B9"),
    _m("entropy-unweighted", "actor_critic.py < test_actor_critic",
       "loss = -(weights.detach() * (objective + entropy_scale * entropy)).mean()",
       "loss = -(weights.detach() * objective + entropy_scale * entropy).mean()", "Entropy counts after the end of the episode too.",
       "jsikyoon/dreamer-torch issue 6; FACTS B9"),
    _m("target-critic-never-copied", "train.py < test_train", "self.slow_critic.copy_from(self.critic, fraction=options.slow_critic_fraction)",
       "pass", "Targets come from the first critic for ever.", "FACTS 1.13"),
    _m("target-critic-every-update", "train.py < test_train", "if self.updates % options.slow_critic_every == 0:", "if True:",
       "No target network at all.", "danijar/dreamer issue 30; FACTS B25"),
    _m("target-critic-by-ema", "actor_critic.py < test_actor_critic", "mine.copy_(theirs) if fraction == 1 else mine.lerp_(theirs, fraction)",
       "mine.lerp_(theirs, 0.02)", "DreamerV3's moving average in a DreamerV2.", "FACTS B25"),
    _m("ended-starts-train-the-actor", "train.py < test_train", "states, dream.action, targets, baseline, weights * alive[:, None]",
       "states, dream.action, targets, baseline, weights", "Actions after the end are trained.", "danijar/dreamerv2; FACTS A3"),
    _m("last-state-starts-only", "train.py < test_train", "start, alive = posterior.flatten(), 1 - is_terminal.flatten().float()",
       "start, alive = State(*(x[:, -1] for x in posterior)), 1 - is_terminal[:, -1].float()",
       "B dreams instead of B x T.", "FACTS B24"),
    _m("mix-swapped", "actor_critic.py < test_actor_critic", "actor_grad_mix * targets + (1 - actor_grad_mix) * score",
       "(1 - actor_grad_mix) * targets + actor_grad_mix * score", "0.9 dynamics gradients on Atari.", "ours"),
    # -------------------------------------------------------------------------------------------- data, heads, scales
    _m("truncation-is-terminal", "collect.py < test_collect", "return _rows(obs, action, reward, ended, last, terminated), episodes",
       "return _rows(obs, action, reward, ended, last, last), episodes", "A time limit looks like the end of the task.", "FACTS A15"),
    _m("continue-from-is-last", "world_model.py < test_world_model", "1 - batch.is_terminal.float()", "1 - batch.is_last.float()",
       "The continue head learns the time limit.", "FACTS A15"),
    _m("image-scaled-twice", "observations.py < test_networks", "value.movedim(-1, -3).float().div_(255).sub_(0.5)",
       "value.movedim(-1, -3).float().div_(255).div_(255).sub_(0.5)", "All images look alike.", "jsikyoon/dreamer-torch issue 11; FACTS B1"),
    _m("image-not-scaled-when-acting", "world_model.py < test_player", "self.encoder(self.preprocess(obs)), is_first, noise)",
       "self.encoder({k: v.movedim(-1, -3).float() if v.dtype == torch.uint8 else v.float() for k, v in obs.items()}), is_first, noise)",
       "The policy sees other numbers than the model was trained on.", "jsikyoon/dreamer-torch issue 11; FACTS B1"),
    _m("loss-averaged-over-pixels", "ops.py < test_ops", "error.flatten(-event_dims).sum(-1)", "error.flatten(-event_dims).mean(-1)",
       "KL and reward dominate the image by a factor of 4096.", "FACTS B19"),
    _m("batch-corrupted-in-place", "rssm.py < test_rssm", "is_first = torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], 1)",
       "is_first[:, 0] = True", "The caller's batch changes under its hands.", "NM512/r2dreamer issue 9; FACTS B16"),
    _m("weight-decay-times-lr", "train.py < test_train",
       'decay = train.weight_decay / lr if train.weight_decay_mode == "per_update" else train.weight_decay',
       "decay = train.weight_decay", "1e-6 x lr: no decay at all.", "jurgisp/pydreamer, Eclectic-Sheep/sheeprl; FACTS B12"),
    _m("no-clipping", "train.py < test_train", "norm = nn.utils.clip_grad_norm_(parameters, self.config.train.grad_clip)",
       "norm = nn.utils.get_total_norm([p.grad for p in parameters])", "One bad batch throws the model away.", "ours"),
    _m("gru-no-update-bias", "networks.py < test_networks", "update = torch.sigmoid(update - 1)", "update = torch.sigmoid(update)",
       "A new cell forgets half of its state at every step.", "FACTS B13"),
    _m("torch-layernorm-eps", "networks.py < test_networks", "NORM_EPS = 1e-3", "NORM_EPS = 1e-5", "Another norm than the released code's.",
       "FACTS B13"),
    _m("torch-default-init", "networks.py < test_networks", "nn.init.xavier_uniform_(module.weight)\n        if", "pass\n        if",
       "Another initialisation than the released code's.", "NM512/dreamerv3-torch issue 16; FACTS B13, B17"),
    _m("soft-target-forgotten", "networks.py < test_options", "logit, self.discount * target", "logit, target",
       "With continue_target=discounted the head never learns gamma.", "FACTS B14"),
    _m("argmax-when-collecting", "player.py < test_player", 'if mode == "eval":', 'if mode != "never":',
       "No exploration: the most likely action is taken while collecting.", "danijar/dreamerv2 issue 52; FACTS B21"),
    _m("window-over-the-write-head", "replay.py < test_replay", "oldest = np.maximum(self.counts - self.size, 0)[stream]",
       "oldest = np.zeros_like(self.counts)[stream]", "Windows join the newest steps to the oldest.", "ours"),
]  # fmt: skip
