"""Draws the suites that ship, and freezes them into fifteen/examining/suites. A new draw is a new version.

    python bench/default_suites.py        # default.json and gymnasium.json, half a minute

`default`: of every family four jobs of templates for schooling with the seeds 0 to 3 (split "train"), four of these
templates with seeds that nobody had used before (iid), four of templates held out of schooling (held-out); and
environments of Gymnasium (outside). `gymnasium`: environments only, with more attempts.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from fifteen.examining.suites import SHIPPED_SUITES, make_suite, write_suite
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.family import read_split

VERSION = 1
EACH = 4  # jobs of each family and split
SEED = 20_261_121  # of the seeds
RANDOM_ATTEMPTS = 1_000
SOLVED = 0.9  # nine tenths of the way from chance to the reference

ACCESS = (
    "Public, like everything here. The authors of Fifteen wrote the families; the learner that ships was schooled on "
    "their train templates, never on the held-out ones (jobs/split.json). The configuration for updates of the weights "
    "was chosen on CartPole-v1, Acrobot-v1, MountainCar-v0, Pendulum-v1 and FrozenLake-v1, and how well the learner "
    "does in context was looked at there; MountainCarContinuous-v0, CliffWalking-v1, Blackjack-v1, FrozenLake8x8-v1 "
    "and FrozenLake-v1 without slipping were first met in this suite."
)

# What is to be reached, and who says so. Environments that need nothing beside Gymnasium, in versions that all of its
# releases since 1.1 have.
THRESHOLD = "random: measured; reference: Gymnasium's reward threshold"
OUTSIDE: tuple[dict[str, Any], ...] = (
    {"job": "CartPole-v1", "reference": 475.0, "source": THRESHOLD},
    {"job": "Acrobot-v1", "reference": -100.0, "source": THRESHOLD},
    {"job": "MountainCar-v0", "reference": -110.0, "source": THRESHOLD},
    {"job": "MountainCarContinuous-v0", "reference": 90.0, "source": THRESHOLD},
    {"job": "Pendulum-v1", "reference": -150.0, "source": "random: measured; reference: about what SAC comes to"},
    {"job": "FrozenLake-v1", "reference": 0.7, "source": THRESHOLD},
    {
        "job": "CliffWalking-v1",
        "reference": -13.0,
        "step_limit": 200,
        "source": "random: measured; reference: the shortest way (Sutton & Barto 2018, example 6.6)",
    },
    {"job": "Blackjack-v1", "reference": -0.05, "source": "random: measured; reference: about basic strategy"},
)
MORE: tuple[dict[str, Any], ...] = (
    {"job": "FrozenLake8x8-v1", "reference": 0.85, "source": THRESHOLD},
    {
        "id": "FrozenLake-v1, not slippery",
        "job": "FrozenLake-v1",
        "kwargs": {"is_slippery": False},
        "reference": 1.0,
        "source": "random: measured; reference: the most there is",
    },
)


def drawn() -> list[dict[str, Any]]:
    generator, split, jobs = np.random.default_rng(SEED), read_split(), []
    for name in FAMILIES:
        train, held_out = split.train[name], split.held_out[name]
        # The same templates in "train" and iid: nothing but the seeds is between the two.
        for kind, templates in (("train", train), ("iid", train), ("held-out", held_out)):
            fresh = generator.integers(2**20, 2**31, size=EACH).tolist()
            for n in range(EACH):
                template = templates[n % len(templates)]
                seed = n if kind == "train" else fresh[n]
                jobs.append({"family": name, "template": template, "seed": seed, "split": kind, "threshold": SOLVED})
    return jobs


def by_chance(job: dict[str, Any]) -> float:
    """Mean return of an attempt of a uniformly random policy."""
    env = gym.make(job["job"], max_episode_steps=job.get("step_limit"), **job.get("kwargs", {}))
    env.action_space.seed(0)
    returns = np.zeros(RANDOM_ATTEMPTS)
    for attempt in range(RANDOM_ATTEMPTS):
        env.reset(seed=attempt)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            returns[attempt] += float(reward)
            over = terminated or truncated
    env.close()
    return round(float(returns.mean()), 4)


def main() -> None:
    outside = [{**job, "random": by_chance(job), "threshold": 1.0} for job in (*OUTSIDE, *MORE)]
    few, many = ([{**job, "attempts": attempts} for job in outside] for attempts in (10, 30))
    default = make_suite("default", [*drawn(), *few[: len(OUTSIDE)]], version=VERSION, access=ACCESS)
    alone = make_suite("gymnasium", many, version=VERSION, access=ACCESS)
    for suite in (default, alone):
        path = write_suite(suite, SHIPPED_SUITES / f"{suite.name}.json")
        print(path.name, len(suite.jobs), "jobs", suite.digest)


if __name__ == "__main__":
    main()
