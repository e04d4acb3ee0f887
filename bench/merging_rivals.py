"""What others make one network out of several with, in weight space: rivals of `fifteen.sleep`. Pure functions.

Weights are flat, float32[P]; of n instances that began as one parent, float32[n, P]. None of them sees experience,
but Fisher merging, which weighs every parameter by what it matters to the instance's policy on stored sequences.
The settings are those that the authors recommend where there is nothing to tune on: task arithmetic 0.4 and TIES
k = 20 %, lambda = 1 (Yadav et al. 2023, section 5.2 on merging without a validation set).
"""

import jax
import jax.numpy as jnp
from jax import Array

from fifteen.config import MindConfig
from fifteen.frames import Layout
from fifteen.instance import Statistics, felt_reward, standardise
from fifteen.losses import choose, masked_log_softmax
from fifteen.model import unravel
from fifteen.updating import Batch


def averaged(weights: Array) -> Array:
    """Mean of the instances, float32[P]: a uniform soup (Wortsman et al. 2022, "Model soups", table 1)."""
    return jnp.mean(weights, axis=0)


def task_arithmetic(weights: Array, parent: Array, scale: float = 0.4) -> Array:
    """parent + scale * sum of task vectors (Ilharco et al. 2023, "Editing models with task arithmetic", section 2)."""
    return parent + scale * jnp.sum(weights - parent[None], axis=0)


def ties(weights: Array, parent: Array, kept: float = 0.2, scale: float = 1.0) -> Array:
    """Trim, elect a sign, merge those that agree with it (Yadav et al. 2023, "TIES-Merging", algorithm 1).

    kept: share of each task vector, its largest entries, that is not set to zero.
    """
    vectors = weights - parent[None]  # [n, P]
    size = jnp.abs(vectors)
    least = jnp.quantile(size, 1.0 - kept, axis=1, keepdims=True)
    trimmed = jnp.where(size >= least, vectors, 0.0)
    elected = jnp.sign(jnp.sum(trimmed, axis=0))  # [P]
    agree = (jnp.sign(trimmed) == elected[None]) & (trimmed != 0.0)
    mean = jnp.sum(jnp.where(agree, trimmed, 0.0), axis=0) / jnp.maximum(jnp.sum(agree, axis=0, dtype=jnp.float32), 1.0)
    return parent + scale * mean


def fisher_merged(weights: Array, fisher: Array, floor: float = 1e-6) -> Array:
    """Mean weighted by the diagonal Fisher information float32[n, P] (Matena and Raffel 2022, equation 4).

    floor: is added to the information of every parameter, as a share of the mean of all: the plain mean where no
    policy depends on a parameter.
    """
    shares = fisher + floor * jnp.mean(fisher)
    return jnp.sum(shares * weights, axis=0) / jnp.sum(shares, axis=0)


def diagonal_fisher(
    weights: Array,
    batch: Batch,
    statistics: Statistics,
    continuous: Array,
    key: Array,
    *,
    config: MindConfig,
    layout: Layout,
    wipe: bool,
) -> Array:
    """E[(d log pi(a) / d weights)^2] of one row, actions drawn from the policy itself: float32[P].

    batch: n sequences of T rows, read with the memory and the statistics of the instance. Scores of draws at several
    rows are independent with mean zero, so that the square of their sum over a sequence is, on average, the sum of
    their squares: one gradient a sequence is enough.
    """

    def score(batch: Batch, key: Array) -> tuple[Array, Array]:
        rows = jax.vmap(layout.percept)(batch.frames, batch.images)
        mask = jax.vmap(layout.decision)(batch.decisions).mask
        acted = jnp.where(rows.terminated | rows.truncated, 0.0, 1.0)
        sensors = jax.vmap(lambda vector: standardise(statistics, vector, continuous))(rows.vector)
        felt = felt_reward(statistics, rows.reward)

        def log_likelihood(weights: Array) -> Array:
            model = unravel(weights, config)
            codes = model.codes(layout)
            x = jax.vmap(lambda p, s, r: model.encode(p, s, r, codes))(rows, sensors, felt)
            _, x = model.unroll(batch.memory, x, rows.first & wipe)
            lived = batch.decisions[:, : layout.factors].astype(jnp.int32)
            prefix = jax.vmap(lambda c: model.digit_prefix(c, codes, layout.digits))(lived)
            logits = jax.vmap(lambda f, p: model.policy_logits(f, p, codes))(jax.vmap(model.features)(x), prefix)
            log_policy = jax.vmap(masked_log_softmax)(logits, mask)  # [T, M, B]
            drawn = jax.random.categorical(key, jax.lax.stop_gradient(log_policy)).astype(jnp.int32)
            return jnp.sum(acted * jnp.sum(jax.vmap(choose)(log_policy, drawn), axis=1))

        return jax.grad(log_likelihood)(weights) ** 2, jnp.sum(acted)

    def one(total: tuple[Array, Array], part: tuple[Batch, Array]) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(jnp.add, total, score(*part)), None

    keys = jax.random.split(key, len(batch.frames))
    begin = (jnp.zeros_like(weights), jnp.zeros(()))
    (squares, rows), _ = jax.lax.scan(one, begin, (batch, keys))
    return squares / jnp.maximum(rows, 1.0)
