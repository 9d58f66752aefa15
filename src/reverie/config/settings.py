"""Settings: typed, documented, immutable. Their defaults are here, the values of presets in presets/*.yaml.

Every field has a default (the design document's number where it gives one), one line of explanation, which is what
`reverie train --help` prints, and the source of the default: "design" is the design document, "paper" DreamerV2's,
"released code" its authors' last version, "ours" a choice of this library (docs/equations.md compares them).
Leaf names are unique, so `gamma=0.97` means `behavior.gamma=0.97`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def opt(default: Any, doc: str, source: str) -> Any:
    """A dataclass field with its one-line documentation, and where its default comes from."""
    return field(default=default, metadata={"doc": doc, "source": source})


@dataclass(frozen=True)
class EnvConfig:
    """The task and how it is presented to the agent."""

    id: str = opt(
        "",
        "the task: an id of Gymnasium like CartPole-v1, FILE.py:FUNCTION, MODULE:FUNCTION or MODULE:Id-v0",
        "the user's",
    )
    num_envs: int = opt(1, "environments stepped together", "paper and released code: 1")
    backend: Literal["auto", "sync", "async", "native"] = opt(
        "auto", "sync: in this process; async: worker processes; native: the family's own; auto: measured", "ours"
    )
    options: tuple[str, ...] = opt(
        (), "name=value,... for the task's family (`reverie envs FAMILY`), or for gymnasium.make", "the user's"
    )
    actions: Literal["full", "minimal"] = opt(
        "full", "full: all actions; minimal: those that matter, where the task's family knows", "paper: full"
    )
    image_size: int = opt(64, "images are resized to this many pixels squared; 0 keeps their own size", "paper")
    grayscale: bool = opt(False, "turn color images into one gray channel", "released defaults; Atari: yes")
    pixels: bool = opt(False, "observe the rendered image instead of the environment's own observation", "ours")
    action_repeat: int = opt(
        0,
        "each action is applied this many times, rewards added up; frames = steps x repeat; 0: usual in the family",
        "released: 1, Atari 4, control 2",
    )
    time_limit: int = opt(
        0,
        "cut episodes after this many steps (a truncation, not an end); 0: the environment's own",
        "released defaults",
    )
    obs_images: tuple[str, ...] = opt((), "keys, or patterns like cam*, to be presented as images", "ours")
    obs_vectors: tuple[str, ...] = opt((), "keys or patterns to be presented as vectors", "ours")
    obs_ignore: tuple[str, ...] = opt((), "keys or patterns that the agent does not see", "ours")
    action_bound: float = opt(1.0, "limits of continuous actions whose space has none", "ours")
    action_mask: str = opt(
        "auto", "where it says which actions are allowed: auto, none, info, or an observation's key", "ours"
    )
    worker_timeout: float = opt(60.0, "async: seconds after which a silent worker is restarted", "ours")
    async_collect: bool = opt(
        False, "act and step while the agent learns: for slow environments; not bit for bit repeatable", "ours"
    )
    collectors: Literal["none", "local", "ray"] = opt(
        "none", "act and step elsewhere: in processes of this machine, or on those of a Ray cluster", "ours"
    )
    num_collectors: int = opt(0, "how many collectors share the num_envs environments; 0: one each", "ours")
    weights_every: int = opt(10, "updates after which collectors get new weights", "ours")


@dataclass(frozen=True)
class ReplayConfig:
    """What the replay stores and how it is sampled."""

    replay_capacity: int = opt(2_000_000, "steps kept", "paper Table D.1 and released code")
    storage: Literal["memory", "disk"] = opt("memory", "disk keeps them in memory-mapped files of the run", "ours")
    prioritize: Literal["none", "ends", "rewards"] = opt(
        "none",
        "ends: oversample windows with an episode end; rewards: windows with a reward other than zero",
        "design: not mentioned; released defaults: ends; rewards is ours",
    )
    priority_share: float = opt(0.25, "share of a batch drawn by `prioritize`; the rest is uniform", "ours")
    demos: str = opt(
        "", "a data set of `reverie record` or `import`: demonstrations, of which each batch has a share", "none; ours"
    )
    demo_share: float = opt(0.5, "share of demonstrations in a batch at the first step", "ours; RLPD: 0.5 throughout")
    demo_until: int = opt(0, "step at which that share has fallen to 0; 0: the last one, train.env_steps", "ours")


@dataclass(frozen=True)
class ModelConfig:
    """The world model: sizes, losses, optimiser."""

    latents: Literal["categorical", "gaussian"] = opt("categorical", "gaussian is DreamerV1's latent", "design")
    own_modules: tuple[str, ...] = opt(
        (), "networks of your own, place=MODULE:NAME each; only Python's modules={...} sets them", "the user's"
    )
    num_categories: int = opt(32, "classes of each categorical", "design, paper, released code")
    num_categoricals: int = opt(32, "categorical variables in a state", "design, paper, released code")
    straight_through: bool = opt(
        True,
        "gradients pass the drawing of categoricals (paper Algorithm 1); off: they end there, an ablation",
        "paper",
    )
    unimix: float = opt(0.0, "share of a uniform distribution mixed into each categorical", "V2: none; V3: 0.01")
    gaussian_dim: int = opt(30, "size of the Gaussian latent", "DreamerV1")
    gaussian_std: Literal["sigmoid2", "softplus"] = opt(
        "sigmoid2", "standard deviation of the Gaussian latent, 0.1 at least", "released V2 code; DreamerV1: softplus"
    )
    rnn_hidden_dim: int = opt(200, "size of the deterministic state h", "design; Atari: 600")
    hidden_dim: int = opt(400, "units of every hidden layer", "design, paper, released code")
    rssm_hidden_dim: int = opt(
        0, "units of the RSSM's hidden layers; 0: hidden_dim", "design; released: rnn_hidden_dim"
    )
    embed_dim: int = opt(1024, "size of an embedded observation; 0: whatever the encoder gives", "design; released: 0")
    layers: int = opt(4, "hidden layers of encoder MLP and heads", "released code")
    cnn_depth: int = opt(32, "channels of the first convolution, doubled by each next one", "design (32 gives 1024)")
    decoder_kernels: tuple[int, ...] = opt(
        (), "empty: mirror of the encoder, any size; 5,5,6,6: the released decoder, 64x64 only", "design: symmetric"
    )
    norm: bool = opt(True, "normalise dense layers", "design; released code: only Crafter")
    conv_norm: bool = opt(True, "normalise convolutions", "design; released code: only Crafter")
    norm_kind: Literal["layer", "rms"] = opt("layer", "LayerNorm or RMSNorm, where there is one", "design; V3: rms")
    recurrent_cell: Literal["norm_gru", "gru"] = opt(
        "norm_gru", "norm_gru: the released code's cell; gru: the textbook one", "released code; DreamerV1: gru"
    )
    gru_norm: bool = opt(True, "normalise inside norm_gru", "released code: always; paper: no or marginal benefit")
    zero_init: bool = opt(False, "reward head and critic answer 0 at first", "V2: no; V3: yes")
    activation: Literal["elu", "relu", "silu"] = opt("elu", "activation everywhere", "design, released code; V3: silu")
    conv_activation: Literal["same", "elu", "relu", "silu"] = opt(
        "same", "activation of convolutions", "released code; DreamerV1: relu"
    )
    vector_decoder: Literal["separate", "shared"] = opt(
        "separate",
        "vector observations are predicted by a network each, or by one with an output layer each",
        "ours; released code: shared",
    )
    discrete_decoder: Literal["gaussian", "categorical"] = opt(
        "gaussian",
        "discrete observations: predicted like other numbers, or as choices, by cross-entropy and unscaled",
        "released code: gaussian",
    )
    vector_transform: Literal["none", "symlog", "standardize", "running"] = opt(
        "none",
        "vector observations: as they are, squashed, scaled to what the prefill showed, or to all that was seen so far",
        "released code: none; V3: symlog; standardize and running are ours",
    )
    reward_transform: Literal["symlog", "tanh", "sign", "none"] = opt(
        "symlog", "what the reward head learns", "design; paper: tanh on Atari, none on control"
    )
    reward_unit: float = opt(
        1.0, "rewards are divided by this before anything learns from them; scores stay the task's", "ours"
    )
    reward_distribution: Literal["normal", "twohot"] = opt(
        "normal", "normal: squared error; twohot: classification over 255 bins", "paper; V3: twohot"
    )
    predict_continue: bool = opt(True, "learn when episodes end; without it no dream ends", "design; control: no")
    continue_target: Literal["hard", "discounted"] = opt(
        "hard",
        "hard: 1 - is_terminal; discounted: gamma times that, which its mean then contains",
        "design; released code and V3: discounted",
    )
    kl_mode: Literal["balanced", "bidirectional", "forward", "plain", "separate"] = opt(
        "balanced",
        "balanced: paper's Algorithm 2; bidirectional: the design document's literal formula; forward: KL(prior || "
        "posterior), balanced; plain: no balancing, DreamerV1; separate: dyn_scale and rep_scale, DreamerV3",
        "paper (equations.md says why not the design's formula)",
    )
    kl_balance: float = opt(0.8, "share of the KL gradient that trains the prior", "design, paper, released code")
    kl_scale: float = opt(1.0, "weight of the KL", "released defaults; Atari: 0.1")
    dyn_scale: float = opt(0.5, "kl_mode=separate: weight of the side that trains the prior", "V3 (2023)")
    rep_scale: float = opt(0.1, "kl_mode=separate: weight of the side that trains the posterior", "V3 (2023)")
    free_nats: float = opt(1.0, "nats below which the KL is not pushed further down", "design; Atari: 0")
    free_avg: bool = opt(True, "compare free nats with the batch mean instead of with every state", "released code")
    image_scale: float = opt(1.0, "weight of the image loss", "released code")
    vector_scale: float = opt(1.0, "weight of the vector loss", "released code")
    reward_scale: float = opt(1.0, "weight of the reward loss", "released code")
    continue_scale: float = opt(1.0, "weight of the continue loss", "released defaults; Atari: 5")
    detached_heads: tuple[str, ...] = opt(
        (), "heads that learn without shaping the state, of obs,reward,continue", "paper's ablations; released: none"
    )
    overshooting: float = opt(
        0.0,
        "weight of the KL of states that are predicted several steps ahead, without observations; 0: off",
        "V2, released PlaNet code: none; 0.1 is a start",
    )
    overshooting_depth: int = opt(15, "how many steps ahead, for this and `open_loop_heads`", "ours: a dream")
    overshooting_starts: int = opt(
        500, "states of a batch, drawn at random, that predictions start from; 0: all", "ours: to save time"
    )
    overshooting_growth: int = opt(0, "updates in which the steps ahead grow from 2 to all; 0: none", "ours")
    overshooting_decay: float = opt(1.0, "each step ahead counts this much of the one before", "PlaNet: 1")
    overshooting_start_grad: bool = opt(True, "gradients reach the states that predictions start from", "PlaNet")
    open_loop_heads: float = opt(
        0.0, "weight of what heads pay for states predicted 1, 2, 4, 8, 15 steps ahead; 0: off", "V2: none"
    )
    world_model_lr: float = opt(3e-4, "learning rate", "design; Atari: 2e-4")


@dataclass(frozen=True)
class BehaviorConfig:
    """Actor and critic, trained in imagination."""

    imagination_horizon: int = opt(15, "steps of a dream", "design, paper, released code")
    imagination_starts: int = opt(0, "dreams per update, drawn from the batch's states; 0: from every state", "paper")
    start_states: Literal["all", "drop_last"] = opt(
        "all",
        "all states may start a dream, or all but the last of each sequence",
        "released code; 2021 code: drop_last",
    )
    gamma: float = opt(0.99, "discount per step", "design; Atari 0.999")
    lambda_: float = opt(0.95, "lambda of the returns", "design, paper, released code")
    reward_index: Literal["current", "next"] = opt(
        "current",
        "current: a state's value includes its own reward; next: reward and continue of the state an action leads to",
        "design, released code; V3: next",
    )
    actor_lr: float = opt(8e-5, "learning rate", "design; Atari: 4e-5")
    critic_lr: float = opt(8e-5, "learning rate", "design; Atari: 1e-4")
    policy: Literal["auto", "onehot", "trunc_normal", "tanh_normal"] = opt(
        "auto", "auto: onehot for discrete, trunc_normal for continuous actions", "released code"
    )
    sample_grad: Literal["exact", "released"] = opt(
        "exact",
        "gradient of draws from trunc_normal: exact, or released: TensorFlow's, which ignores the cut (1 to the mean)",
        "ours; released code: released",
    )
    policy_unimix: float = opt(
        0.0, "share of a uniform distribution mixed into a discrete policy", "V2: none; V3: 0.01"
    )
    actor_grad: Literal["auto", "reinforce", "dynamics", "both", "per_part"] = opt(
        "auto",
        "auto: reinforce for choices, dynamics for numbers, per_part (each its own) for actions with both",
        "paper Section 2.3, released code; per_part: ours",
    )
    actor_grad_mix: float = opt(0.1, "share of dynamics gradients in `both`", "released code")
    advantage: Literal["paper", "released"] = opt(
        "paper",
        "paper: action u_k is scored by G_k - v_k; released: by G_{k+1} - v_k, the last code's form",
        "paper Eq. 6, code of the published scores",
    )
    advantage_center: Literal["none", "depth"] = opt(
        "none", "depth: subtract the mean advantage of all dreams at each of their steps", "ours (docs/equations.md)"
    )
    actor_warmup: int = opt(
        0, "updates of world model and critic before the actor learns too", "ours (docs/equations.md)"
    )
    zero_policy: bool = opt(
        False, "the first policy: every choice equally likely, numbers centred", "V2: no; V3: nearly"
    )
    return_norm: Literal["none", "percentile"] = opt(
        "none", "percentile: divide advantages by the 5..95 % range of returns, if above 1", "V2: none; V3: percentile"
    )
    entropy_scale: float = opt(1e-3, "weight of the policy's entropy", "paper: 1e-3 Atari, 1e-4 control")
    entropy_final: float = opt(1e-3, "the weight after `entropy_decay` updates", "paper's schedules: 3e-3 to 3e-4")
    entropy_decay: int = opt(
        0,
        "updates over which the weight goes linearly to `entropy_final`; 0: it stays",
        "paper: off unless `schedules`",
    )
    entropy_target: float = opt(
        0.0,
        "least randomness of the policy, as a share of what is possible: the entropy's weight then follows by itself; "
        "0: fixed weights",
        "SAC; ours (docs/equations.md)",
    )
    entropy_target_final: float = opt(0.1, "the same after `entropy_decay` updates", "ours")
    baseline: Literal["online", "slow"] = opt("online", "critic subtracted in the advantage", "paper; last code: slow")
    critic_distribution: Literal["normal", "twohot"] = opt(
        "normal", "normal: squared error; twohot: classification over 255 bins", "design, paper; V3: twohot"
    )
    critic_transform: Literal["none", "symlog"] = opt("none", "the space the critic learns in", "paper; V3: symlog")
    slow_critic: bool = opt(True, "compute targets with a copy of the critic; off: with the critic itself", "paper")
    slow_critic_every: int = opt(100, "updates between copies", "paper Table D.1")
    slow_critic_fraction: float = opt(
        1.0, "how far a copy goes: 1 all the way", "released code; V3: 0.02, every update"
    )
    critic_regularizer: float = opt(0.0, "weight of a pull of the critic towards its slow copy", "V2: none; V3: 1")
    actor_critic_layers: int = opt(4, "hidden layers of actor and critic", "released code")
    explore_noise: float = opt(
        0.0, "share of random actions in explore mode", "released code: none; V1: 0.3 (Gaussian)"
    )
    explore_hold: float = opt(
        1.0,
        "steps that chance stays the same while exploring, on average: 1 in the first environment to this in the last",
        "none; ours (docs/equations.md)",
    )
    explore_wander: float = opt(
        0.0,
        "share of the last environment's time that goes to stretches of one random action, `explore_hold` steps long",
        "none; Dabney et al. 2021",
    )
    action_hold: int = opt(
        1,
        "steps that each action is carried out while exploring, whatever the policy says in between; 1: one",
        "none; Nachum et al. 2019, the control for hierarchies",
    )
    explore: Literal["none", "ensemble"] = opt(
        "none",
        "ensemble: a second policy, which goes where the members of `ensemble` disagree, acts while training",
        "V2: none; Plan2Explore: ensemble",
    )
    uncertainty_penalty: float = opt(
        0.0, "weight of the ensemble's disagreement, taken off dreamed rewards", "none; Offline DreamerV2: 10"
    )
    bc_scale: float = opt(
        0.0,
        "weight of imitating the batch's own actions in the actor's loss, in nats per action; for recorded data",
        "none; as TD3+BC, ours for dreams",
    )
    cloning: bool = opt(
        False, "a second actor learns the batch's actions alone, as a baseline: behaviour cloning", "ours"
    )


@dataclass(frozen=True)
class EnsembleConfig:
    """Several predictors of the same: where they disagree, the model has not been (docs/ensembles.md)."""

    members: int = opt(0, "how many; 0: no ensemble", "V2: none; Plan2Explore: 5 to 10, Offline DreamerV2: 7")
    kind: Literal["prior", "one_step"] = opt(
        "prior",
        "prior: further priors, which score states; one_step: Plan2Explore's heads, which score actions",
        "Offline DreamerV2; Plan2Explore: one_step",
    )
    member_layers: int = opt(1, "hidden layers of a member", "as the prior; Plan2Explore's code: 4")
    member_dim: int = opt(200, "units of a hidden layer of a member", "ours: cheap; Plan2Explore's code: 400")
    member_norm: bool = opt(True, "LayerNorm in the members", "as the prior; Plan2Explore's code: none")
    ensemble_lr: float = opt(3e-4, "learning rate", "released code")
    bootstrap: bool = opt(
        True, "each member sees each sequence of a batch Poisson(1) times; off: all see the same", "Plan2Explore"
    )
    measure: Literal["information", "distance"] = opt(
        "information",
        "of kind prior: information: what is to be learnt, in nats; distance: of class probabilities, or of means",
        "Plan2Explore; Offline DreamerV2: distance",
    )
    start_share: float = opt(
        0.5,
        "exploring: share of the start states for dreams of the exploring policy, the task's get the rest; 1: all",
        "ours; Plan2Explore's code: 1",
    )
    intrinsic_weight: float = opt(1.0, "exploring: weight of the disagreement, in its deviations", "released code")
    extrinsic_weight: float = opt(0.0, "exploring: weight of the predicted reward", "Plan2Explore: none")
    explore_entropy: float = opt(
        0.3,
        "exploring: least randomness of the policy, as a share of what is possible; the entropy's weight follows by "
        "itself",
        "ours; URLB: none, released code: a weight of 1e-4",
    )
    reward_momentum: float = opt(
        0.95, "exploring: momentum of the deviation that the disagreement is divided by", "URLB"
    )
    collect: Literal["explore", "task"] = opt(
        "explore",
        "exploring: whose policy acts while training; task: the exploring one is kept and learns no more "
        "(`reverie train --adapt`)",
        "Plan2Explore",
    )


@dataclass(frozen=True)
class HierarchyConfig:
    """A manager that sets goals, a worker that reaches them, instead of one policy (docs/hierarchy.md)."""

    goal_every: int = opt(0, "steps that a goal is kept; 0: no hierarchy", "V2: none; Director: 8")
    windows: int = opt(
        2,
        "goals in a dream, which is so many times `goal_every` steps long; `imagination_horizon` is not used",
        "Director",
    )
    goal_variables: int = opt(8, "variables of a goal's code", "Director")
    goal_classes: int = opt(8, "classes of each", "Director")
    goal_layers: int = opt(4, "hidden layers between states and codes, each way", "Director")
    goal_dim: int = opt(512, "units of these layers", "Director")
    goal_lr: float = opt(1e-4, "their learning rate", "Director")
    goal_kl: float = opt(
        10.0, "nats that a code is kept near, measured from a uniform one; its weight follows", "Director"
    )
    task_weight: float = opt(1.0, "weight of the task's reward for the manager, in deviations", "Director")
    novelty_weight: float = opt(0.1, "weight of states that no code gives back, for the manager", "Director")
    manager_entropy: float = opt(0.5, "randomness of the manager, as a share of what is possible", "Director")
    worker_entropy: float = opt(0.5, "randomness of the worker, as a share of what is possible", "Director")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    seed: int = opt(0, "seeds everything: networks, environments, replay, exploration", "ours")
    env_steps: int = opt(1_000_000, "environment steps of the whole run, prefill included", "ours; paper: 5e7")
    minutes: float = opt(0.0, "stop after this much training time (evaluations not counted); 0: no limit", "ours")
    prefill: int = opt(1000, "random steps before learning", "released code on control; Atari: 50000")
    pretrain: int = opt(100, "updates on the prefilled data before acting", "released code on control; Atari: 1")
    train_ratio: float = opt(0.2, "updates per environment step", "released defaults; Atari: 1/16")
    batch_size: int = opt(50, "sequences in a batch", "design, paper; last code: 16")
    seq_len: int = opt(50, "steps of a sequence", "design, paper, released code")
    eval_every: int = opt(10_000, "environment steps between evaluations; 0: only at the end", "released, control")
    eval_episodes: int = opt(10, "episodes of an evaluation", "ours; released code: 1")
    random_baseline: bool = opt(
        True, "first play eval_episodes with random actions, if 10 seconds are enough for them", "ours"
    )
    eval_mode: Literal["eval", "train"] = opt(
        "eval", "eval: most likely action; train: sampled as in training", "released code"
    )
    checkpoint_every: float = opt(300.0, "seconds between checkpoints; there is always one at the end", "ours")
    forecast: bool = opt(True, "estimate memory, disk and time before step 0, and refuse a run that cannot fit", "ours")
    log_every: float = opt(5.0, "seconds between lines of metrics.jsonl", "ours")
    log_steps: int = opt(1000, "environment steps between them in a deterministic run", "ours")
    deterministic: bool = opt(
        False, "the same weights, replay and metrics each time, also after being killed; lines by steps", "ours"
    )
    on_nonfinite: Literal["stop", "skip", "rollback"] = opt("stop", "at a NaN: end, skip it, or reload", "ours")
    optimizer: Literal["adam", "laprop"] = opt("adam", "Adam, or DreamerV3's LaProp", "released code; V3: laprop")
    adam_eps: float = opt(1e-5, "the optimiser's epsilon", "paper Table D.1, released code")
    adam_eps_mode: Literal["torch", "keras"] = opt(
        "torch", "keras: epsilon enters before the bias correction, as in the released code", "ours; released: keras"
    )
    adam_beta2: float = opt(0.999, "decay of the squared gradients", "released code")
    grad_clip: float = opt(100.0, "largest global gradient norm of each optimiser", "paper Table D.1, released code")
    agc: float = opt(0.0, "clip each tensor's gradient to this share of its weights' norm instead; 0: no", "V3: 0.3")
    lr_warmup: int = opt(0, "updates over which learning rates rise from 0", "V2: none; V3: 1000")
    lr_decay: int = opt(0, "updates over which learning rates fall to a tenth; 0: they stay", "paper: none; ours")
    weight_decay: float = opt(1e-6, "weight decay", "paper Table D.1, released code")
    weight_decay_mode: Literal["per_update", "lr_scaled"] = opt(
        "per_update",
        "per_update: weights times 1 minus this, at any learning rate; lr_scaled: times 1 - lr x this, as AdamW",
        "released code",
    )


@dataclass(frozen=True)
class ComputeConfig:
    """Device, compute mode, precision."""

    device: str = opt("auto", "auto: cuda if there is one, else cpu", "ours")
    mode: Literal["auto", "reference", "fast", "compile", "graph"] = opt(
        "auto",
        "reference: plain PyTorch; fast (auto): the same, quicker; compile: torch.compile; graph: one CUDA graph",
        "ours",
    )
    threads: int = opt(0, "CPU threads of torch; 0: torch decides", "ours")
    precision: Literal["auto", "float32", "bfloat16"] = opt(
        "auto", "of big products; auto: the quicker one for each kind of them, measured", "ours; released code: float16"
    )
    fused: Literal["auto", "on", "off"] = opt(
        "auto", "recurrent loops as compiled code, fast mode in float32 on a CPU; auto: where it can be had", "ours"
    )


@dataclass(frozen=True)
class LogConfig:
    """What a run writes besides metrics.jsonl and episodes.jsonl."""

    tensorboard: bool = opt(True, "write TensorBoard events to RUN/tensorboard", "ours")
    wandb: bool = opt(False, "also log to Weights & Biases (pip install wandb)", "ours")
    mlflow: bool = opt(False, "also log to MLflow (pip install mlflow)", "ours")
    mlflow_uri: str = opt("", "where MLflow records; empty: MLFLOW_TRACKING_URI, or mlruns beside the run", "ours")
    project: str = opt("reverie", "project of Weights & Biases, experiment of MLflow", "ours")
    group: str = opt("", "group of runs there, for instance the seeds of one setting", "ours")
    tags: tuple[str, ...] = opt((), "tags of the run there", "ours")
    video: bool = opt(True, "write a GIF of one episode of each evaluation to RUN/videos", "ours")
    keep_videos: int = opt(10, "newest videos of evaluations kept; 0: all", "ours")
    health_every: int = opt(100, "updates between health checks of latents, heads and critic; 0: never", "ours")
    keep_checkpoints: int = opt(2, "newest checkpoints kept, besides the best one", "ours")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run does. Written whole to RUN/config.yaml."""

    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    hierarchy: HierarchyConfig = field(default_factory=HierarchyConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    log: LogConfig = field(default_factory=LogConfig)
