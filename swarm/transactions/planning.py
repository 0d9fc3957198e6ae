"""From the entries of a layer to the steps that make them true."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from .disk import PRIVATE, STAGE, VAULT, Disk, parent_of
from .errors import PathRefused
from .overlay import ABSENT, FILE, FOLDER, Entry, Layer, kind_of
from .plan import Step


def plan_of(disk: Disk, layer: Layer) -> tuple[list[Step], Callable[[], list[Step]]]:
    """The steps of an outermost layer, without checksums; and what puts the staged files on the disk and fills those in."""
    assert layer.below is None
    device = _device(disk, PRIVATE)
    removes: list[Step] = []
    rmdirs: list[Step] = []
    mkdirs: list[Step] = []
    places: list[tuple[Step, Entry]] = []
    chmods: list[Step] = []
    for number, name in enumerate(sorted(layer.entries)):
        entry = layer.entries[name]
        there = disk.stat(name)
        was = kind_of(there)
        wanted = entry.kind
        if wanted == FILE and not disk.is_there(entry.stage):
            wanted = ABSENT
        if wanted == ABSENT == was:
            continue
        _one_device(disk, name, there, device)
        keep = f"{VAULT}/{number}"
        mode = 0 if there is None else stat.S_IMODE(there.st_mode)
        if was == FOLDER and wanted != FOLDER:
            rmdirs.append(Step("rmdir", name, was=mode))
        if was not in (FOLDER, ABSENT) and wanted != FILE:
            removes.append(Step("remove", name, keep=keep))
        if wanted == FOLDER:
            if was != FOLDER:
                mkdirs.append(Step("mkdir", name))
                mode = 0o700
            if entry.mode is not None and entry.mode != mode:
                chmods.append(Step("chmod", name, mode=entry.mode, was=mode))
        elif wanted == FILE:
            places.append((Step("place", name, entry.stage, keep if was not in (FOLDER, ABSENT) else ""), entry))
    before = [*removes, *reversed(rmdirs), *mkdirs]

    def settled() -> list[Step]:
        done = []
        for step, entry in places:
            size, digest = disk.settle(step.stage, _mode(disk, entry))
            done.append(Step("place", step.name, step.stage, step.keep, size=size, digest=digest))
        folders = {parent_of(step.stage) for step, _ in places} | {STAGE, VAULT, PRIVATE}
        for folder in sorted(folders, reverse=True):
            disk.sync(folder)
        # Folders that are closed to their owner are closed once everything is in them.
        return [*before, *done, *reversed(chmods)]

    return [*before, *(step for step, _ in places), *chmods], settled


def _mode(disk: Disk, entry: Entry) -> int | None:
    """The mode to give to a staged file: the one it is to have, unless a program that wrote it gave it another."""
    if entry.mode is None:
        return None
    found = disk.stat(entry.stage)
    assert found is not None
    now = stat.S_IMODE(found.st_mode)
    return entry.mode if now == entry.mode | 0o600 else None


def _device(disk: Disk, name: str) -> int:
    found = disk.stat(name)
    assert found is not None
    return found.st_dev


def _one_device(disk: Disk, name: str, there: os.stat_result | None, device: int) -> None:
    """PathRefused when a name is on another filesystem than the directory: nothing is renamed from one to the other."""
    if there is None:
        above = parent_of(name)
        while (there := disk.stat(above)) is None:
            above = parent_of(above)
    elif kind_of(there) != FOLDER:
        there = disk.stat(parent_of(name))
        assert there is not None
    if there.st_dev != device:
        raise PathRefused(
            f"{name!r} is on another filesystem than {disk.root}",
            hint="open a transaction on the folder where that is mounted",
        )
