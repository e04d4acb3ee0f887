"""Families: distributions of native jobs, for schooling and for examination.

A family draws a job from a template (a structural choice: the kind of map, of dynamics, of rule) and a key
(everything else). Templates are split into those for schooling and those held out by the committed file `split.json`.
"""

import abc
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import equinox as eqx
import jax
import numpy as np
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs.native import Job

SPLIT_FILE = Path(__file__).with_name("split.json")


class Family(eqx.Module):
    """Many jobs with the same spaces, step limit and shapes: `vmap(family.sample)` is a batch of jobs."""

    name: eqx.AbstractVar[str]  # "group/name"; its jobs have the id "group/name-v0"
    templates: eqx.AbstractVar[tuple[str, ...]]  # names of the structural choices; a template is an index into them
    lifetime: eqx.AbstractVar[int]  # environment steps that are enough to learn one job, and so a schooled lifetime
    reference: eqx.AbstractVar[str]  # the policy whose return counts as 1 (a uniformly random one: 0), with source

    @abc.abstractmethod
    def sample(self, template: Array, key: Array) -> Job:
        """Draw a job: template int32[], key a typed key. Pure; its static fields do not depend on the arguments."""

    @abc.abstractmethod
    def teach(self, job: Any, state: Any) -> Array | None:
        """What a teacher who knows the job's parameters does in this state. Pure.

        Discrete(n): probabilities float32[n], uniform over equally good actions. Box of d dimensions: the action,
        float32[d], within the bounds. None, for every job and state, of a family without a teacher.
        """


@final
class OutsideFamily(Family):
    """One job of another library, as a family.

    Nobody has taught, split or measured it: it has no teacher, all its templates are for schooling, and its score is
    the raw return. For a family of our own each of these is an error.
    """

    name: str = eqx.field(static=True)  # "library/name", also the id of its job
    templates: tuple[str, ...] = eqx.field(static=True)  # one: the library and its version
    lifetime: int = eqx.field(static=True)
    job: Job
    reference: str = eqx.field(static=True, default="none: the score is the raw return")

    def sample(self, template: Array, key: Array) -> Job:
        return self.job

    def teach(self, job: Any, state: Any) -> None:
        return None


@dataclass(frozen=True)
class Split:
    """Which templates are for schooling, and which nobody may school on."""

    train: dict[str, tuple[str, ...]]  # by family
    held_out: dict[str, tuple[str, ...]]
    digest: str  # SHA-256 of the file's contents

    def indices(self, family: Family, held_out: bool = False) -> tuple[int, ...]:
        """Indices of a family's templates. Raises JobError for a family or template that the split does not know."""
        if isinstance(family, OutsideFamily):
            return () if held_out else tuple(range(len(family.templates)))
        if family.name not in self.train:
            raise JobError(f"the split knows no family {family.name!r}; it has {', '.join(sorted(self.train))}")
        known = {*self.train[family.name], *self.held_out[family.name]}
        if known != set(family.templates):
            raise JobError(f"the split of {family.name} has the templates {sorted(known)}, not {family.templates}")
        names = (self.held_out if held_out else self.train)[family.name]
        return tuple(family.templates.index(name) for name in names)


def read_split(file: Path = SPLIT_FILE) -> Split:
    """The committed split. Raises JobError where a template is on both sides, or none is for schooling."""
    contents = file.read_bytes()
    table = json.loads(contents)
    train = {name: tuple(sides["train"]) for name, sides in table.items()}
    held_out = {name: tuple(sides["held_out"]) for name, sides in table.items()}
    for name in table:
        if both := set(train[name]) & set(held_out[name]):
            raise JobError(f"{file}: templates {sorted(both)} of {name} are on both sides")
        if not train[name]:
            raise JobError(f"{file}: {name} has no template for schooling")
    return Split(train, held_out, hashlib.sha256(contents).hexdigest())


def draw_job(family: Family, seed: int, template: str | None = None) -> Job:
    """One job of a family, for `work`. template: its name, or None to draw one for schooling too."""
    if template is None:
        choices = read_split().indices(family)
    elif template in family.templates:
        choices = (family.templates.index(template),)
    else:
        raise JobError(f"{family.name} has no template {template!r}; it has {', '.join(family.templates)}")
    return _drawn(family, jax.random.key(seed), np.array(choices, np.int32))


@partial(jax.jit, static_argnums=0)
def _drawn(family: Family, key: Array, choices: Array) -> Job:
    """A job of one of the templates, int32[n]."""
    template_key, job_key = jax.random.split(key)
    return family.sample(jax.random.choice(template_key, choices), job_key)
