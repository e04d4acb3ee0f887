"""Every setting: one frozen dataclass for the mind's shape, one per verb, and one size dial."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from fifteen.cores import core_named
from fifteen.errors import RunError

Size = Literal["debug", "small", "base", "large"]
Learn = Literal["context", "weights", "both"]


@dataclass(frozen=True)
class MindConfig:
    """Shape of the network. It is part of a checkpoint: weights fit one MindConfig only.

    So a saved field that this version does not know is an error that names it: without it the same weights would
    compute something else, and nothing would say so.
    """

    slots: int = 64  # sensor values in a percept
    width: int = 64  # features between layers
    layers: int = 1  # memory layers
    heads: int = 2  # memory heads per layer
    head_size: int = 16  # d: each head's state is d x d
    taps: int = 4  # width of the short causal convolution before the memory
    rank: int = 32  # size of the codes of action factors and bins
    max_factors: int = 128  # rows of factor codes: the most action factors a job may have
    max_bins: int = 16  # rows of bin codes
    value_bins: int = 31  # support of the categorical values
    value_limit: float = 1.2  # the support spans symexp(-limit) .. symexp(limit), in scaled returns
    core: str = "delta"  # what the memory layers are, see `cores.CORES`
    # Features of a hidden layer between the memory and the heads that a learner is given as it leaves school, silent at
    # first: senses and memory stay as schooled, and what reads them needs room for what no school resembled.
    adapter: int = 0

    @property
    def memory_size(self) -> int:
        """float32 numbers that one stream's memory holds. Raises RunError for an unknown core."""
        return self.layers * core_named(self.core).state_size(self)


SIZES: dict[str, MindConfig] = {
    "debug": MindConfig(slots=32, width=32, heads=2, head_size=8, rank=16, value_bins=21),
    "small": MindConfig(),
    "base": MindConfig(width=128, layers=2, heads=4),
    "large": MindConfig(slots=256, width=512, layers=4, heads=8, head_size=64, rank=256),
}


@dataclass(frozen=True)
class WorkConfig:
    """How a learner learns on the job. The same for every job: nothing here is chosen per job.

    It is part of a checkpoint. A saved field that this version does not know is ignored, and said
    (`checkpoint.known`): weights and memory mean the same without it, only how they go on is this version's.
    """

    discount: float = 0.99  # per step, v_now
    attempt_discount: float = 0.93  # per attempt boundary, v_later
    trace: float = 0.9  # lambda of Retrace
    replay: int = 100_000  # rows kept for replay, all streams together
    sequence: int = 8  # transitions per replayed sequence
    batch: int = 16  # sequences per update
    block: int = 8  # ticks between two blocks of updates
    updates_per_step: float = 1.0
    warmup: int = 200  # rows before the first update
    learning_rate: float = 1e-3
    adam_b2: float = 0.999
    # Senses and memory stay as the parent's, and only what reads them learns: a memory that was schooled over whole
    # lifetimes does not survive updates on short sequences.
    steady: bool = False
    emptied: float = 0.5  # share of replayed sequences that are read with an empty memory, where steady
    loyalty: float = 0.0  # updates for which the parent's policy counts in what is improved upon, where steady
    max_gradient: float = 10.0  # clip of the global gradient norm
    anchor_decay: float = 1e-2  # decoupled L2 toward the initial weights, times the learning rate
    target_rate: float = 0.1  # slow averaging of the target network, per update
    improvement_floor: float = 0.05  # least unit of an advantage, in scaled returns
    policy_weight: float = 1.0
    prediction_weight: float = 0.1
    reward_quantile: float = 0.95  # of |discounted return|: the unit in which returns are learned
    scale_decay: float = 1e-4  # forgetting of that quantile's histogram, per step
    statistics_span: float = 100_000.0  # observations after which the statistics are exponential averages
    # Statistics of sensors that have been moved begin anew, and so does a memory that is worth no more than an empty
    # one.
    watchful: bool = False
    inherited: float = 1_000.0  # observations that the statistics of earlier lifetimes count for when a new one begins
    # Correlations from step to step of the noise that draws the actions; together nearly pink noise.
    noise_memory: tuple[float, ...] = (0.5, 0.9, 0.98)
    sharpness: float = 1.5  # actions are drawn from the policy's probabilities to this power

    def on_policy(self) -> "WorkConfig":
        """As in a school: every action drawn from the policy itself, independently of others, and no memory doubted."""
        return replace(self, noise_memory=(0.0,), sharpness=1.0, watchful=False)

    def schooled(self) -> "WorkConfig":
        """For weights that know something already: they act as they did in school, but surer, and decide so at first.

        What imitates a teacher spreads its choices as its doubts are spread; to be twice as sure costs less.
        Their values are those of school's families. Until they have found the job's own, what they advise would spoil
        the policy. A lifetime's statistics begin anew, as all did in school, and are never much older than they were
        there: they would not notice that the job has changed.
        """
        return replace(
            self.on_policy(),
            sharpness=2.0,
            steady=True,
            loyalty=300.0,
            inherited=0.0,
            statistics_span=1_000.0,
            watchful=True,
        )


@dataclass(frozen=True)
class SchoolConfig:
    """How a learner is schooled. The same for every family.

    An unfinished school is saved with it, and goes on under the same settings only. A saved field that this version
    does not know is ignored, and said (`checkpoint.known`): nobody could set it, and weeks of schooling would be lost.
    """

    lifetimes: int = 800  # at once, over all families
    # For one lifetime in a family whose teacher knows, as many where it has to find out: there is more to imitate.
    explored: int = 4
    rollout: int = 64  # ticks between two rounds of learning
    # Steps of the shortest lifetimes of families whose lifetimes are longer; drawn log-uniformly between the two. The
    # weights meet a job in as many rounds as it lasts, and learn it by heart where these are many and the jobs few.
    shortest: int = 500
    epochs: int = 2
    minibatches: int = 16
    learning_rate: float = 1e-3  # at first; it falls to a tenth
    adam_b2: float = 0.98  # updates are few, and early gradients of the values are large
    max_gradient: float = 1.0  # clip of the global gradient norm
    trace: float = 0.9  # lambda of both advantages
    clip: float = 0.2  # of the importance ratio (PPO)
    entropy_weight: float = 0.01
    reinforcement_weight: float = 0.1  # of the policy loss at first: its noise would drown the teacher
    reinforcement_last: float = 0.2  # the same at last
    teacher_weight: float = 1.0  # of the cross-entropy to the teacher at first
    teacher_last: float = 0.5  # the same at last: without a teacher, reinforcement alone forgets what was learned
    value_weight: float = 0.1
    prediction_weight: float = 0.02
    projected: float = 0.1  # share of lifetimes whose sensors are mixed at random and whose actions are permuted
    reward_units: tuple[float, float] = (0.1, 10.0)  # rewards are multiplied by a number drawn from this range


@dataclass(frozen=True)
class SleepConfig:
    """How a night goes. The same for every job.

    A life is saved with it, and goes on under the same settings only. A saved field that this version does not know is
    ignored, and said (`checkpoint.known`): nights that are done stay, and those to come are this version's.
    """

    steps: int = 2_000  # updates
    batch: int = 4  # sequences of every lesson in an update; a job has one, or two where its parent practised it
    # Of the jobs that no instance of the day teaches, as many in an update, drawn anew for each: what a night takes
    # must not grow with what is stored.
    rehearsed: int = 8
    practices: int = 3  # of the sleeper in a night, evenly spread over its updates, see `sleep`
    # Sequences of school in an update, where steady minds were schooled; it counts as much as `rehearsed` jobs do.
    schoolwork: int = 16  # 0: school is not rehearsed
    learning_rate: float = 2e-3  # at first; it falls to nothing
    steady_learning_rate: float = 1e-2  # the same where only what reads the memory learns, see `WorkConfig.steady`
    orthogonal_rate: float = 5e-2  # there, of the matrices that all jobs share, whose steps are orthogonal
    max_gradient: float = 1.0
    value_weight: float = 0.01  # of the cross-entropy to the teacher's values
    anchor_decay: float = 1e-5  # L2 toward the parent, in the loss

    def __post_init__(self):
        """Raises RunError for what cannot be a night's setting."""
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type is int:
                least = 1 if one.name in ("steps", "batch") else 0
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise RunError(f"{one.name} of a night must be an integer >= {least}, got {value!r}")
            elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise RunError(f"{one.name} of a night must be a finite number >= 0, got {value!r}")
        if not self.steady_learning_rate:
            raise RunError("steady_learning_rate of a night must be above 0: that of orthogonal steps is told by it")
