"""A saved learner on what the literature measures in-context learning by, against classical rivals on the same jobs.

    python bench/yardsticks.py --learner PATH          # all yardsticks, written to bench/results/yardsticks.json
    python bench/yardsticks.py --learner PATH --quick  # a small number of jobs; nothing is written

The learner works through one lifetime on each job: its weights stay as they are, its memory is empty at the beginning
and is never wiped. It draws its actions as on the job (`WorkConfig.schooled`). The rivals
(`bench/rivals.py`) know the family that jobs are drawn from, where their source does, and work on the same jobs with
luck of their own. A number of jobs is of each seed; 0 leaves the yardstick out. Intervals are of 95 % over all jobs.

- Bernoulli bandits of RL^2 (Duan et al., 2016): 5 arms of uniform chances, 100 or 500 pulls; total reward.
  Target: >= 0.99 of the Gittins index policy.
- Tabular MDPs of RL^2: 10 states, 5 actions, 10 or 100 episodes of 10 steps; total reward.
  Target: 10 episodes: >= 156.2 and >= every rival; 100 episodes: >= OPSRL, the tuned one here and that published.
- Frozen lakes of AMAGO's MetaFrozenLake (Grigsby et al., 2023): 5x5 cells, not slippery, maps of Gymnasium's own
  `generate_random_map` (a cell is a hole with probability 0.2, a path exists), from one corner to the opposite one;
  success in each of 15 attempts of at most 100 steps. AMAGO's has a fifth action, which stays, and no limit to an
  attempt. Target: >= 0.90 at attempts 8 and 15.
- Frozen lakes drawn by the family itself, with the holes of school, start and goal often elsewhere: no target.

The rival on lakes, "planning over beliefs", is the teacher of school (`fifteen.jobs.explorers.LakeExplorer`): value
iteration over what it has met, the same on both. That the goal is in the opposite corner it does not know.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import rivals
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from measuring import provenance, write_result

import fifteen
from fifteen.config import SchoolConfig
from fifteen.jobs.bandits import BernoulliFamily
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.explorer import Explorer, Step, lived
from fifteen.jobs.explorers import LakeExplorer
from fifteen.jobs.family import Family
from fifteen.jobs.grid_maps import LAKE, best_of, exits, lake_values
from fifteen.jobs.grids import LAKES, FrozenLake, FrozenLakeFamily
from fifteen.jobs.mdps import HORIZON, TabularMdpFamily
from fifteen.learner import Learner
from fifteen.model import unravel

QUICK = {"bandits": 200, "mdps": 40, "lakes": 100, "seeds": 1}
LAKE_ATTEMPTS = 15
LAKE_MARKS = (8, 15)  # attempts, from 1
MAPS = 1_000_000  # seeds of maps, for each seed
NORMAL = 1.96

# Duan et al. (2016, arXiv:1611.02779), tables 1 and 2; SNAIL: Mishra et al. (2018, arXiv:1707.03141), tables 1 and 2,
# with their own run of RL^2.
PUBLISHED = {
    "bandits, 100 pulls": {"rl2": 78.7, "gittins": 78.3, "snail": 79.1},
    "bandits, 500 pulls": {"rl2": 401.6, "gittins": 405.8, "snail": 408.1},
    "mdps, 10 episodes": {"rl2": 156.2, "rl2, run again": 157.3},
    "mdps, 100 episodes": {"opsrl": 1973.9, "rl2": 1913.7},
}

Totals = dict[str, np.ndarray]  # by policy, float64[jobs]


class Candidate:
    """A learner that works through lifetimes on many jobs of one family at once."""

    def __init__(self, learner: Learner, family: Family, attempts: int, each: int):
        """each: jobs at once."""
        steps = jax.eval_shape(family.sample, jnp.zeros((), jnp.int32), jax.random.key(0)).step_limit
        # The final observation of an attempt has a tick of its own.
        school = SchoolConfig(rollout=steps + 1, projected=0.0, reward_units=(1.0, 1.0))
        self._room = Classroom((family,), ((0,),), each, config=learner.config, school=school, work=learner.work_config)
        self._model = unravel(learner.state.weights, learner.config)
        self._attempts, self._live = attempts, jax.jit(self._lived)

    def _lived(self, model: Any, lifetimes: Any) -> tuple[Any, jax.Array, jax.Array]:
        lifetimes, rollout = self._room.live(model, lifetimes, jnp.ones(1))
        percepts = jax.vmap(jax.vmap(lambda frame: self._room.layout.percept(frame, None)))(rollout.frames)
        return lifetimes, percepts.reward, percepts.terminated | percepts.truncated

    def work(self, jobs: Any, count: int, key: jax.Array) -> np.ndarray:
        """Return of every attempt, float64[count, attempts], on jobs [count, ...]."""
        each, returns = self._room.each, []
        for n, start in enumerate(range(0, count, each)):
            # The last ones are filled up with the first: another number would be compiled anew.
            part = jax.tree.map(lambda leaf, start=start: leaf[np.arange(start, start + each) % count], jobs)
            returns.append(self._work(part, jax.random.fold_in(key, n)))
        return np.concatenate(returns)[:count]

    def _work(self, jobs: Any, key: jax.Array) -> np.ndarray:
        # The states are those of other jobs, but the first tick begins an attempt and leaves nothing of them.
        lifetimes = self._room.enrol(key)._replace(jobs=(jobs,))
        returns = np.zeros((self._room.each, self._attempts))
        done = np.zeros(self._room.each, np.int64)
        while (done < self._attempts).any():
            lifetimes, rewards, ends = self._live(self._model, lifetimes)
            rewards, ends = np.asarray(rewards, np.float64), np.asarray(ends)
            attempt = done[:, None] + np.cumsum(ends, axis=1) - ends
            row, column = np.nonzero(attempt < self._attempts)
            np.add.at(returns, (row, attempt[row, column]), rewards[row, column])
            done += ends.sum(axis=1)
        return returns


def draw(family: Family, templates: tuple[int, ...], count: int, key: jax.Array) -> Any:
    """Jobs of the templates in even shares, as numpy arrays [count, ...]."""
    template = jnp.array(np.resize(templates, count), jnp.int32)
    jobs = jax.jit(jax.vmap(family.sample))(template, jax.random.split(key, count))
    return jax.tree.map(np.asarray, jobs)


def bandits(learner: Learner, pulls: int, count: int, seeds: int, each: int) -> list[Totals]:
    """Total rewards by seed and policy on the template "uniform"."""
    family = BernoulliFamily(pulls=pulls, lifetime=pulls)
    candidate = Candidate(learner, family, 1, each)
    policies = {name: make(pulls) for name, make in rivals.BANDITS.items()}
    found = []
    for seed in range(seeds):
        draw_key, work_key = jax.random.split(jax.random.key(seed))
        jobs = draw(family, (family.templates.index("uniform"),), count, draw_key)
        totals = {"learner": candidate.work(jobs, count, work_key).sum(axis=1)}
        for name, policy in policies.items():
            totals[name] = rivals.play_bandits(policy, jobs.chances, pulls, np.random.default_rng(seed))
        found.append(totals | {"best arm": pulls * jobs.chances.max(axis=1).astype(np.float64)})
    return found


def mdps(learner: Learner, episodes: int, count: int, seeds: int, each: int) -> list[Totals]:
    """Total rewards by seed and policy on the template "dense"."""
    family = TabularMdpFamily()
    candidate = Candidate(learner, family, episodes, each)
    found = []
    for seed in range(seeds):
        draw_key, work_key = jax.random.split(jax.random.key(seed))
        jobs = draw(family, (family.templates.index("dense"),), count, draw_key)
        totals = {"learner": candidate.work(jobs, count, work_key).sum(axis=1)}
        generators = {name: np.random.default_rng(seed) for name in (*rivals.MDPS, "process known")}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in generators}
        for start in range(0, count, each):  # all at once would be large: OPSRL samples ten processes for each
            part = slice(start, start + each)
            truth = jobs.transitions[part], jobs.rewards[part]
            policies = rivals.MDPS | {"process known": rivals.known(*truth)}
            for name, policy in policies.items():
                returns = rivals.play_mdps(policy, *truth, jobs.deviation[part], episodes, generators[name], HORIZON)
                parts[name].append(returns.sum(axis=1))
        found.append(totals | {name: np.concatenate(rows) for name, rows in parts.items()})
    return found


def lakes(learner: Learner, drawn: Callable[[int, int], Any], count: int, seeds: int, each: int) -> list[Totals]:
    """Whether each attempt reached the goal, float64[jobs, attempts], by seed and policy; drawn(count, seed)."""
    candidate = Candidate(learner, FrozenLakeFamily(), LAKE_ATTEMPTS, each)
    policies = {"random": Wanderer(), "planning over beliefs": LakeExplorer()}
    play = {name: jax.jit(jax.vmap(partial(played, explorer))) for name, explorer in policies.items()}
    found = []
    for seed in range(seeds):
        jobs = drawn(count, seed)
        work_key, *play_keys = jax.random.split(jax.random.key(seed), 1 + len(play))
        totals = {"learner": candidate.work(jobs, count, work_key)}
        for (name, lifetimes), key in zip(play.items(), play_keys, strict=True):
            totals[name] = np.asarray(lifetimes(jobs, jax.random.split(key, count)), np.float64)
        found.append(totals)
    return found


def gymnasium_lakes(count: int, seed: int) -> Any:
    """Lakes of Gymnasium's random maps, each drawn with a seed of its own, as numpy arrays [count, ...]."""
    drawn = ["".join(generate_random_map(size=LAKE, seed=MAPS * seed + number)) for number in range(count)]
    holes = np.array([list(tiles) for tiles in drawn]) == "H"
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(_lake))(holes))


def _lake(holes: jax.Array) -> FrozenLake:
    """Not slippery, from the first cell to the last; holes bool[cells]."""
    ways = exits(jnp.ones((LAKE, LAKE), jnp.bool_), jnp.array(False))
    goal, slip = jnp.int32(LAKE**2 - 1), jnp.float32(0.0)
    return FrozenLake(
        ways=ways,
        holes=holes,
        start=jnp.int32(0),
        goal=goal,
        labels=jnp.arange(LAKE**2, dtype=jnp.int32),
        slip=slip,
        teacher=best_of(lake_values(ways, holes, goal, slip)),
    )


def family_lakes(count: int, seed: int) -> Any:
    """Lakes of the full size, not slippery; the family's are smaller at even odds."""
    family, key, parts, have = FrozenLakeFamily(), jax.random.key(seed), [], 0
    templates = tuple(map(family.templates.index, LAKES))
    while have < count:
        key, draw_key = jax.random.split(key)
        jobs = draw(family, templates, 2 * count, draw_key)
        full = jobs.ways[:, LAKE - 2, 2] == LAKE - 1  # one can walk into the last cell of the first row
        parts.append(jax.tree.map(lambda leaf, full=full: leaf[full], jobs))
        have += int(full.sum())
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@final
class Wanderer(Explorer):
    """Every action at even odds."""

    def begin(self, job: Any) -> tuple[()]:
        return ()

    def note(self, job: Any, notes: Any, step: Step) -> tuple[()]:
        return ()

    def advise(self, job: Any, notes: Any, state: Any) -> jax.Array:
        return jnp.full(job.action_space.n, 1.0 / int(job.action_space.n))


def played(explorer: Explorer, job: Any, key: jax.Array) -> jax.Array:
    """Return of every attempt on a lake, float32[LAKE_ATTEMPTS]."""
    return lived(explorer, job, LAKE_ATTEMPTS, key)


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """The mean and its normal interval of 95 %."""
    half = NORMAL * float(values.std()) / len(values) ** 0.5
    mean = float(values.mean())
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def ratio_interval(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Ratio of the means on the same jobs, with its interval by the delta method."""
    ratio = float(ours.mean() / theirs.mean())
    half = NORMAL * float((ours - ratio * theirs).std()) / len(ours) ** 0.5 / abs(float(theirs.mean()))
    return {"ratio": round(ratio, 5), "low": round(ratio - half, 5), "high": round(ratio + half, 5)}


def summarise(name: str, found: list[Totals], beside: str) -> dict[str, Any]:
    """Means of every policy, and the learner's ratio to the rival `beside`."""
    pooled = {policy: np.concatenate([totals[policy] for totals in found]) for policy in found[0]}
    policies = {
        policy: mean_interval(values) | {"by_seed": [round(float(totals[policy].mean()), 4) for totals in found]}
        for policy, values in pooled.items()
    }
    return {
        "jobs": len(pooled["learner"]),
        "total_reward": policies,
        f"ratio_to_{beside}": ratio_interval(pooled["learner"], pooled[beside]),
        "published": PUBLISHED[name],
    }


def summarise_lakes(found: list[Totals]) -> dict[str, Any]:
    """Success by attempt of every policy."""
    pooled = {policy: np.concatenate([totals[policy] for totals in found]) for policy in found[0]}
    return {
        "jobs": len(pooled["learner"]),
        "success_by_attempt": {name: values.mean(axis=0).round(4).tolist() for name, values in pooled.items()},
        "success": {
            name: {f"attempt {mark}": mean_interval(values[:, mark - 1]) for mark in LAKE_MARKS}
            for name, values in pooled.items()
        },
    }


def target(what: str, value: float, least: float) -> dict[str, Any]:
    return {"what": what, "value": value, "target": least, "reached": value >= least}


def bandit_targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [target("ratio to Gittins", summary["ratio_to_gittins"]["ratio"], 0.99)]


def short_mdp_targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    means = {name: row["mean"] for name, row in summary["total_reward"].items()}
    best = max(mean for name, mean in means.items() if name in rivals.MDPS)
    return [
        target("total reward, RL^2 published", means["learner"], summary["published"]["rl2"]),
        target("total reward, best rival measured", means["learner"], best),
    ]


def long_mdp_targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        target("ratio to OPSRL, tuned", summary["ratio_to_opsrl, tuned"]["ratio"], 1.0),
        target(
            "total reward, OPSRL published", summary["total_reward"]["learner"]["mean"], summary["published"]["opsrl"]
        ),
    ]


def lake_targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [target(f"success at {mark}", row["mean"], 0.9) for mark, row in summary["success"]["learner"].items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", type=Path, required=True, help="folder of a saved learner, or of a run")
    parser.add_argument("--bandits", type=int, default=20_000, help="bandits of each number of pulls, of each seed")
    parser.add_argument("--mdps", type=int, default=2000, help="MDPs of each number of episodes, of each seed")
    parser.add_argument("--lakes", type=int, default=2000, help="frozen lakes of each kind, of each seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--each", type=int, default=500, help="jobs at once")
    parser.add_argument("--quick", action="store_true", help="a small number of jobs; nothing is written")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    learner = fifteen.load(arguments.learner)
    record = provenance(parser, arguments)
    record["learner"] = {"mind": dataclasses.asdict(learner.config), "provenance": learner.provenance}
    seeds, each = arguments.seeds, arguments.each

    def of_bandits(pulls: int, name: str) -> dict[str, Any]:
        summary = summarise(name, bandits(learner, pulls, arguments.bandits, seeds, each), "gittins")
        return summary | {"targets": bandit_targets(summary)}

    def of_mdps(episodes: int, targets: Callable[[dict[str, Any]], list[dict[str, Any]]], name: str) -> dict[str, Any]:
        summary = summarise(name, mdps(learner, episodes, arguments.mdps, seeds, each), "opsrl, tuned")
        return summary | {"targets": targets(summary)}

    def of_lakes(
        drawn: Callable[[int, int], Any], targets: Callable[[dict[str, Any]], list[dict[str, Any]]], name: str
    ) -> dict[str, Any]:
        summary = summarise_lakes(lakes(learner, drawn, arguments.lakes, seeds, each))
        return summary | {"targets": targets(summary)}

    yardsticks: dict[str, tuple[int, Callable[[str], dict[str, Any]]]] = {
        "bandits, 100 pulls": (arguments.bandits, partial(of_bandits, 100)),
        "bandits, 500 pulls": (arguments.bandits, partial(of_bandits, 500)),
        "mdps, 10 episodes": (arguments.mdps, partial(of_mdps, 10, short_mdp_targets)),
        "mdps, 100 episodes": (arguments.mdps, partial(of_mdps, 100, long_mdp_targets)),
        "frozen lakes": (arguments.lakes, partial(of_lakes, gymnasium_lakes, lake_targets)),
        "frozen lakes, drawn by the family": (arguments.lakes, partial(of_lakes, family_lakes, lambda _: [])),
    }
    record["yardsticks"] = {}
    for name, (count, measure) in yardsticks.items():
        if count:
            record["yardsticks"][name] = summary = measure(name)
            show(name, summary)
    if arguments.quick:
        print("nothing written: --quick")
    else:
        path = write_result("yardsticks", record)
        print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}")


def show(name: str, summary: dict[str, Any]) -> None:
    """One yardstick for people."""
    print(f"{name} ({summary['jobs']} jobs)")
    for policy, row in summary.get("total_reward", {}).items():
        print(f"  {policy:15} {row['mean']:9.2f}  ({row['low']:.2f} to {row['high']:.2f})")
    for policy, row in summary.get("success_by_attempt", {}).items():
        print(f"  {policy:21} {' '.join(f'{share:.2f}' for share in row)}")
    for policy, value in summary.get("published", {}).items():
        print(f"  published: {policy:15} {value}")
    for row in summary["targets"]:
        reached = "reached" if row["reached"] else "missed"
        print(f"  {row['what']}: {row['value']:.3f}, target {row['target']:.3f}: {reached}", flush=True)


if __name__ == "__main__":
    main()
