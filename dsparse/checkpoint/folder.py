"""A folder of checkpoints: how one comes to be there whole, which is the last, which are kept.

A checkpoint is written under another name, flushed to the disk and renamed, and `latest` moves after that. Whatever is
cut off leaves either the old state or the new one, and perhaps a folder whose name begins with a dot.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from dsparse.checkpoint.manifest import MANIFEST, Manifest
from dsparse.errors import CheckpointError
from dsparse.faults import reach
from dsparse.files import flush_to_disk, write_whole

LATEST = "latest"

_MAX_TAG_BYTES = 200

_SAVING, _REPLACED, _REMOVING = ".saving-", ".replaced-", ".removing-"


def require_tag(tag: str) -> str:
    """The tag as text.

    Raises:
        CheckpointError: it is not the name of a folder inside the save folder.
    """
    is_odd = tag != tag.strip() or not tag.isprintable() or len(tag.encode()) > _MAX_TAG_BYTES
    if not tag or "/" in tag or tag.startswith(".") or tag == LATEST or is_odd:
        raise CheckpointError(f"Expected a checkpoint tag that can name a folder. Got {tag!r}.")
    return tag


def begin(root: Path, tag: str) -> Path:
    """Makes the folder that a checkpoint is written to before it gets its name; what a cut-off save left there goes."""
    root.mkdir(parents=True, exist_ok=True)
    _put_back(root / f"{_REPLACED}{tag}")
    abandon(root, tag)
    aside = aside_of(root, tag)
    aside.mkdir()
    return aside


def aside_of(root: Path, tag: str) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return root / f"{_SAVING}{tag}"


def publish(root: Path, tag: str) -> None:
    """Gives the checkpoint that was written aside its name. All files of it must be on the disk."""
    aside, folder, replaced = aside_of(root, tag), root / tag, root / f"{_REPLACED}{tag}"
    for path in (aside, *(path for path in aside.rglob("*") if path.is_dir())):
        flush_to_disk(path)
    reach("save.rename")
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    flush_to_disk(root)
    shutil.rmtree(replaced, ignore_errors=True)


def abandon(root: Path, tag: str) -> None:
    """Removes what was written aside."""
    shutil.rmtree(aside_of(root, tag), ignore_errors=True)


def tidy(root: Path) -> None:
    """Removes what cut-off saves and removals have left, and puts a checkpoint back that was to be replaced.

    Call it where nobody else saves into the folder.
    """
    for path in list(root.glob(f"{_REPLACED}*")):
        _put_back(path)
    for prefix in (_SAVING, _REMOVING):
        for path in root.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)
    for path in root.glob(".*.partial"):
        path.unlink(missing_ok=True)


def locate(root: Path, tag: str) -> str:
    """The name under which a checkpoint lies: its tag, or the one it had when a save over it was cut off."""
    replaced = f"{_REPLACED}{tag}"
    return replaced if not (root / tag).exists() and (root / replaced).is_dir() else tag


def tag_of(name: str) -> str:
    """The tag of a checkpoint by the name that `locate` gave."""
    return name.removeprefix(_REPLACED)


def latest_tag(root: Path) -> str | None:
    """The tag that `latest` names, None where there is no such file.

    Raises:
        CheckpointError: the file holds no tag.
    """
    path = root / LATEST
    if not path.is_file():
        return None
    try:
        return require_tag(path.read_text(encoding="utf-8").strip())
    except (CheckpointError, UnicodeDecodeError):
        raise CheckpointError(
            f"Expected the name of a checkpoint in {path}. Got something else: the file is damaged."
        ) from None


def write_latest(root: Path, tag: str) -> None:
    """Points `latest` at a tag."""
    write_whole(root / LATEST, tag)


def tags(root: Path) -> list[str]:
    """All checkpoints of a folder, the one with the most steps first; one that cannot say comes last."""
    return sorted(_named(root), key=lambda tag: (_age(root / tag)[1], tag), reverse=True)


def good_tags(root: Path) -> Iterator[str]:
    """The checkpoints of which every byte is as it was written, the one with the most steps first."""
    for tag in tags(root):
        try:
            if not Manifest.read(root / tag).problems(root / tag):
                yield tag
        except CheckpointError:
            continue


def prune(root: Path, *, keep: int, keep_every: int) -> list[str]:
    """Removes old checkpoints and returns their tags.

    Args:
        root: folder of the checkpoints.
        keep: how many of those saved last stay, at least 1. After going back to an earlier one these are not those
            with the most steps.
        keep_every: those at a multiple of so many steps stay too; 0 keeps none for that.

    The one that `latest` names stays in any case, and what is no readable checkpoint is not ours to remove.

    Raises:
        CheckpointError: a number is out of range.
    """
    if keep < 1 or keep_every < 0:
        raise CheckpointError(f"Expected to keep at least 1, and every 0 steps or more. Got {keep} and {keep_every}.")
    latest = latest_tag(root)
    # The one saved last first.
    named = sorted(((*_age(root / tag), tag) for tag in _named(root)), reverse=True)
    readable = [(steps, tag) for _, steps, tag in named if steps >= 0]
    old = [tag for steps, tag in readable[keep:] if tag != latest and not (keep_every and steps % keep_every == 0)]
    for tag in old:
        # Under another name first: a removal that is cut off leaves no damaged checkpoint.
        removing = root / f"{_REMOVING}{tag}"
        (root / tag).rename(removing)
        reach("save.prune")
        shutil.rmtree(removing, ignore_errors=True)
    return old


def _put_back(replaced: Path) -> None:
    """A checkpoint that was to be replaced gets its name again, or goes if the other one has it."""
    original = replaced.with_name(tag_of(replaced.name))
    if original.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.exists():
        replaced.rename(original)


def _named(root: Path) -> list[str]:
    return [path.name for path in root.glob("*") if (path / MANIFEST).is_file() and not path.name.startswith(".")]


def _age(folder: Path) -> tuple[str, int]:
    """When a checkpoint was saved and its steps; -1 where it cannot say."""
    try:
        about = Manifest.read(folder).about
        return str(about.get("saved_at", "")), int(about["global_steps"])
    except (CheckpointError, KeyError, TypeError, ValueError, OverflowError):
        return "", -1
