"""A fleet for tests of the command line: its commands run on this machine, its answers are those it was given.

Run as a program it is the command ``swarm`` with this fleet behind it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from swarm.errors import TaskFailed


class Handle(Future):  # type: ignore[type-arg]
    """A command under way."""

    def __init__(self) -> None:
        super().__init__()
        self.process: subprocess.Popen[bytes] | None = None

    def send_input(self, data: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_input(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()

    def took_output(self, size: int) -> None:
        """Nothing waits for it: the pipes of this machine do."""

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def cancel(self) -> bool:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # the thread that follows it has just reaped it
                os.killpg(self.process.pid, signal.SIGKILL)
        return True


class CommandFleet:
    """Answers queries from ``answers``, and runs commands, all at once."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.submitted: list[dict[str, Any]] = []
        self.blobs: dict[bytes, bytes] = {}
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def __enter__(self) -> CommandFleet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self, method: str, **args: Any) -> Any:
        self.asked.append((method, args))
        answer = self.answers[method]
        return answer(**args) if callable(answer) else answer

    def fetch_file(self, blob_id: bytes, size: int) -> bytes:
        assert len(self.blobs[blob_id]) == size
        return self.blobs[blob_id]

    def submit_command(
        self,
        argv: list[str],
        *,
        files_in: list[tuple[str, Path]],
        files_out: list[str],
        stdin: bool,
        on_output: Callable[[str, bytes], None],
        env: dict[str, str],
        **options: Any,
    ) -> Handle:
        self.submitted.append({"argv": argv, "env": env, "files_in": files_in, "files_out": files_out, **options})
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        where = tempfile.mkdtemp(prefix="command-fleet-")
        for name, path in files_in:
            (Path(where) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, Path(where) / name)
        handle = Handle()
        handle.set_running_or_notify_cancel()
        pipe = subprocess.PIPE
        handle.process = subprocess.Popen(
            argv,
            cwd=where,
            env={"PATH": os.environ["PATH"], **env},
            stdin=pipe if stdin else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        retries = int(options.get("retries", 0))
        threading.Thread(
            target=self._follow, args=(handle, Path(where), files_out, on_output, retries), daemon=True
        ).start()
        return handle

    def _follow(
        self, handle: Handle, where: Path, files_out: list[str], on_output: Callable[[str, bytes], None], retries: int
    ) -> None:
        process = handle.process
        assert process is not None

        def pump(name: str, stream: Any) -> None:
            while data := stream.read1(1 << 16):
                on_output(name, data)

        pumps = [
            threading.Thread(target=pump, args=each) for each in (("out", process.stdout), ("err", process.stderr))
        ]
        for each in pumps:
            each.start()
        for each in pumps:
            each.join()
        status = process.wait()
        rows, missing = [], []
        for name in files_out:
            file = where / name
            if file.is_file():
                data = file.read_bytes()
                digest = hashlib.sha256(data).digest()
                self.blobs[digest] = data
                rows.append([name, digest, len(data), file.stat().st_mode & 0o777])
            else:
                missing.append(name)
        shutil.rmtree(where)
        with self._lock:
            self.under_way -= 1
        ended = {"exit": 128 - status, "signal": -status} if status < 0 else {"exit": status, "signal": None}
        result = {**ended, "out": rows, "missing": missing}
        if status and retries:
            handle.set_exception(TaskFailed(f"exited with {status}", hint="see its standard error", **result))
        else:
            handle.set_result(result)


if __name__ == "__main__":
    import swarm
    from nodes.cli import main

    swarm.connect = lambda **_: CommandFleet()  # type: ignore[attr-defined, assignment]
    sys.exit(main())
