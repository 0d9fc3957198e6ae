"""Commands that run somewhere: their input and output, with credit, and their signals.

Input is a stream of bytes with offsets. The worker says how much of it the command has taken, and only so much is on
its way beyond that: what a command does not read waits with who writes it, as with a pipe. What is sent again, after a
link was down, is known by its offset, so no byte is given twice or left out. Output is the same the other way round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from swarm.client.futures import SIGNAL_SLICE_S, Future
from swarm.errors import NotAccepted, TaskLost
from swarm.tasks import waiting
from transport.bounds import INPUT_CHUNK_BYTES, INPUT_KEPT_BYTES, INPUT_WINDOW_BYTES, OUTPUT_REPORT_BYTES

if TYPE_CHECKING:
    from swarm.client.batches import Batch


class CommandFuture(Future):
    """A command that runs somewhere: its result is {"exit", "signal", "out", "missing", "written"}.

    Input and signals that come before it runs are kept here until it does: only then is there somebody to take them.
    Another attempt of it (see ``rerun``, ``retries``) is given the input from its beginning, as long as that is not
    more than `INPUT_KEPT_BYTES`; beyond that the command ends as lost rather than with a part of its input.
    """

    def __init__(self, batch: Batch, index: int, on_output: Callable[[str, bytes], object] | None = None) -> None:
        super().__init__(batch, index)
        self._on_output = on_output
        # Made here, so that the kernel never ends this future behind the back of `_end`.
        assert self._condition
        self._changed = threading.Condition()
        # All below is guarded by it.
        self._data = bytearray()
        """Input from the offset `_from` on: what may have to be sent again, and what is not sent yet."""
        self._from = 0
        self._sent = 0
        self._taken = 0
        self._closed = False
        self._close_sent = False
        self._deaf = False
        self._begun = False
        self._signals: list[int] = []
        self._heard = 0
        """Output of this attempt that came, in bytes; `_consumed` of it was consumed, `_credited` of that was said."""
        self._consumed = 0
        self._credited = 0
        self._asked = -1
        """Up to where output was there when what was left out was last asked for."""
        self._stale = 0
        """Output of earlier attempts that was not consumed when this one began."""

    def send_input(self, data: bytes) -> None:
        """Write to the command's standard input; waits while 4 MiB of it are not taken.

        BrokenPipeError when the command reads no more, or has ended. In a callback of a future nothing can wait:
        NotAccepted there. A coroutine calls it by ``asyncio.to_thread``.
        """
        view = memoryview(data).cast("B")
        for start in range(0, len(view), INPUT_CHUNK_BYTES):
            piece = view[start : start + INPUT_CHUNK_BYTES]
            with self._changed:
                self._await_room()
                self._data += piece
                self._pump()

    def close_input(self) -> None:
        """End the command's standard input."""
        with self._changed:
            self._closed = True
            self._pump()

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group. It overtakes input that waits."""
        with self._changed:
            if not self._begun:
                self._signals.append(number)
                return
        self._give("signal", number, b"")

    def _await_room(self) -> None:
        if not self._full and not self._over:
            return
        if threading.get_ident() == self._batch.engine.room.thread_id and not self._over:
            raise NotAccepted(
                f"{INPUT_WINDOW_BYTES} bytes of input are not taken by the command yet",
                hint="send more from a thread of your own, which can wait",
                retry_after_s=0.1,
            )
        with waiting():
            while self._full and not self._over:
                self._changed.wait(SIGNAL_SLICE_S)
        if self._over:
            raise BrokenPipeError("the command reads no more input")

    @property
    def _full(self) -> bool:
        return self._from + len(self._data) - self._taken >= INPUT_WINDOW_BYTES

    @property
    def _over(self) -> bool:
        return self._deaf or self._closed or self.done()

    def _pump(self) -> None:
        """Send what the command has credit for."""
        given = self._from + len(self._data)
        while self._begun and self._sent < given and self._sent - self._taken < INPUT_WINDOW_BYTES:
            start = self._sent - self._from
            piece = bytes(self._data[start : start + INPUT_CHUNK_BYTES])
            self._give("in", self._sent, piece)
            self._sent += len(piece)
        if self._begun and self._closed and not self._close_sent and self._sent == given:
            self._close_sent = True
            self._give("in", given, b"")
        if given > INPUT_KEPT_BYTES and self._taken > self._from:
            del self._data[: self._taken - self._from]
            self._from = self._taken

    def _give(self, what: str, value: int, body: bytes) -> None:
        self._batch.engine.give_input(self._batch.number, self._index, what, value, body)

    def took_output(self, size: int) -> None:
        """So many bytes of what ``on_output`` was given, and returned False for, are consumed now."""
        with self._changed:
            stale = min(size, self._stale)
            self._stale -= stale
            self._consumed += size - stale
            if self._consumed - self._credited >= OUTPUT_REPORT_BYTES:
                self._credited = self._consumed
                self._give("heard", self._consumed, b"")

    def _hear(self, name: str, offset: int, body: bytes) -> None:
        """Output at an offset: what came before is passed over, what was left out is asked for."""
        with self._changed:
            if offset > self._heard:
                if self._asked != self._heard:
                    self._asked = self._heard
                    self._give("again", self._heard, b"")
                return
            body = body[self._heard - offset :]
            self._heard += len(body)
        if not body:
            return
        consumed: object = False
        try:
            consumed = self._on_output(name, body) if self._on_output is not None else None
        except BaseException:
            consumed = None
            raise
        finally:
            if consumed is not False:
                self.took_output(len(body))

    def _finish(self, value: Any) -> None:
        written = value.get("written") if isinstance(value, dict) else None
        if self._on_output is not None and isinstance(written, int) and written != self._heard:
            why = f"{written - self._heard} bytes of the command's output were lost with a connection"
            hint = "run it again, or have it write to a file: --out, or files_out="
            self._fail(TaskLost(why, hint=hint, task=self.id, written=written, heard=self._heard))
            return
        super()._finish(value)

    def _happened(self, name: str, value: Any, body: bytes, node: str) -> None:
        super()._happened(name, value, body, node)
        if name in ("out", "err") and isinstance(value, int):
            self._hear(name, value, body)
        if name == "started":
            self._start()
        elif name == "took":
            with self._changed:
                if value is None:
                    self._deaf = True
                    self._data.clear()
                    self._from = self._sent = self._taken
                elif isinstance(value, int) and self._taken < value <= self._sent:
                    self._taken = value
                self._pump()
                self._changed.notify_all()

    def _start(self) -> None:
        with self._changed:
            signals, self._signals = self._signals, []
            if not self._from and not self._deaf:
                self._begun = True
                self._sent = self._taken = 0
                self._close_sent = False
                self._stale += self._heard - self._consumed
                self._heard = self._consumed = self._credited = 0
                self._asked = -1
                for number in signals:
                    self._give("signal", number, b"")
                self._pump()
                return
        # Another attempt, and what the first one was given is not here any more.
        why = f"another attempt can not be given the {INPUT_KEPT_BYTES >> 20} MiB of input that the one before had"
        error = TaskLost(why, hint="stage large input as a file: --in, or files_in=", task=self.id)
        if self._end(FINISHED, None, error):
            self._batch.engine.cancel(self._batch.number, self._index)

    def relinked(self) -> None:
        """There is a link to the same node again: what it may not have got is sent again."""
        with self._changed:
            if self._begun:
                self._give("heard", self._consumed, b"")
                self._give("again", self._heard, b"")
            self._sent = self._taken
            self._close_sent = False
            self._pump()

    def _end(self, state: str, value: Any, error: BaseException | None) -> bool:
        ended = super()._end(state, value, error)
        with self._changed:
            self._changed.notify_all()
        return ended
