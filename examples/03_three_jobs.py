"""Three instances work on three jobs by day; by night what they learned becomes one learner.

Each instance is a process of its own. Argument: environment steps on each job (10,000).
"""

import sys
from tempfile import TemporaryDirectory

import fifteen
from fifteen.config import SleepConfig

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
jobs = "CartPole-v1", "Acrobot-v1", "MountainCar-v0"
parent = fifteen.new(size="small", seed=0)


def tell(day, event):
    if isinstance(event, fifteen.SleepProgress):
        print(f"night: {event.step} of {event.steps} updates")
    else:
        print(f"day: {event.instance} {event.what} {event.why}")


day = [fifteen.Assignment(job, steps) for job in jobs]
night = SleepConfig(steps=max(20, steps // 10))
# Kept elsewhere, the folder goes on after an interruption, and takes more days: live(parent, [day, day], folder).
with TemporaryDirectory() as folder:
    life = fifteen.live(parent, [day], folder, sleep=night, callback=tell)
if life.interrupted:
    raise SystemExit("interrupted")

print(f"took part: {', '.join(life.days[0].took_part)}")
for job in jobs:
    before, after = (fifteen.evaluate(one, job, episodes=5).mean for one in (parent, life.learner))
    print(f"{job}: {before:.0f} before the day, {after:.0f} after the night")
