"""What a folder holds: what one verb left there, no other writes over."""

from pathlib import Path

from fifteen.errors import RunError

# By the file that says so.
_HELD = {
    "config.json": "a run of `fifteen work`",
    "plan.json": "runs of several jobs",
    "fleet.json": "a fleet",
    "life.json": "a life of `fifteen live`",
    "night.json": "a night",
    "exam.json": "an exam",
    "school/manifest.json": "a school",
    "manifest.json": "a learner",
}


def refuse_others(folder: Path, *own: str) -> None:
    """Raises RunError where somebody else's work lies in a folder. own: files by which the caller knows its own."""
    for file, what in _HELD.items():
        if file not in own and (folder / file).exists():
            raise RunError(f"{folder} holds {what} ({file} says so): give another folder")
