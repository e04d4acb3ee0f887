"""Three instances work on three jobs as tasks of Ray, here or on a cluster; by night they become one learner.

Needs Ray: pip install 'fifteen[ray]'. Arguments: environment steps on each job (10,000), and the address of a cluster
(none: Ray on this machine), all of whose machines have Fifteen and see the folder at the same path.
"""

import sys

import fifteen
from fifteen.config import SleepConfig

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
address = sys.argv[2] if len(sys.argv) > 2 else None
folder = f"life-on-ray-{steps}"  # where it was interrupted, the same command goes on


def tell(day, event):
    if not isinstance(event, fifteen.SleepProgress):
        print(f"day {day}: {event.instance} {event.what} {event.why}")


# An instance whose machine is lost loses what it learned since it was last saved, less than 30 seconds: it begins again
# there, on another machine. Who is not done within the hour is left out of the night by name.
fleet = fifteen.FleetConfig(transport="ray", address=address, restarts=5, deadline_s=3_600)
day = [fifteen.Assignment(job, steps) for job in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")]
night = SleepConfig(steps=max(20, steps // 10))
life = fifteen.live(fifteen.new(size="small", seed=0), [day], folder, fleet=fleet, sleep=night, callback=tell)
if life.interrupted:
    raise SystemExit("interrupted: the same command goes on")

for name, why in life.days[0].left_out:
    print(f"left out: {name}: {why}")
print(f"took part: {', '.join(life.days[0].took_part)}")
print(f"one learner: fifteen.load({folder!r}), or fifteen evaluate CartPole-v1 --learner {folder}")
