"""The driver of a population that runs in the fleet: a thread of the process that submitted it.

It keeps the last state that all parts saved after the same pass, starts the parts, and when one is lost starts all of them again
from there, elsewhere. In virtual time what comes of it is the same to the last bit, so that nothing need be known of what the
lost ones did since.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

from kernels.passes import NEVER
from swarm.errors import FleetNotFound, NotFound, SwarmError, TaskCancelled, TaskLost, TaskQuarantined, WorkerCrashed
from swarm.nano.arrays import numpy
from swarm.nano.bridge import Bridge, Pass
from swarm.nano.bridge import passes as bridge_passes
from swarm.nano.errors import NanoError
from swarm.nano.fleet_reports import FleetReport, Stint
from swarm.nano.part_task import START_S, Ending, Plan, Saved, run_part
from swarm.nano.partition import Cut, cut, gather, split
from swarm.nano.saving import parts
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.sources import Source
from transport.mesh import TOKEN_BYTES, key_pair

if TYPE_CHECKING:
    from swarm.client.sync import Fleet

RESTARTS_MAX: Final = 3
"""How often it is begun again from the same state: what kills its worker each time would go on doing so."""
TELL_EVERY_S: Final = 0.25
BALANCE_AFTER_S: Final = 2.0
"""For so long all parts are watched before agents go from one to another; twice as long each time after that."""
BALANCE_MAX_S: Final = 120.0
UNEVEN: Final = 1.25
"""So much busier than the mean a part must be: to cut a population anew costs about a second."""
_LOST: Final = (TaskLost, WorkerCrashed, TaskQuarantined, FleetNotFound)


class PopulationRun(concurrent.futures.Future[FleetReport]):
    """A population that runs in the fleet: a future of its `FleetReport`, as `submit` returns it.

    `cancel` ends it without a result, `stop` after its next pass and with one. It lives as long as the connection that it was
    submitted through.
    """

    def __init__(
        self, fleet: Fleet, blob: Any, how: Cut, names: Sequence[str], sources: Mapping[str, Source], options: Mapping[str, Any],
        *, until_ns: int, passes: int | None, save_every_s: float | None, topics: tuple[str, ...], balance: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._fleet, self._whole, self._cut = fleet, blob, how
        self._sources, self._options = dict(sources), dict(options)
        self._until_ns, self._passes, self._save_every_s = until_ns, passes, save_every_s
        self._topics = topics
        self._pass: Pass | None = None
        self._other_pass: Pass | None = None
        if topics:
            self._pass, self._other_pass = bridge_passes()
        self._bridge: Bridge | None = None
        self._names: list[str] = list(names)
        self._wanted: dict[int, str] = dict(enumerate(names))
        """Nodes that were asked for, by part."""
        self._events: queue.SimpleQueue[tuple[int, str, Any, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False
        """Nobody takes events any more; guarded by the lock."""
        self._letters = itertools.count(1)
        self._attempt = 0
        self._streams: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._blobs: list[Any] = []
        self._reports: dict[int, tuple[str, Saved]] = {}
        """What was last saved of each part in this stint, and where: the common state."""
        self._saving: dict[int, dict[int, Saved]] = {}
        self._stints: list[Stint] = []
        self._real = parts(blob)[0]["time"] == "real" and how.parts > 1
        """Its parts make their passes each by itself."""
        self._told: dict[tuple[int, int], bytes] = {}
        """Letters that show no effect yet, by number and part."""
        self._said: dict[int, dict[str, Any]] = {}
        self._callbacks: list[Callable[[dict[str, Any]], None]] = []
        self._asked: dict[int, concurrent.futures.Future[Any]] = {}
        self._stopping = False
        self._where: list[concurrent.futures.Future[str]] = []
        self._moves: list[tuple[int, concurrent.futures.Future[tuple[str, ...]]]] = []
        """Who waits for a move, and in which attempt it was asked for: the next one that begins is the answer."""
        self._moved = self._restarts = self._again = self._balanced = 0
        self._balance_s = BALANCE_AFTER_S if balance else None
        self._weights = [1.0] * how.parts
        """What each part gets of what is cut by rows."""
        self._busy: dict[int, float] = {}
        """How long each part ticked in this attempt, seconds."""
        self._begun_s = 0.0
        self._begun_passes = self._first_passes = parts(blob)[0]["passes"]
        self._rate = 0.0
        """Passes a second before it was cut anew."""
        self._recut = False
        self._began_s = time.monotonic()
        self._endings: dict[int, Ending] = {}
        self._lines = 0
        self._here: dict[int, Any] = {}
        self._begun: set[int] = set()
        self._placed_s = self._told_s = 0.0
        self._keys: list[tuple[bytes, bytes]] = []
        self._thread = threading.Thread(target=self._drive, name="nano-driver", daemon=True)

    # --- what people ask ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where its parts run now, in their order."""
        return tuple(self._nodes[part] for part in sorted(self._nodes))

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is: "passes" that all parts have made, "now_s" and "until_s" of its time, "agents", "ticks", "wall_s",
        "nodes", "restarts", "moves" and "balanced"."""
        said = list(self._said.values())
        return {
            "passes": min((each["passes"] for each in said), default=0),
            "now_s": min((each["now_ns"] for each in said), default=0) / 1e9,
            "until_s": None if self._until_ns == NEVER else self._until_ns / 1e9, "until_passes": self._passes,
            "agents": sum(each["agents"] for each in said), "ticks": sum(each["ticks"] for each in said),
            "wall_s": time.monotonic() - self._began_s, "nodes": list(self.nodes),
            "restarts": self._restarts, "moves": self._moved, "balanced": self._balanced,
        }  # fmt: skip

    def add_progress_callback(self, function: Callable[[dict[str, Any]], None]) -> None:
        """Have `function(progress)` called, in the driver's thread, whenever there is news."""
        self._callbacks.append(function)

    def move(self, to: str | Sequence[str], *, timeout: float | None = 60.0) -> tuple[str, ...]:
        """Have it go on elsewhere: after a pass it is saved, ends where it is, and begins there. `to` names a node, or one for each
        part. Returns where it then runs; NotFound when there is no such node, TimeoutError, and NanoError when it ended before."""
        names = [to] if isinstance(to, str) else list(to)
        if len(names) != self._cut.parts:
            raise NanoError(f"{len(names)} nodes are named for {self._cut.parts} parts", hint="name one for each part")
        self._members(names)
        where: tuple[str, ...] = self._ask_driver("move", names).result(timeout)
        return where

    def save(self, *, timeout: float | None = 60.0) -> Any:
        """Its state after a pass from now on, as one blob, while it goes on; NanoError when it ended before."""
        return self._ask_driver("save", None).result(timeout)

    def bridge(self, flock: NanoSwarm, *, timeout: float = 60.0, **more: Any) -> Bridge:
        """Join the topics that were named to `submit` to those of a swarm of this process; one at a time. It follows when
        the population moves. `more` is as for `Bridge`. TimeoutError when the population has not begun."""
        if self._other_pass is None:
            raise NanoError("no topics were named", hint="submit(…, bridge=[…])")
        address: str = self._ask_driver("where", None).result(timeout)
        self._bridge = Bridge(flock, self._other_pass.at(address), self._topics, **more)
        return self._bridge

    def stop(self) -> None:
        """Have it end after a pass; its result is what came of it until then."""
        self._events.put((-1, "stop", None, None))

    def cancel(self) -> bool:
        """End it without a result."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        self._events.put((-1, "cancel", None, None))
        return True

    def _ask_driver(self, what: str, about: Any) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            if self._over:
                raise NanoError("the population has ended", hint="its result has what came of it")
            self._events.put((-1, what, about, done))
        return done

    # --- the driver ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._blobs = split(self._whole, self._cut)
        if self._names:
            self._members(self._names)
        self._thread.start()

    def _drive(self) -> None:
        try:
            self._place()
            while self._step():
                pass
        except BaseException as error:
            self._end_streams()
            if not self.done():
                self._finish(None, error)
        finally:
            with self._lock:
                self._over = True
            for waiting in (*(done for _, done in self._moves), *self._asked.values(), *self._where):
                if not waiting.done():
                    waiting.set_exception(
                        NanoError("the population ended before", hint="its result has what came of it")
                    )
            while True:
                try:
                    *_, done = self._events.get_nowait()
                except queue.Empty:
                    break
                if isinstance(done, concurrent.futures.Future):
                    done.set_exception(NanoError("the population has ended", hint="its result has what came of it"))

    def _finish(self, report: FleetReport | None, error: BaseException | None) -> None:
        try:
            if error is not None:
                self.set_exception(error)
            else:
                assert report is not None
                self.set_result(report)
        except concurrent.futures.InvalidStateError:
            pass  # it was cancelled meanwhile

    def _step(self) -> bool:
        """Take the next event; False when it is over."""
        if time.monotonic() - self._told_s >= TELL_EVERY_S:  # also while there is news all the time
            self._told_s = time.monotonic()
            self._tell_again()
            self._check_begun()
        try:
            attempt, what, about, more = self._events.get(timeout=TELL_EVERY_S)
        except queue.Empty:
            return True
        if attempt == -1:
            return self._ask(what, about, more)
        if attempt != self._attempt:
            return True  # of a part that was given up
        part = more
        match what:
            case "here":
                self._here[part] = about
                if len(self._here) == self._cut.parts and self._cut.parts > 1:
                    self._introduce()
            case "begun":
                self._begun.add(part)
                if len(self._begun) == self._cut.parts:
                    self._told.clear()
                    self._on_begun()
            case "progress":
                self._said[part] = about
                self._busy[part] = about["busy_s"]
                self._balance()
                self._news()
            case "saved":
                self._saved(part, about)
            case "ended":
                return self._ended(part, about)
            case "failed":
                return self._failed(part, about)
        return True

    def _ask(self, what: str, about: Any, done: Any) -> bool:
        if what == "cancel":
            self._end_streams()
            return False
        if what == "where":
            self._where.append(done)
            self._answer_where()
            return True
        if what == "stop":
            self._stopping = True
        elif what == "move":
            self._wanted = dict(enumerate(about))
            self._moves.append((self._attempt, done))
        elif what == "save":
            number = next(self._letters)
            self._asked[number] = done
            if len(self._begun) == self._cut.parts:
                self._order(number, "save")
            return True
        if len(self._begun) == self._cut.parts:
            self._order(next(self._letters), "stop")
        return True

    def _answer_where(self) -> None:
        if len(self._begun) < self._cut.parts or not self._topics:
            return
        hosts = {member["name"]: _host(member["address"]) for member in self._fleet.members()}
        address = f"{hosts.get(self._nodes[0], '127.0.0.1')}:{self._here[0]}"
        for waiting in self._where:
            waiting.set_result(address)
        self._where.clear()
        if self._bridge is not None and self._bridge._carrier is not None:
            self._bridge._carrier.point(address)

    def _balance(self) -> None:
        """Where all wait for one part, have some of its agents go to the others: after the next pass all are cut anew."""
        waited_s = time.monotonic() - self._begun_s
        if self._balance_s is None or self._recut or waited_s < self._balance_s or len(self._busy) < self._cut.parts:
            return
        busy = [self._busy[part] for part in range(self._cut.parts)]
        if max(busy) < 0.5 * waited_s or max(busy) < UNEVEN * sum(busy) / len(busy):
            return  # to exchange messages takes longer, or they are about as busy as one another
        rate = (min(each["passes"] for each in self._said.values()) - self._begun_passes) / waited_s
        if self._balanced and rate < 1.05 * self._rate:
            self._balance_s = None  # it did not help: a few agents take all the time, wherever they are
            return
        self._rate = rate
        speeds = [weight / max(spent, 0.02 * max(busy)) for weight, spent in zip(self._weights, busy, strict=True)]
        self._weights = [speed / sum(speeds) for speed in speeds]
        self._balance_s = min(BALANCE_MAX_S, 2.0 * self._balance_s)
        self._recut = True
        self._order(next(self._letters), "stop")

    def _cut_anew(self) -> None:
        self._whole = gather(self._whole, self._cut, self._blobs)
        self._cut = cut(self._whole, self._cut.parts, "rows", self._weights)
        self._blobs = split(self._whole, self._cut)
        self._balanced += 1

    def _on_begun(self) -> None:
        self._begun_s = time.monotonic()
        self._begun_passes = min((each["passes"] for each in self._said.values()), default=self._first_passes)
        self._answer_where()
        self._saving.clear()
        for number in self._asked:
            self._order(number, "save")
        answered = [done for attempt, done in self._moves if attempt < self._attempt]
        self._moves = [each for each in self._moves if each[0] == self._attempt]
        arrived = list(self.nodes) == [self._wanted.get(part) for part in range(self._cut.parts)]
        self._moved += bool(answered) and arrived
        for waiting in answered:
            if arrived:
                waiting.set_result(self.nodes)
            else:
                waiting.set_exception(
                    NotFound(
                        f"it did not get to {', '.join(self._wanted.values())}, and runs on {', '.join(self.nodes)}",
                        hint="a node went away meanwhile? `swarm members` shows those there are",
                    )
                )
        if self._stopping or self._moves:
            self._order(next(self._letters), "stop")
        self._news()

    # --- letters ------------------------------------------------------------------------------------------------------

    def _letter(self, number: int, part: int, said: dict[str, Any]) -> None:
        letter = bytes(msgpack.packb({"n": number, **said}))
        self._told[number, part] = letter
        self._streams[part].future.tell(letter)

    def _order(self, number: int, what: str) -> None:
        """Tell the part that says it to the others in step, or each of them."""
        for part in range(self._cut.parts if self._real else 1):
            self._letter(number, part, {"do": what})

    def _tell_again(self) -> None:
        for (_, part), letter in self._told.items():
            if part in self._streams:
                self._streams[part].future.tell(letter)

    def _introduce(self) -> None:
        """Tell each part where those before it listen."""
        hosts = {member["name"]: _host(member["address"]) for member in self._fleet.members()}
        for part in range(self._cut.parts):
            where = {
                other: f"{'127.0.0.1' if self._nodes[other] == self._nodes[part] else hosts.get(self._nodes[other], '127.0.0.1')}:{self._port(other, part)}"
                for other in range(part)
                if self._port(other, part)
            }
            self._letter(
                next(self._letters), part, {"do": "meet", "where": {str(key): value for key, value in where.items()}}
            )

    def _port(self, of: int, to: int) -> int:
        """Where a part listens for another; in real time it has a port for each."""
        here = self._here[of]
        return here if isinstance(here, int) else here.get(to, 0)

    def _check_begun(self) -> None:
        if len(self._begun) == self._cut.parts or time.monotonic() - self._placed_s < START_S:
            return
        part = min(set(range(self._cut.parts)) - self._begun)
        where = self._nodes.get(part, "?")
        if part in self._here:
            raise NanoError(
                f"part {part} on {where} did not begin within {START_S:g} s: it did not hear of the others",
                hint="a firewall between the nodes? parts of a population talk over ports of their own",
            )
        raise NanoError(
            f"part {part} did not begin on {where} within {START_S:g} s",
            hint="are its slots taken? `swarm status` shows it",
        )

    # --- starting -----------------------------------------------------------------------------------------------------

    def _members(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Nodes that take tasks; NotFound when one of the names is not among them."""
        found = [each for each in self._fleet.members() if each["state"] == "alive"]
        known = {each["name"] for each in found}
        for name in names:
            if name not in known:
                raise NotFound(f"there is no node {name!r}", hint=f"there are {', '.join(sorted(known))}")
        return found

    def _choose(self, avoid: frozenset[str]) -> dict[int, str]:
        """A node for each part: those asked for while they are there, else the ones with the most room."""
        members = self._members(())
        free = {each["name"]: float(each["slots"]) - float(each["busy"]) for each in members if each["slots"] >= 1}
        better = {name: room for name, room in free.items() if name not in avoid} or free
        if not better:
            raise NanoError("no node of the fleet takes tasks", hint="`swarm members` shows them")
        chosen: dict[int, str] = {}
        for part in range(self._cut.parts):
            wanted = self._wanted.get(part, "")
            if wanted in better:
                chosen[part] = wanted
        for part in range(self._cut.parts):
            if part not in chosen:
                taken = list(chosen.values())
                chosen[part] = min(better, key=lambda name: (taken.count(name), -better[name], name))
        return dict(sorted(chosen.items()))

    def _place(self, avoid: frozenset[str] = frozenset()) -> None:
        """Start all parts from the last common state."""
        self._attempt += 1
        self._recut = False
        self._busy.clear()
        self._told.clear()
        self._endings.clear()
        self._here.clear()
        self._begun.clear()
        self._reports.clear()
        self._saving.clear()
        self._placed_s = time.monotonic()
        self._nodes = self._choose(avoid)
        count = self._cut.parts
        self._keys = [key_pair() for _ in range(count)] if count > 1 else []
        token = secrets.token_bytes(TOKEN_BYTES)
        bridges: list[dict[int, Pass]] = [{} for _ in range(count)]
        for one in range(count if self._real else 0):
            for other in range(one + 1, count):
                bridges[one][other], bridges[other][one] = bridge_passes()
        options = {"name": "nano"} | self._options
        asked = options.pop("labels", None) or ()
        labels = [asked] if isinstance(asked, str) else list(asked)
        for part in range(count):
            plan = Plan(
                part, count, self._until_ns, self._passes, self._save_every_s, self._sources,
                tuple(public for public, _ in self._keys), self._keys[part][1] if self._keys else b"", token,
                self._pass, self._topics, bridges[part],
            )  # fmt: skip
            stream = self._fleet.stream(
                run_part, plan, numpy().frombuffer(self._blobs[part], dtype="u1"),
                rerun=False, labels=[*labels, f"node:{self._nodes[part]}"], **options,
            )  # fmt: skip
            self._streams[part] = stream
            threading.Thread(
                target=self._read, args=(self._attempt, part, stream), name=f"nano-part-{part}", daemon=True
            ).start()

    def _read(self, attempt: int, part: int, stream: Any) -> None:
        try:
            for what, about in stream:
                self._events.put((attempt, what, about, part))
            self._events.put((attempt, "ended", stream.future.result(), part))
        except BaseException as error:
            self._events.put((attempt, "failed", error, part))

    def _end_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close()

    # --- what parts say -----------------------------------------------------------------------------------------------

    def _saved(self, part: int, saved: Saved) -> None:
        self._said[part] = {
            "passes": saved.passes, "now_ns": saved.now_ns, "agents": saved.agents,
            "ticks": self._said.get(part, {}).get("ticks", 0),
        }  # fmt: skip
        for number in saved.asked:
            self._told.pop((number, part), None)
        # in step all are at the same pass; in real time each is where it is
        at = self._saving.setdefault(-1 if self._real else saved.passes, {})
        at[part] = saved
        if len(at) < self._cut.parts:
            return
        self._blobs = [at[number].blob for number in range(self._cut.parts)]
        self._reports = {number: (self._nodes[number], at[number]) for number in at}
        self._saving = {passes: those for passes, those in self._saving.items() if passes > saved.passes}
        self._again = 0
        waited = {number for number, _ in self._told}
        asked = [self._asked.pop(number) for number in list(self._asked) if number not in waited]
        if asked:
            blob = gather(self._whole, self._cut, self._blobs)
            for waiting in asked:
                waiting.set_result(blob)

    def _keep_stints(self, those: Mapping[int, tuple[str, Saved]]) -> None:
        for part, (node, saved) in sorted(those.items()):
            report = saved.report
            self._stints.append(Stint(node, part, report.passes, report.ticks, report.wall_s, report))

    def _ended(self, part: int, ending: Ending) -> bool:
        self._endings[part] = ending
        if len(self._endings) < self._cut.parts:
            return True
        endings = [self._endings[number] for number in range(self._cut.parts)]
        self._endings.clear()
        self._streams.clear()
        self._blobs = [each.saved.blob for each in endings]
        self._keep_stints({number: (each.node, each.saved) for number, each in enumerate(endings)})
        self._lines += sum(each.lines_out for each in endings)
        self._again = 0
        for number, each in enumerate(endings):
            self._said[number] = {
                "passes": each.saved.passes, "now_ns": each.saved.now_ns,
                "agents": each.saved.agents, "ticks": self._said.get(number, {}).get("ticks", 0),
            }  # fmt: skip
        if all(each.stopped for each in endings) and not self._stopping:
            if self._recut:
                self._cut_anew()
            self._place()  # it moves
            return True
        last = max((each.saved for each in endings), key=lambda saved: saved.passes)
        self._finish(
            FleetReport(
                last.now_ns, last.passes, time.monotonic() - self._began_s, tuple(self._stints),
                tuple(each for ending in endings for each in ending.failures), self._restarts, self._moved, self._lines,
                any(each.stopped for each in endings), gather(self._whole, self._cut, self._blobs), self._balanced,
            ),
            None,
        )  # fmt: skip
        self._news()
        return False

    def _failed(self, part: int, error: BaseException) -> bool:
        if not isinstance(error, _LOST):
            if isinstance(error, TaskCancelled | concurrent.futures.CancelledError):
                error = TaskCancelled(
                    f"part {part} of the population was cancelled", hint="by `swarm task cancel`, or the fleet stops"
                )
            raise error
        self._end_streams()
        self._again += 1
        if self._again > RESTARTS_MAX:
            hint = error.hint if isinstance(error, SwarmError) else ""
            raise type(error)(
                f"the population was lost {self._again} times after the same pass, last on {self._nodes[part]}: {error}",
                hint=hint or "a native tick that crashes? run it here: `swarm nano run`",
            ) from error
        self._restarts += 1
        self._keep_stints(self._reports)
        lost = self._nodes[part]
        self._place(frozenset({lost}))
        return True

    def _news(self) -> None:
        progress = self.progress
        for function in self._callbacks:
            with contextlib.suppress(Exception):  # whose callback it is has to see to it
                function(progress)


def _host(address: str) -> str:
    return address.rpartition(":")[0]
