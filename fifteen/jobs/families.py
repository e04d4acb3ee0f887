"""All families there are."""

from collections.abc import Callable, Sequence

from fifteen.errors import JobError
from fifteen.jobs import bandits, control, diagnosis, grids, linear, mdps, operations, recall, rules, service
from fifteen.jobs.family import Family, OutsideFamily
from fifteen.jobs.gymnax_family import gymnax_family
from fifteen.jobs.xland_family import xland_family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (bandits, mdps, grids, rules, control, linear, recall, operations, service, diagnosis)
    for family in module.FAMILIES
}

# Environments of other libraries, "library/name": what makes a family of a name. The library is imported then.
OUTSIDE: dict[str, Callable[[str], OutsideFamily]] = {"gymnax": gymnax_family, "xland": xland_family}


def is_outside(name: str) -> bool:
    """Whether this is the name of another library's environment, known to it or not."""
    library, _, environment = name.partition("/")
    return library in OUTSIDE and bool(environment)


def outside_family(name: str) -> OutsideFamily:
    """The family of an `is_outside` name. Raises JobError where the library is missing or does not know it."""
    library, _, environment = name.partition("/")
    return OUTSIDE[library](environment)


def find_families(names: Sequence[str] | None) -> tuple[Family, ...]:
    """Families by name ("bandit/bernoulli", "gymnax/CartPole-v1") or group ("bandit"); all of our own for None.

    Raises JobError for an unknown one.
    """
    if names is None:
        return tuple(FAMILIES.values())
    found: dict[str, Family] = {}
    for name in names:
        if is_outside(name):
            found[name] = outside_family(name)
            continue
        chosen = {n: f for n, f in FAMILIES.items() if name in (n, n.split("/")[0])}
        if not chosen:
            others = ", ".join(f"{library}/NAME" for library in OUTSIDE)
            raise JobError(
                f"there is no family {name!r}; there are {', '.join(sorted(FAMILIES))}, or their groups, and {others}"
            )
        found |= chosen
    return tuple(found.values())
