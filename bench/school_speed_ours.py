"""Our side of school_speed.py: a school of one family.

A round is a rollout of all lifetimes and what is learned from it; the first ones, which compile, are not counted.
"""

import argparse
import dataclasses

import jax
from blocks import Blocks
from rival_cores import enter_rivals

import fifteen
from fifteen.config import SIZES, MindConfig, SchoolConfig

MINDS: dict[str, MindConfig] = {
    "delta": SIZES["base"],  # what ships
    "gru": dataclasses.replace(SIZES["base"], core="gru", head_size=15),  # about as many parameters
}
WARM_UP = 4  # rounds: by then lifetimes were over and were renewed, and everything is compiled
STEPS = 10**11  # more than anyone will ask for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--core", required=True, choices=MINDS)
    parser.add_argument("--lifetimes", type=int, required=True)
    arguments = parser.parse_args()
    fifteen.cache_compilations()
    enter_rivals()
    learner = fifteen.new(MINDS[arguments.core], seed=0)
    config = SchoolConfig(lifetimes=arguments.lifetimes)
    told = {
        "devices": jax.device_count(),
        "lifetimes": config.lifetimes,
        "rollout": config.rollout,
        "parameters": learner.state.weights.size,
    }
    blocks, warm_up = Blocks(told), iter(range(WARM_UP))

    def between(progress: fifteen.SchoolProgress) -> bool:
        return next(warm_up, None) is None and blocks(progress.steps)

    fifteen.school(learner, [arguments.family], steps=STEPS, seed=0, config=config, callback=between)


if __name__ == "__main__":
    main()
