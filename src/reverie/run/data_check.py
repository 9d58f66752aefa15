"""What is suspicious about recorded experience, in sentences; from the rows of a data set alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .data_set import DataSet

#: An episode's reward counts as sparse if at most this share of its rows has one.
SPARSE = 0.1
#: A share of episodes that is no coincidence.
MOST = 0.8
#: Numbers of an action that stay within this share of their range are scaled for another one.
NARROW = 0.05
#: Share of actions at the very edge of their range from which they are likely to have been cut off.
CUT = 0.2


def findings(data: DataSet) -> list[str]:
    """Sentences; none where nothing is suspicious."""
    return [*_of_rewards(data), *_of_ends(data), *_of_actions(data), *_of_observations(data)]


def _of_rewards(data: DataSet) -> Iterator[str]:
    reward, spans = data.rows["reward"], data.episodes()
    if not np.isfinite(reward).all():
        yield "some rewards are not finite: nothing can be learnt from them."
        return
    if not reward.any():
        yield "every reward is 0: a world model can be learnt, a policy only by imitation."
        return
    ended = [span for span in spans if data.rows["is_terminal"][span.stop - 1] and span.stop - span.start > 2]
    sparse = [
        reward[span] for span in ended if 0 < np.count_nonzero(reward[span]) <= max(1, SPARSE * len(reward[span]))
    ]
    early = sum(bool(values[-2]) and not values[-1] for values in sparse)
    if len(sparse) >= 5 and early >= MOST * len(sparse):
        yield (
            f"in {early} of {len(sparse)} episodes with few rewards the last reward stands one row before the end: "
            "rewards look shifted by one. A row holds the reward that arrived with its observation."
        )


def _of_ends(data: DataSet) -> Iterator[str]:
    spans = data.episodes()
    terminal = [bool(data.rows["is_terminal"][span.stop - 1]) for span in spans]
    lengths = np.array([span.stop - span.start - 1 for span in spans])
    if not any(terminal):
        if len(spans) > 1 and len(set(lengths.tolist())) > 1:
            yield (
                f"no episode ends by the task, and their lengths differ ({lengths.min()} to {lengths.max()} steps): "
                "terminals may be missing. The policy would learn that nothing ever ends."
            )
        else:
            yield "no episode ends by the task: right if only a time limit ends them."
    elif all(terminal) and len(spans) > 4 and len(set(lengths.tolist())) == 1:
        yield (
            f"every episode ends by the task after exactly {lengths[0]} steps: a time limit may be marked as terminal."
        )
    if (lengths < 1).any():
        yield f"{int((lengths < 1).sum())} episode(s) have no step."


def _of_actions(data: DataSet) -> Iterator[str]:
    action = data.rows["action"][~data.rows["is_first"]]
    if not np.isfinite(action).all():
        yield "some actions are not finite: nothing can be learnt from them."
        return
    if not len(action):
        return
    at = 0
    for group in data.spec.action.groups:
        piece = action[:, at : at + group.total]
        if group.kind == "onehot":
            yield from _of_choices(piece.reshape(len(piece), group.copies, group.size), at)
        else:
            yield from _of_numbers(piece, at)
        at += group.total


def _of_choices(taken: np.ndarray, at: int) -> Iterator[str]:
    """taken (N, copies, size) of one-hots."""
    for copy in range(taken.shape[1]):
        used = taken[:, copy].any(0)
        if used.sum() == 1:
            yield f"choice {int(used.argmax())} of the action (numbers from {at} on) is the only one ever taken."
        elif not used.all():
            missing = ", ".join(map(str, np.flatnonzero(~used)[:8]))
            yield f"choices {missing} of the action were never taken: what they do cannot be learnt."


def _of_numbers(values: np.ndarray, at: int) -> Iterator[str]:
    """values (N, size) in [-1, 1]."""
    low, high = values.min(0), values.max(0)
    for index in np.flatnonzero(high == low):
        yield f"number {at + index} of the action is always {low[index] + 0.0:.3g}."
    moves = high > low
    narrow = moves & (np.abs(values).max(0) <= NARROW)
    if narrow.any():
        yield (
            f"number(s) {', '.join(str(at + i) for i in np.flatnonzero(narrow)[:8])} of the action stay within "
            f"{100 * NARROW:g} % of the range: they may be scaled for another space."
        )
    edge = (np.abs(values) >= 1).mean(0)
    for index in np.flatnonzero(moves & (edge > CUT)):
        yield (
            f"{100 * edge[index]:.0f} % of number {at + index} of the action lie at its limits: it may have been cut "
            "off there, or is a switch."
        )


def _of_observations(data: DataSet) -> Iterator[str]:
    for key, item in data.spec.obs.items():
        values = data.rows[f"obs/{key}"]
        if item.kind != "image" and not np.isfinite(values).all():
            yield f"the observation '{key}' holds numbers that are not finite: nothing can be learnt from them."
        elif item.kind == "image" and values.size and values.min() == values.max():
            yield f"the image '{key}' never changes."
