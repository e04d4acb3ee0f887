"""All families there are."""

from collections.abc import Sequence

from fifteen.errors import JobError
from fifteen.jobs import bandits, control, diagnosis, grids, linear, mdps, operations, recall, service
from fifteen.jobs.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (bandits, mdps, grids, control, linear, recall, operations, service, diagnosis)
    for family in module.FAMILIES
}


def find_families(names: Sequence[str] | None) -> tuple[Family, ...]:
    """Families by name ("bandit/bernoulli") or group ("bandit"); all for None. Raises JobError for an unknown one."""
    if names is None:
        return tuple(FAMILIES.values())
    found: dict[str, Family] = {}
    for name in names:
        chosen = {n: f for n, f in FAMILIES.items() if name in (n, n.split("/")[0])}
        if not chosen:
            raise JobError(f"there is no family {name!r}; there are {', '.join(sorted(FAMILIES))}, or their groups")
        found |= chosen
    return tuple(found.values())
