"""A fresh learner learns CartPole while doing it. Argument: environment steps (20,000)."""

import sys

import fifteen

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
learner = fifteen.new(size="small", seed=0)
log = fifteen.work(learner, "CartPole-v1", steps=steps, seed=0)
print(f"{len(log.returns)} attempts in {steps:,} environment steps")
print(f"mean return of the first 20: {log.returns[:20].mean():.1f}")
print(f"mean return of the last 20: {log.returns[-20:].mean():.1f}")
