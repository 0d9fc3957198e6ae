"""The worker process of an isolated population: it builds or loads one, and does what its parent asks for.

Started by `swarm.nano.isolation`, with the descriptors of a socket, of a page of memory and of a pipe that ends with it.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import mmap
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import cloudpickle

from kernels import population
from swarm.errors import SwarmError
from swarm.nano.errors import BadTick
from swarm.nano.measuring import Mark
from swarm.nano.saving import load, save
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.wire import BEAT, BESIDE, FDS_MAX, PAGE, PHASES, STOP, receive, send

CHECK_S: Final = 0.05
_PDEATHSIG: Final = 1


class Shares:
    """Columns of populations in files of memory, and where they lie."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int, int]] = []
        """(address, bytes, descriptor)"""
        self._placing = -1

    def place(self, nbytes: int) -> int:
        """A file for so many bytes, sealed: who maps it cannot be made to fault by its being cut off."""
        import fcntl

        self._placing = os.memfd_create("swarm-nano", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._placing, nbytes)
        fcntl.fcntl(self._placing, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return self._placing

    def placed(self, address: int, nbytes: int) -> None:
        """It lies there now."""
        self.blocks.append((address, nbytes, self._placing))

    def of(self, address: int) -> tuple[int, int]:
        """The descriptor of the file in which an address lies, and how far from its beginning."""
        for start, nbytes, fd in self.blocks:
            if start <= address < start + nbytes:
                return fd, address - start
        raise LookupError(f"nothing is shared at {address:#x}")


class Worker:
    """The population, and what its parent knows of it."""

    def __init__(self, link: socket.socket, page: mmap.mmap) -> None:
        self._link = link
        self._page = page
        self._words = memoryview(page).cast("Q")
        self._shares = Shares()
        self._told: set[int] = set()
        self._cohorts_told: list[Any] = []
        self._checkpoint_s: float | None = None
        self._saved_s = time.monotonic()
        self.flock: NanoSwarm | None = None

    def phase(self, name: str) -> None:
        """What it does now, for the watchdog."""
        self._words[PHASES.at] = PHASES.names.index(name)

    def serve(self) -> None:
        """Do what is asked for until the parent is gone."""
        while True:
            self.phase("waiting")
            got = receive(self._link)
            if got is None:
                return
            what, said, files = got
            if files:
                said["blob"] = files[0]
            try:
                done = getattr(self, f"on_{what}")(said)
            except BaseException as error:
                send(self._link, ["raised", _carried(error)])
            else:
                shapes, files = self._shapes()
                send(self._link, ["done", done, shapes], files)

    # --- what is asked for --------------------------------------------------------------------------------------------

    def on_build(self, said: dict[str, Any]) -> None:
        """Make the population: by its function, and from a checkpoint where there is one."""
        self.phase("building")
        sys.path[:] = said["path"]
        self._checkpoint_s = said["checkpoint_s"]
        if hasattr(os, "memfd_create"):
            population.share(self._shares)
        build, args, kwargs = pickle.loads(said["build"])  # noqa: S301 - it is our parent's
        try:
            made = build(*args, **kwargs)
        except BadTick as error:
            error.add_note("an address is another one in each process: let the function that builds look it up")
            raise
        if not isinstance(made, NanoSwarm):
            raise TypeError(f"{build!r} returned {made!r}, which is no NanoSwarm")
        main = sys.modules["__main__"]
        for kind in made.kinds:
            if (
                kind.__module__ == "__main__"
            ):  # it came by value: from now on it is found by its name, as saving wants it
                setattr(main, kind.__name__, kind)
        if said.get("blob") is not None:
            with os.fdopen(said["blob"], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                ticks = {each.form.kind.__name__: each.form for each in made._cohorts}
                again = load(bytes(blob), ticks=ticks)
            again.take_critics(made)
            made = again
        self.flock = made
        for number in said["suspend"]:
            made.cohorts[number].suspend()
        made.passes.watch(self._words[BEAT : BEAT + 8])
        made.beat_beside = self._words[BESIDE : BESIDE + 8]
        made.between = self._between
        if self._checkpoint_s is not None:
            self._checkpoint(save(made))
        gc.collect()

    def on_run(self, said: dict[str, Any]) -> bytes:
        """Run; the report."""
        flock = self._flock()
        self.phase("running")
        self._words[STOP] = 0
        mark = Mark(**pickle.loads(said["mark"])) if said["mark"] is not None else flock.mark()  # noqa: S301 - our parent's
        with contextlib.suppress(_Stopped):
            flock.run_for(**said["run"])
        self.phase("waiting")
        return pickle.dumps(flock.report(mark))

    def on_mark(self, said: Any) -> bytes:
        """Where its counts stand."""
        import dataclasses

        mark = self._flock().mark()
        return pickle.dumps({each.name: getattr(mark, each.name) for each in dataclasses.fields(mark)})

    def on_report(self, said: dict[str, Any]) -> bytes:
        """What was done since a mark."""
        return pickle.dumps(self._flock().report(Mark(**pickle.loads(said["mark"]))))  # noqa: S301 - our parent's

    def on_save(self, said: Any) -> None:
        """Save it to the file that goes along with the answer."""
        self.phase("saving")
        self._checkpoint(save(self._flock()))

    def on_failures(self, said: Any) -> list[Any]:
        """Ticks that raised, in words."""
        return [[kind.__name__, row, f"{type(e).__name__}: {e}"] for kind, row, e in self._flock().failures()]

    def on_call(self, said: dict[str, Any]) -> bytes:
        """Call a function with the population."""
        self.phase("calling")
        function, args, kwargs = pickle.loads(said["call"])  # noqa: S301 - our parent's
        return bytes(cloudpickle.dumps(function(self._flock(), *args, **kwargs)))

    # --- between two passes -------------------------------------------------------------------------------------------

    def _between(self) -> None:
        self._words[BEAT] += 1
        if self._words[STOP]:
            raise _Stopped
        if self._checkpoint_s is not None and time.monotonic() - self._saved_s >= self._checkpoint_s:
            self.phase("saving")
            self._checkpoint(save(self._flock()))
            self.phase("running")

    def _checkpoint(self, blob: bytes) -> None:
        fd = os.memfd_create("swarm-nano-saved", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else -1
        if fd < 0:
            import tempfile

            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        try:
            with memoryview(blob) as view:
                at = 0
                while at < len(view):
                    at += os.write(fd, view[at : at + (1 << 28)])
            send(self._link, ["saved", self._flock().now_ns], [fd])
        finally:
            os.close(fd)
        self._saved_s = time.monotonic()

    def _flock(self) -> NanoSwarm:
        assert self.flock is not None, "nothing was built"
        return self.flock

    # --- what the parent may look at ----------------------------------------------------------------------------------

    def _shapes(self) -> tuple[dict[str, Any], list[int]]:
        """What the parent should know of cohorts and columns; and the files of columns that it does not have yet."""
        flock = self.flock
        if flock is None:
            return {}, []
        kinds: list[dict[str, Any]] = []
        files: list[int] = []
        for kind, state in flock.kinds.items():
            columns = []
            for index, (name, type) in enumerate(kind.fields.items()):
                it: dict[str, Any] = {"name": name, "code": type.code}
                if self._shares.blocks:
                    fd, offset = self._shares.of(state.population.address(index))
                    step = (
                        state.population.address(index, 1) - state.population.address(index)
                        if state.population.capacity > 1
                        else 0
                    )
                    it |= {"offset": offset, "step": step or 8, "capacity": state.population.capacity, "file": fd}
                    if fd not in self._told and fd not in files and len(files) < FDS_MAX:
                        files.append(fd)
                columns.append(it)
            kinds.append({"name": kind.__name__, "number": state.number, "columns": columns})
        self._told.update(files)
        cohorts = []
        for number, each in enumerate(flock.cohorts):
            rows = each.rows
            if number < len(self._cohorts_told) and self._cohorts_told[number] is rows:
                continue  # one all of whose agents have ended may be another now
            self._cohorts_told[number:] = [rows, *self._cohorts_told[number + 1 :]]
            ranged = [rows.start, rows.stop] if isinstance(rows, range) else None
            cohorts.append({
                "number": number, "kind": flock.kinds[each.kind].number, "range": ranged,
                "rows": None if ranged is not None else array.array("I", rows).tobytes(),
            })  # fmt: skip
        said = {
            "passes": flock.passes.made,
            "kinds": kinds, "cohorts": cohorts, "agents": flock.agents, "now_ns": flock.now_ns, "seed": flock.seed,
            "time": flock.time, "files": files,
        }  # fmt: skip
        return said, files


class _Stopped(BaseException):
    """The parent wants a run to end, between two passes."""


def _carried(error: BaseException) -> dict[str, Any]:
    """An error, as far as it can be told to another process."""
    import traceback

    it: dict[str, Any] = {
        "type": type(error).__name__, "message": str(error), "hint": error.hint if isinstance(error, SwarmError) else "",
        "traceback": "".join(traceback.format_exception(error)), "pickle": None,
    }  # fmt: skip
    try:
        it["pickle"] = cloudpickle.dumps(error)
    except Exception:
        it["pickle"] = None
    return it


def _die_with(parent: int) -> None:
    """End when the parent does, however that ends: by the system where it can, else by the end of the link (see `main`)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def _lifeline(fd: int, end: Callable[[], None]) -> None:
    while True:
        try:
            if not os.read(fd, 1):
                break
        except OSError:
            break
    end()


def main(words: list[str]) -> None:
    """Serve one parent."""
    parent, link_fd, page_fd, life_fd = map(int, words)
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent, who then asks for the end between two passes
    threading.Thread(target=_lifeline, args=(life_fd, lambda: os._exit(0)), daemon=True).start()
    with socket.socket(fileno=link_fd) as link, mmap.mmap(page_fd, PAGE) as page:
        os.close(page_fd)
        Worker(link, page).serve()
        os._exit(0)  # views of the page are alive: there is nothing to tidy up
