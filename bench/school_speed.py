"""Environment steps per second, learning included: a school of cart-poles against RecurrentPPO of Stable-Baselines3.

    python bench/school_speed.py --peer-python PEER            # PEER: a Python that has sb3-contrib
    python bench/school_speed.py --peer-python PEER --quick    # a few short blocks; nothing is written

Ours is a school of the family control/cart-pole: as many lifetimes as `fifteen school` has by default, each on a
cart-pole of its own, with a mind of the size that ships. The peer is the algorithm of sb3-contrib that has a memory,
with the library's defaults and 8 environments of CartPole-v1 in one process (DummyVecEnv), on the CPU, torch with as
many threads as it takes by itself. Both may use all cores that this process may. Blocks of all sides alternate, each in
a process of its own that waits while another works. What is compiled is not counted, nor the peer's first rollout.

The first observation of an attempt has a tick of its own in a school and is no step: ticks are multiplied by the share
that are steps where the mind is untrained, and attempts are shortest. It is a lower bound, as attempts only get longer.

Beside it: the same school divided over one host device per core instead of one device with a pool of threads; the same
school of a mind whose memory is a GRU of about as many parameters (`rival_cores.py`); and growth, steps per second with
more lifetimes. Written to bench/results/school_speed.json; target: median ratio >= 150.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from blocks import Program
from measuring import median_interval, provenance, write_result
from school_speed_ours import MINDS

from fifteen.config import SchoolConfig, WorkConfig
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.family import read_split
from fifteen.learner import new
from fifteen.model import unravel

TARGET = 150.0
FAMILY = "control/cart-pole"
LIFETIMES = SchoolConfig.lifetimes
GROWTH = (256, 512, 1024, 2048, 4096)  # lifetimes
GROWTH_BLOCKS = 5
QUICK: dict[str, Any] = {"pairs": 2, "seconds": 2.0}
QUICK_GROWTH = (256, 512)
HERE = Path(__file__).parent


def start_ours(lifetimes: int, devices: int = 1, core: str = "delta") -> Program:
    """devices: host devices over which the lifetimes are divided."""
    flags = os.environ.get("XLA_FLAGS", "")
    environment = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip()}
    if devices > 1:
        # All devices share one pool of threads, and one that waits for the others holds a thread of it: with as many
        # threads as devices they can wait for each other until XLA ends the process.
        environment["PJRT_NPROC"] = str(2 * devices)
    command = [sys.executable, str(HERE / "school_speed_ours.py"), "--family", FAMILY]
    return Program([*command, "--core", core, "--lifetimes", str(lifetimes)], environment)


def steps_per_tick() -> float:
    """Share of ticks that are environment steps, where an untrained mind acts."""
    family, mind = FAMILIES[FAMILY], MINDS["delta"]
    room = Classroom(
        (family,),
        (read_split().indices(family),),
        64,
        config=mind,
        school=SchoolConfig(),
        work=WorkConfig().on_policy(),
    )
    live = jax.jit(partial(room.live, unravel(new(mind, seed=0).state.weights, mind)))
    lifetimes, _ = live(room.enrol(jax.random.key(0)), jnp.ones(1))  # all attempts begin with its first tick
    _, rollout = live(lifetimes, jnp.ones(1))
    percepts = jax.vmap(jax.vmap(lambda frame: room.layout.percept(frame, None)))(rollout.frames)
    return 1.0 - float(jnp.mean(percepts.first.astype(jnp.float32)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="a Python with the peer")
    parser.add_argument("--pairs", type=int, default=7, help="blocks of each side (at least 5)")
    parser.add_argument("--seconds", type=float, default=12.0, help="least duration of a block")
    parser.add_argument("--quick", action="store_true", help="a few short blocks; nothing is written")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    elif arguments.pairs < 5:
        parser.error("--pairs must be at least 5")
    cores = len(os.sched_getaffinity(0))
    share = steps_per_tick()
    record: dict[str, Any] = provenance(parser, arguments)  # after the learner, whose birth settles how JAX runs
    record |= {"cores": cores, "family": FAMILY, "steps_per_tick": share}

    programs = {"ours": start_ours(LIFETIMES)}
    if cores > 1:
        programs["ours, a device per core"] = start_ours(LIFETIMES, devices=cores)
    programs["ours, GRU"] = start_ours(LIFETIMES, core="gru")
    programs["peer"] = Program([str(arguments.peer_python), str(HERE / "school_speed_peer.py")])
    rates: dict[str, list[float]] = {name: [] for name in programs}
    record["load_average"] = os.getloadavg()[0]
    for n in range(arguments.pairs):
        for name in list(programs)[:: 1 if n % 2 == 0 else -1]:  # no side always comes first
            rates[name].append(programs[name].run(arguments.seconds) * (1.0 if name == "peer" else share))
    record["sides"] = {}
    for name, program in programs.items():
        program.close()
        record["sides"][name] = program.told | rated(rates[name])
    ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    record |= {"ratio": median_interval(ratios), "target_ratio": TARGET}
    show(record)

    record["growth"] = {}
    for lifetimes in QUICK_GROWTH if arguments.quick else GROWTH:
        program = start_ours(lifetimes)
        blocks = 1 if arguments.quick else GROWTH_BLOCKS
        grown = [program.run(arguments.seconds / 2) * share for _ in range(blocks)]
        program.close()
        record["growth"][str(lifetimes)] = rated(grown)
        print(f"{lifetimes} lifetimes: {np.median(grown):,.0f} steps a second", flush=True)
    if arguments.quick:
        print("nothing written: --quick")
    else:
        path = write_result("school_speed", record)
        print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}")


def rated(rates: list[float]) -> dict[str, Any]:
    return {"steps_per_second": median_interval(rates), "blocks": [round(rate, 1) for rate in rates]}


def show(record: dict[str, Any]) -> None:
    """The sides for people."""
    for name, side in record["sides"].items():
        speed = side["steps_per_second"]
        print(f"{name}: {speed['median']:,.0f} steps a second ({speed['low']:,.0f} to {speed['high']:,.0f})")
    ratio = record["ratio"]
    print(f"ratio {ratio['median']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f}), target {TARGET:g}", flush=True)


if __name__ == "__main__":
    main()
