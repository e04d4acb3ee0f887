"""Your own environment as a job, from Python: see thermostat.py. Argument: environment steps (10,000)."""

import sys
from functools import partial

import fifteen
from thermostat import make

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
job = partial(make, target=21.0)  # a factory: every call makes a new environment
learner = fifteen.new(size="small", seed=0)

log = fifteen.work(learner, job, steps=steps, seed=0)
stats = fifteen.evaluate(learner, job, episodes=5, seed=1)
print(f"{len(log.returns)} nights, return of the first {log.returns[0]:.0f}", end=", ")
print(f"of the last {log.returns[-1]:.0f}; evaluated: {stats.mean:.0f} +- {stats.std:.0f}")

# With an id it can be named, here and on the command line of a program that registers it.
spec = fifteen.register_job("house/thermostat-v0", make, description="keep a room warm at night")
fifteen.evaluate(learner, spec.id, episodes=1)
