"""A box that boots the machine's own systemd as its first process: units are started, watched, killed and stopped for
real.

    with SystemdBox("box1", binds=[tmp_path]) as box:
        box.install(unit_path)                        # into /etc/systemd/system of the box
        box.run(["systemctl", "start", "swarm-node"])

The box's root is the machine's, copy-on-write: all programs and code are there, and what the box writes goes with it,
but for the directories in ``binds``. Processes, mounts, host name, IPC and control groups are its own. Nothing that is
enabled on the machine is started. Resource limits work as far as the machine's control groups do. It has the network of
whoever makes it, or of a lab's host: ``enter=lan.enter("h1")``.

Needs root, systemd 247 or later, util-linux and overlayfs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_SYSTEMD: Final = next((p for p in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(p)), "")
_BOOT_TIMEOUT_S: Final = 120.0
_POWEROFF: Final = signal.SIGRTMIN + 4 if hasattr(signal, "SIGRTMIN") else 0  # systemd(1): start poweroff.target
_MASKED: Final = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-logind.service", "systemd-networkd.service",
    "systemd-timesyncd.service", "systemd-modules-load.service", "modprobe@.service", "systemd-binfmt.service",
    "systemd-update-utmp.service", "systemd-journald-audit.socket", "console-getty.service", "dev-hugepages.mount",
    "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "apt-daily.timer", "apt-daily-upgrade.timer",
)  # fmt: skip
"""What has no place in a box: hardware, seats, the kernel's settings, jobs of the distribution."""
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


def missing() -> str:
    """Why no box can be booted here; empty when one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a systemd box needs root"
    absent = [tool for tool in ("systemctl", "unshare", "nsenter", "mount", "pivot_root") if shutil.which(tool) is None]
    if absent or not _SYSTEMD:
        return f"missing: {', '.join(absent) or 'systemd'} (apt-get install systemd util-linux)"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlay file system in this kernel"
    return ""


class SystemdBox:
    """One box, as a context manager. ``name`` is its host name and must differ between boxes at one time."""

    def __init__(self, name: str, *, binds: Sequence[Path] = (), enter: Sequence[str] = ()) -> None:
        assert name.replace("-", "").isalnum() and len(name) <= 30
        self.name = name
        self._binds = [str(Path(bind).resolve()) for bind in binds]
        self._enter = list(enter)
        self._groups: list[Path] = []
        self._outer: subprocess.Popen[bytes] | None = None
        self._base = ""
        self.pid = 0
        """Of the box's systemd, seen from outside."""

    def __enter__(self) -> SystemdBox:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def base(self) -> str:
        """The directory that holds the box while it is up."""
        return self._base

    def up(self) -> None:
        """Boot, and return when the box is up. Raises RuntimeError with what it said when that takes over 30 s."""
        self._base = tempfile.mkdtemp(prefix="swbox-", dir="/run")
        self._groups = _own_groups(f"swbox-{os.getpid()}-{self.name}")
        for group in self._groups:
            _make_group(group)
        log = Path(self._base + ".log")
        with open(log, "wb") as out:
            self._outer = subprocess.Popen(
                [
                    *self._enter,
                    sys.executable,
                    "-m",
                    "tests.lab.systemd_box",
                    "boot",
                    self._base,
                    self.name,
                    str(len(self._groups)),
                    *map(str, self._groups),
                    *self._binds,
                ],  # fmt: skip
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=_ROOT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException as error:
            said = log.read_text(errors="replace")
            self.down()
            if isinstance(error, RuntimeError):
                raise RuntimeError(f"{error}\n{said}") from error
            raise
        finally:
            log.unlink(missing_ok=True)

    def down(self) -> None:
        """Power off in order, within ten seconds; then kill. Nothing of the box is left. Safe to call again."""
        outer, self._outer = self._outer, None
        if outer is not None:
            if self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, _POWEROFF)
            with contextlib.suppress(subprocess.TimeoutExpired):
                outer.wait(10 if self.pid else 0)
            outer.kill()  # --kill-child: the first process goes with it, and all others with that
            outer.wait()
        self.pid = 0
        for group in self._groups:
            _remove_group(group)
        if self._base:
            shutil.rmtree(self._base, ignore_errors=True)

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command in the box."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/"]
        # --wd is opened before the box is entered, so it is a directory outside
        return ["nsenter", f"--target={self.pid}", *spaces, "--", "env", "--chdir=/", *command]

    def run(self, command: Sequence[str], *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the box to its end; its status is the caller's to look at."""
        return subprocess.run(self.argv(command), capture_output=True, text=True, timeout=timeout_s, check=False)

    def install(self, unit: Path, text: str | None = None) -> None:
        """Put a unit file into the box (the file itself, or this text under its name) and have systemd read it."""
        content = unit.read_text() if text is None else text
        target = f"/etc/systemd/system/{unit.name}"
        subprocess.run(
            self.argv(["tee", target]), input=content, text=True, check=True, capture_output=True, timeout=20
        )
        done = self.run(["systemctl", "daemon-reload"])
        assert done.returncode == 0, done.stderr

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit: ``show("swarm-node", "ActiveState", "NRestarts")``."""
        done = self.run(["systemctl", "show", unit, f"--property={','.join(properties)}"])
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def journal(self, unit: str) -> str:
        """What a unit has logged."""
        return self.run(["journalctl", "--no-pager", "--output=cat", f"--unit={unit}"]).stdout

    def _wait(self) -> None:
        assert self._outer is not None
        deadline = time.monotonic() + _BOOT_TIMEOUT_S
        state = "nothing"
        while time.monotonic() < deadline:
            if self._outer.poll() is not None:
                raise RuntimeError(f"the box ended while it booted (status {self._outer.returncode})")
            self.pid = self.pid or self._first_process()
            if self.pid:
                state = self.run(["systemctl", "is-system-running"]).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the box is not up after {_BOOT_TIMEOUT_S:.0f} s: {state}")

    def _first_process(self) -> int:
        assert self._outer is not None
        pid = self._outer.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            named = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "systemd\n"]
        except OSError:
            return 0
        return named[0] if named else 0


# -- control groups ------------------------------------------------------------------------------------------------


def _own_groups(name: str) -> list[Path]:
    """A directory for the box in every hierarchy that is mounted here, below the one that this process is in."""
    groups = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        where, kind = line.split()[1:3]
        if kind in ("cgroup", "cgroup2"):
            groups.append(Path(where) / name)
    return groups


def _make_group(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1: nothing may be put into a cpuset that is empty
        if (group / setting).exists() and (group.parent / setting).exists():
            (group / setting).write_text((group.parent / setting).read_text())


def _remove_group(group: Path) -> None:
    deadline = time.monotonic() + 3.0
    while group.exists() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if group.exists():
            time.sleep(0.05)


# -- the other side ------------------------------------------------------------------------------------------------


def _boot(base: str, name: str, groups: Sequence[str], binds: Sequence[str]) -> None:
    """Join the box's control groups, so that its view of them begins there, and become its first process's parent."""
    for group in groups:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    inside = [sys.executable, "-m", "tests.lab.systemd_box", "inside", base, name, *binds]
    spaces = ["--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--propagation=private"]
    os.execvp("unshare", ["unshare", *spaces, "--", *inside])


def _inside(base: str, name: str, binds: Sequence[str]) -> None:
    """Build the box's root and become its systemd."""
    mount = _mount
    mount("-t", "tmpfs", "-o", "mode=755", "box", base)
    for part in ("upper", "work", "root"):
        os.mkdir(f"{base}/{part}")
    root = f"{base}/root"
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={base}/upper,workdir={base}/work", "box", root)
    _mount_system(root)
    for bind in binds:
        os.makedirs(root + bind, exist_ok=True)
        mount("--rbind", bind, root + bind)
    units = Path(root, "etc/systemd/system")
    for pattern in ("*.wants", "*.requires"):
        for enabled in units.glob(pattern):
            shutil.rmtree(enabled)
    for masked in _MASKED:
        (units / masked).unlink(missing_ok=True)
        (units / masked).symlink_to("/dev/null")
    (units / "box.target").write_text(
        "[Unit]\nDescription=The box is up\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n"
    )
    Path(root, "etc/fstab").write_text("")
    Path(root, "etc/hostname").write_text(name + "\n")
    Path(root, "etc/tmpfiles.d").mkdir(exist_ok=True)
    Path(root, "etc/tmpfiles.d/tmp.conf").write_text("q /tmp 1777 root root -\n")  # the stock rule empties it at boot
    os.mkdir(f"{root}/run/outside")
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "run/outside"], check=True)
    subprocess.run(["umount", "--lazy", "/run/outside"], check=True)
    environment = {
        "container": "swbox",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    options = ["--system", "--unit=box.target", "--log-target=journal", "--show-status=no"]
    os.execve(_SYSTEMD, ["systemd", *options], environment)


def _mount_system(root: str) -> None:
    """/proc, /sys, control groups, /dev and /run of the box."""
    mount = _mount
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", f"{root}/proc")
    mount("--bind", f"{root}/proc/sys", f"{root}/proc/sys")
    mount("-o", "remount,bind,ro", f"{root}/proc/sys")
    mount("-t", "sysfs", "-o", "nosuid,nodev,noexec", "sysfs", f"{root}/sys")
    where = f"{root}/sys/fs/cgroup"
    lines = [line.split(":", 2)[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    hierarchies = [controllers for controllers in lines if controllers]
    if not hierarchies:
        mount("-t", "cgroup2", "-o", "nosuid,nodev,noexec", "cgroup2", where)
    else:
        mount("-t", "tmpfs", "-o", "nosuid,nodev,noexec,mode=755", "tmpfs", where)
        for controllers in hierarchies:
            directory = f"{where}/{controllers.removeprefix('name=')}"
            os.mkdir(directory)
            mount("-t", "cgroup", "-o", f"nosuid,nodev,noexec,{controllers}", "cgroup", directory)
        if "" in lines:
            os.mkdir(f"{where}/unified")
            mount("-t", "cgroup2", "-o", "nosuid,nodev,noexec", "cgroup2", f"{where}/unified")
    mount("-o", "remount,bind,ro", f"{root}/sys")
    mount("-t", "tmpfs", "-o", "nosuid,mode=755", "tmpfs", f"{root}/dev")
    for device, numbers in _DEVICES.items():
        os.mknod(f"{root}/dev/{device}", 0o020666, os.makedev(*numbers))
        os.chmod(f"{root}/dev/{device}", 0o666)
    for directory in ("pts", "shm"):
        os.mkdir(f"{root}/dev/{directory}")
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620,gid=5", "devpts", f"{root}/dev/pts")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    mount("-t", "tmpfs", "-o", "nosuid,nodev,mode=1777", "tmpfs", f"{root}/dev/shm")
    mount("-t", "tmpfs", "-o", "nosuid,nodev,mode=755", "tmpfs", f"{root}/run")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["boot", base, name, count, *rest]:
            _boot(base, name, rest[: int(count)], rest[int(count) :])
        case ["inside", base, name, *rest]:
            _inside(base, name, rest)
        case _:
            sys.exit("this is started by SystemdBox")
