"""Standing again where one stood: the actions of unfinished attempts, kept and compared.

Gymnasium environments have no state that could be saved. An attempt is restored by resetting with
the attempt's seed and taking its actions again.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from fifteen.jobs.leaves import equal_leaves, keep, kept, put_together, take_apart

MAX_REPLAY = 100_000  # steps; longer attempts are truncated on a resume: constant memory, bounded time


def as_given(action: Any) -> Any:
    """The action as it is now: an environment may write into what it is given."""
    return action if isinstance(action, int | np.integer) else copy.deepcopy(action)


def keep_actions(state: dict[str, np.ndarray], stream: int, space: spaces.Space, actions: Sequence[Any]) -> None:
    """Put the actions of a stream's unfinished attempt into `state`, one array [T, ...] per leaf."""
    if actions:
        steps = [take_apart(space, action) for action in actions]
        keep(state, f"action/{stream}", [np.stack(leaf) for leaf in zip(*steps, strict=True)])


def actions_from_state(state: dict[str, np.ndarray], stream: int, space: spaces.Space) -> list:
    """The actions that `keep_actions` kept, in order."""
    steps = zip(*kept(state, f"action/{stream}"), strict=True)
    return [put_together(space, iter(leaves)) for leaves in steps]


def same_moment(
    space: spaces.Space,
    observation: Any,
    reward: float,
    saved: list[np.ndarray],
    saved_reward: float,
) -> bool:
    """Whether a replay arrived at the observation and reward that were saved, to the bit."""
    return reward == saved_reward and equal_leaves(take_apart(space, observation), saved)


def difference_note(job_id: str, stream: int, attempt: int, elapsed: int) -> str:
    return (
        f"{job_id}: stream {stream} did not come back to step {elapsed} of attempt {attempt} when its "
        "actions were taken again (the environment is not deterministic given its seed, has changed, "
        f"or the attempt is longer than {MAX_REPLAY} steps); the attempt is truncated there"
    )
