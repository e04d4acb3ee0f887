"""What a night learns from, and a night's folder: its lessons, each written once, and where it stands.

manifest.json, state-*    the weights so far, the optimiser's moments, the settings; see `checkpoint`
lessons/000/ ...          of every job: the sequences and the weights of its teacher; gone once the night is over
lessons/pupil-1/ ...      of every practice: the weights of who then lived through school

What these lived through in school is computed again where a night goes on.
"""

import dataclasses
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import checkpoint
from fifteen.config import MindConfig, WorkConfig
from fifteen.distilling import Dream, Study, dream
from fifteen.errors import CheckpointError, NightError
from fifteen.frames import Layout
from fifteen.instance import Statistics
from fifteen.learner import Learner
from fifteen.lived import LENGTHS, FirstDays, Lived, Teacher
from fifteen.updating import Batch

LESSONS = "lessons"


@final
@dataclass(frozen=True)
class Lesson:
    """What was lived on a job, and who teaches it."""

    lived: Lived
    teacher: Array  # float32[P], weights
    older: bool  # of an earlier day, or of one on which nothing was gained
    first_day: bool  # its teacher reads as on a first day, whatever its memory says
    memory: np.ndarray | Array  # float32[memory], of the teacher before what others did on the job
    practised: bool = False  # it is what parent or sleeper did on a job that somebody else came to do well
    joins: int | None = None  # number of the lesson that it is read as a part of; None: it is one of its own

    @property
    def practisable(self) -> bool:
        """What a sleeper does on its job can be read as a part: its teacher's memory is known, or has to be empty."""
        return self.joins is None and (self.practised or self.older)

    def dream(self, mind: MindConfig, work: WorkConfig) -> Dream:
        lived, statistics = self.lived, jax.tree.map(jnp.asarray, self.lived.statistics)
        batch, continuous = jax.tree.map(jnp.asarray, lived.batch), jnp.asarray(lived.continuous)
        settings = mind, work, lived.layout, lived.wipe, self.first_day, self.practised
        return dream(self.teacher, batch, statistics, continuous, *settings)


def gathered(origin: Array, instances: Sequence[Learner], older: Sequence[Lived] | None) -> list[Lesson]:
    """What the instances teach, then what is older, then what was practised of both.

    origin: float32[P], weights of the parent, who teaches what is older and has no teacher of its own.

    Raises NightError where an instance lived nothing, or where `older` is given and there is nothing at all.
    """
    found = [
        Lesson(lived, one.state.weights, False, False, lived.batch.memory[0])
        for one in instances
        for lived in one.lived.values()
    ]
    for lived in older or ():
        told = lived.teacher or Teacher(origin, np.asarray(lived.batch.memory[0]), lived.statistics, lived.wipe, True)
        found.append(Lesson(lived, jnp.asarray(told.weights), True, told.first_day, told.memory))
    idle = [number for number, one in enumerate(instances) if not one.lived]
    if idle and (older is None or not found):
        raise NightError(
            f"nothing was lived that a night can read ({min(LENGTHS)} rows of one stream) by the instances {idle}, "
            "counted from 0: leave them out; let them work longer, with learn='weights' or 'both', or with a run "
            "folder; where they were loaded, give the folders of their runs to fifteen.nights.night; or merge their "
            "weights alone with weights_only=True"
        )
    extra = []
    for number, lesson in enumerate(found):
        if (practice := lesson.lived.practice) is not None:
            lived = dataclasses.replace(lesson.lived, batch=practice, practice=None)
            joins = number if lesson.older else None  # who teaches by practice as much as by a whole day is an instance
            whose = {"lived": lived, "memory": practice.memory[0]}
            extra.append(dataclasses.replace(lesson, **whose, practised=True, joins=joins))
    return found + extra


def practised_jobs(lessons: Sequence[Lesson]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.lived.job for one in lessons if one.practisable))


def practised(lessons: Sequence[Lesson], practice: Mapping[str, FirstDays]) -> list[Lesson]:
    """What a sleeper did on jobs, to be read with what was practised before it or with an older lesson."""
    more = []
    for number, lesson in enumerate(lessons):
        lived, did = lesson.lived, practice.get(lesson.lived.job)
        if lesson.practisable and did is not None and did.layout == lived.layout:
            lived = dataclasses.replace(lived, batch=did.batch(lesson.memory))
            more.append(dataclasses.replace(lesson, lived=lived, practised=True, joins=number))
    return more


def dreams(before: Sequence[Dream], lessons: Sequence[Lesson], mind: MindConfig, work: WorkConfig) -> list[Dream]:
    """Those of before and of more lessons, of which some are parts of earlier ones. They have the lessons' numbers."""
    found = list(before)
    for lesson in lessons:
        told = lesson.dream(mind, work)
        if lesson.joins is None:  # all of these come before those that join one
            found.append(told)
        else:
            found[lesson.joins] = jax.tree.map(lambda *parts: jnp.concatenate(parts), found[lesson.joins], told)
    return found


@dataclass(frozen=True)
class Begun:
    """A night that a folder holds."""

    id: str  # of the night: its lessons carry it
    about: Mapping[str, Any]  # what it was begun with: JSON-able
    jobs: tuple[str, ...]  # of every lesson but those of practice
    older: tuple[str, ...]  # those among them that no instance of this day teaches
    practised: tuple[str, ...]  # of every lesson of practice: they are numbered after the others
    practices: int  # of the sleeper: those that are done or, in nights of before there were any, never will be
    step: int  # updates done
    seconds: float  # that went into it


def begun(about: Mapping[str, Any], lessons: Sequence[Lesson]) -> Begun:
    """A new night."""
    jobs = tuple(lesson.lived.job for lesson in lessons if not lesson.practised)
    older = tuple(lesson.lived.job for lesson in lessons if lesson.older and not lesson.practised)
    practised = tuple(lesson.lived.job for lesson in lessons if lesson.practised)
    return Begun(uuid.uuid4().hex, about, jobs, older, practised, 0, 0, 0.0)


def with_practice(night: Begun, more: Sequence[Lesson]) -> Begun:
    """A night whose sleeper has practised once more."""
    jobs = *night.practised, *(lesson.lived.job for lesson in more)
    return dataclasses.replace(night, practised=jobs, practices=night.practices + 1)


def write(folder: Path, night: Begun, lessons: Sequence[Lesson], first: int = 0) -> None:
    """Write lessons, numbered from `first` on. Until `save` has been called the folder's night does not know them."""
    for number, lesson in enumerate(lessons, first):
        lived, batch = lesson.lived, lesson.lived.batch
        arrays = {"teacher": lesson.teacher, "memory": lesson.memory, "continuous": lived.continuous}
        arrays |= {f"statistics/{name}": value for name, value in lived.statistics._asdict().items()}
        arrays |= {f"batch/{name}": value for name, value in batch._asdict().items() if value is not None}
        told = {"what": "lesson", "night": night.id, "job": lived.job, "wipe": lived.wipe, "older": lesson.older}
        told |= {"first_day": lesson.first_day, "practised": lesson.practised, "joins": lesson.joins}
        layout = dataclasses.asdict(lived.layout)
        named = {name: np.asarray(array) for name, array in arrays.items()}
        checkpoint.write(_place(folder, number), named, {**told, "layout": layout})


def write_pupil(folder: Path, night: Begun, weights: Array) -> None:
    """Write down who lives through school in the next practice, float32[P]. As with lessons, `save` comes after it."""
    told = {"what": "pupil", "night": night.id}
    checkpoint.write(_pupil(folder, night.practices + 1), {"weights": np.asarray(weights)}, told)


def pupil(folder: Path | None, night: Begun, origin: Array) -> Array:
    """Who lived through school in the latest practice, float32[P]; before the first one `origin`."""
    # Nights of before pupils were written down had one without practice, too.
    if folder is None or not (place := _pupil(folder, night.practices)).is_dir():
        return origin
    arrays, _ = _checked(place, night)
    return jnp.asarray(arrays["weights"])


def save(folder: Path, night: Begun, study: Study) -> None:
    """Replace what the folder says of where the night stands."""
    arrays = {name: np.asarray(leaf) for name, leaf in _named(study).items()}
    checkpoint.write(folder, arrays, {"what": "night", **dataclasses.asdict(night)})


def end(folder: Path) -> None:
    """Remove the lessons of a night that is over and saved."""
    shutil.rmtree(folder / LESSONS, ignore_errors=True)


def holds_night(folder: Path) -> bool:
    return (folder / checkpoint.MANIFEST).is_file()


def settings_of_nights(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Saved ones, with those that came later as they are asked now: what was begun without them goes on without."""
    return {**{name: asked[name] for name in ("schoolwork", "orthogonal_rate", "practices")}, **saved}


def resumed(folder: Path, about: Mapping[str, Any], study: Study) -> tuple[Begun, Study]:
    """Where the night in a folder stands. study: what one looks like.

    Raises CheckpointError where it was begun with something else, and says with what.
    """
    arrays, manifest = checkpoint.read(folder)
    if manifest.get("what") != "night":
        raise CheckpointError(f"{folder} holds no night but a {manifest.get('what')!r}: give another folder")
    asked, theirs = json.loads(json.dumps(about)), manifest["about"]  # as it was written
    if "school" not in theirs:  # of before school was rehearsed: it goes on without
        del asked["school"]
        theirs = {**theirs, "mind": {"adapter": 0, **theirs["mind"]}}  # nor was there any adapter
    theirs = {"practising": asked["practising"], **theirs, "sleep": settings_of_nights(theirs["sleep"], asked["sleep"])}
    if differs := [name for name in asked if theirs.get(name) != asked[name]]:
        raise CheckpointError(
            f"{folder} holds a night that was begun otherwise ({', '.join(differs)} differ): give another folder, or "
            "begin it as it was begun"
        )
    if not _named(study).keys() <= arrays.keys():
        raise CheckpointError(
            f"{folder} holds a night of a version whose updates were others: it cannot go on exactly; give another "
            "folder, or delete this one, and begin it anew"
        )
    restored = jax.tree.map_with_path(lambda path, _: jnp.asarray(arrays[jax.tree_util.keystr(path)]), study)
    older, practised = tuple(manifest["older"]), tuple(manifest.get("practised", ()))
    jobs, practices = tuple(manifest["jobs"]), manifest.get("practices")
    if practices is None:  # of before sleepers practised: it goes on without, and named practice among its jobs
        jobs, practices = jobs[: len(jobs) - len(practised)], asked["sleep"]["practices"]
    where = manifest["step"], manifest["seconds"]
    return Begun(manifest["id"], asked, jobs, older, practised, practices, *where), restored


def read(folder: Path, night: Begun) -> list[Lesson]:
    """The lessons of the night in a folder, as they were written. Raises CheckpointError where one is not sound."""
    return [_read(_place(folder, number), night) for number in range(len(night.jobs) + len(night.practised))]


def _checked(place: Path, night: Begun) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, told = checkpoint.read(place)
    if told.get("night") != night.id:
        raise CheckpointError(f"{place} belongs to another night: begin this one anew in another folder")
    return arrays, told


def _read(place: Path, night: Begun) -> Lesson:
    arrays, told = _checked(place, night)
    lived = Lived(
        told["job"],
        Layout.read(told["layout"]),
        arrays["continuous"],
        told["wipe"],
        Statistics(*(jnp.asarray(arrays[f"statistics/{name}"]) for name in Statistics._fields)),
        Batch(*(arrays.get(f"batch/{name}") for name in Batch._fields)),  # pyright: ignore[reportArgumentType]
    )
    return Lesson(
        lived,
        jnp.asarray(arrays["teacher"]),
        told["older"],
        # Of before teachers were kept: who taught what is older was the parent.
        told.get("first_day", told["older"]),
        arrays["memory"] if "memory" in arrays else arrays["batch/memory"][0],
        told.get("practised", False),
        told.get("joins"),
    )


def _place(folder: Path, number: int) -> Path:
    return folder / LESSONS / f"{number:03}"


def _pupil(folder: Path, number: int) -> Path:
    return folder / LESSONS / f"pupil-{number}"


def _named(study: Study) -> dict[str, Array]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(study)}
