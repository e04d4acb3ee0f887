"""What chance and the reference achieve on every template, measured once: scores are normalised between the two.

python -m fifteen.jobs.references        # measure what references.json lacks; a few minutes
"""

import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.family import Family, OutsideFamily

FILE = Path(__file__).with_name("references.json")
JOBS = 1024  # of each template, one attempt each


@functools.cache
def references() -> dict[str, dict[str, tuple[float, float]]]:
    """Mean return of an attempt by family and template: (uniformly random, reference)."""
    table = json.loads(FILE.read_text())
    return {family: {name: tuple(pair) for name, pair in rows.items()} for family, rows in table.items()}


def normalised(family: Family, templates: tuple[int, ...], score: float) -> float:
    """0 for chance and 1 for the reference, over templates drawn evenly. Raises JobError where there is none.

    Of another library's family the raw return.
    """
    if isinstance(family, OutsideFamily):
        return float(score)
    known = references().get(family.name, {})
    names = [family.templates[template] for template in templates]
    if missing := [name for name in names if name not in known]:
        raise JobError(
            f"{family.name} has no reference for {', '.join(missing)}: run `python -m fifteen.jobs.references` and "
            "commit what it writes"
        )
    low, high = np.mean([known[name] for name in names], axis=0)
    return float((score - low) / (high - low))


def measure(family: Family, jobs: int = JOBS, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Mean return of an attempt by template, of a uniformly random policy and of the teacher's.

    Where the teacher sees what no learner can see, 1 is a bound and not a promise.
    """

    def advised(job: Any, state: Any) -> Array:
        advice = family.teach(job, state)
        if advice is None:
            raise JobError(f"{family.name} has no teacher, and so no reference")
        return advice

    def attempt(template: Array, taught: Array, key: Array) -> Array:
        draw_key, reset_key, step_key = jax.random.split(key, 3)
        job = family.sample(template, draw_key)

        def move(carry: Any, key: Array) -> tuple[Any, Array]:
            state, alive = carry
            action_key, move_key = jax.random.split(key)
            action = _action(job.action_space, advised(job, state), taught, action_key)
            state, _, reward, terminated = job.step(state, action, move_key)
            return (jax.tree.map(jnp.asarray, state), alive & ~terminated), jnp.where(alive, reward, 0.0)

        state, _ = job.reset(reset_key)
        keys = jax.random.split(step_key, job.step_limit)
        _, rewards = jax.lax.scan(move, (state, jnp.array(True)), keys)
        return jnp.sum(rewards)

    run = jax.jit(jax.vmap(attempt, in_axes=(None, None, 0)))
    keys = jax.random.split(jax.random.key(seed), jobs)
    return {
        name: (
            float(jnp.mean(run(jnp.int32(number), jnp.array(False), keys))),
            float(jnp.mean(run(jnp.int32(number), jnp.array(True), keys))),
        )
        for number, name in enumerate(family.templates)
    }


def _action(space: Any, advice: Array, taught: Array, key: Array) -> Array:
    if isinstance(space, spaces.Discrete):
        odds = jnp.where(taught, advice, 1.0 / int(space.n))
        return jax.random.categorical(key, jnp.log(odds)).astype(jnp.int32)
    draw = partial(jax.random.uniform, minval=jnp.asarray(space.low), maxval=jnp.asarray(space.high))
    return jnp.where(taught, advice, draw(key, space.shape))


def main() -> None:
    table = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, family in FAMILIES.items():
        if set(table.get(name, {})) != set(family.templates):
            table[name] = {t: [round(x, 4) for x in pair] for t, pair in measure(family).items()}
            FILE.write_text(json.dumps(table, indent=1) + "\n")
            print(name, table[name], flush=True)


if __name__ == "__main__":
    main()
