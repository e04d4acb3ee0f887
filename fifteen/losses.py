"""Losses of the learner: arrays in, arrays out. Each function is for one row; vmap and average for more."""

import jax
import jax.numpy as jnp
from jax import Array


def masked_log_softmax(logits: Array, mask: Array) -> Array:
    """Log-probabilities float32[M, B] under mask bool[M, B]; -1e9 where masked, so that no gradient is NaN."""
    return jnp.where(mask, jax.nn.log_softmax(jnp.where(mask, logits, -1e9)), -1e9)


def choose(per_slot: Array, choice: Array) -> Array:
    """Entry of each factor's chosen bin: float32[M, B], int32[M] -> float32[M]."""
    # A one-hot product: the gradient of a gather is a scatter, which is a slow loop on a CPU.
    return jnp.sum(jnp.where(_one_hot(choice, per_slot.shape[1]), per_slot, 0.0), axis=1)


def factored_advantage(action_value: Array, log_policy: Array) -> tuple[Array, Array]:
    """Q = mean over factors of Q_m (Seyde et al. 2023, DecQN): A_m = Q_m - E_pi Q_m float32[M, B], V float32[]."""
    factor_value = jnp.sum(jnp.exp(log_policy) * action_value, axis=1)  # [M]
    return action_value - factor_value[:, None], jnp.mean(factor_value)


def improved_policy(log_policy: Array, advantage: Array, mask: Array, scale: Array) -> Array:
    """Clipped MPO (Hessel et al. 2021, "Muesli", eq. 10): pi exp(clip(A / scale, -1, 1)), normalised, float32[M, B]."""
    return jnp.exp(masked_log_softmax(log_policy + jnp.clip(advantage / scale, -1.0, 1.0), mask))


def clipped_policy_loss(log_ratio: Array, advantage: Array, clip: float) -> Array:
    """PPO (Schulman et al. 2017, eq. 7): log_ratio float32[] of the joint choice, advantage float32[]."""
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def policy_loss(logits: Array, improved: Array, mask: Array) -> Array:
    """Cross-entropy of the policy to the improved policy, mean over factors."""
    log_policy = masked_log_softmax(logits, mask)
    return -jnp.mean(jnp.sum(jnp.where(mask, improved * log_policy, 0.0), axis=1))


def value_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy of the taken action's categorical value to target float32[Z].

    logits float32[M, Z], of the chosen bin of each factor. The joint value's distribution is the mixture of the
    factors', so its mean is the mean over factors of Q_m, as the factored value demands.
    """
    mixture = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(float(logits.shape[0]))
    return -jnp.sum(target * mixture)


def categorical_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy of logits float32[Z] to target float32[Z]."""
    return -jnp.sum(target * jax.nn.log_softmax(logits))


def prediction_loss(prediction: Array, target: Array) -> Array:
    """Half the squared error, summed over slots: float32[slots + 1] both."""
    return 0.5 * jnp.sum((prediction - target) ** 2)


def _one_hot(choice: Array, bins: int) -> Array:
    """int32[M] -> bool[M, B]; all False where nothing was chosen (-1)."""
    return choice[:, None] == jnp.arange(bins)[None]
