"""Builds the Cython kernels. Everything else about the distribution stands in pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = sorted(path.stem for path in Path("kernels").glob("*.pyx"))
DIRECTIVES = {
    "language_level": "3",
    # Off inside only because every kernel checks what it was given before it touches memory.
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    # Free-threaded Python (3.13t and later) keeps its lock off: nothing here is shared but what is made for it (rings,
    # deques, crews, by atomics). Any other object is used by one thread at a time, as with the lock.
    "freethreading_compatible": True,
}
ADVICE = {
    "compiler": "no C compiler was found ({what}).",
    "headers": "the C headers of this Python were not found ({what}).",
}
REMEDY = (
    "nanoswarm compiles its kernels when it is installed from source, which needs a C compiler and Python.h.\n"
    "  Debian, Ubuntu:  sudo apt install build-essential python3-dev\n"
    "  Fedora:          sudo dnf install gcc python3-devel\n"
    "  macOS:           xcode-select --install\n"
    "A pre-built wheel needs neither."
)


def missing(kind: str, what: str) -> SystemExit:
    """One line what is missing, then what to install."""
    return SystemExit("\nerror: " + ADVICE[kind].format(what=what) + "\n\n" + REMEDY + "\n")


class BuildKernels(build_ext):
    """build_ext that looks for the compiler and Python.h first, and says what to install."""

    def finalize_options(self) -> None:
        """Compile as many kernels at a time as there are CPUs, unless told otherwise."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        """Compile, or end with a message that names the packages to install."""
        if self.compiler.compiler_type == "unix":
            program = self.compiler.compiler_so[0]
            if shutil.which(program) is None:
                raise missing("compiler", program)
        folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude"), *self.compiler.include_dirs}
        folders.update(folder for extension in self.extensions for folder in extension.include_dirs)
        if not any((Path(folder) / "Python.h").is_file() for folder in folders if folder):
            raise missing("headers", f"Python.h for {sys.version_info.major}.{sys.version_info.minor}")
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Compile one kernel, or take it as it was built before."""
        built = taken(ext.name.rpartition(".")[2])
        if built is None:
            super().build_extension(ext)
            return
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, target)


def headers(name: str) -> list[str]:
    """The C headers of our own that a kernel includes, itself or by what it includes and cimports."""
    reached = {f"kernels/{name}.pyx", f"kernels/{name}.pxd"}
    ahead = sorted(reached)
    while ahead:
        path = Path(ahead.pop())
        text = path.read_text() if path.is_file() else ""
        names = [f"kernels/{header}" for header in re.findall(r'(?:from|include) "(\w+\.h)"', text)]
        names += [f"kernels/{other}.pxd" for other in re.findall(r"^from kernels\.(\w+) cimport", text, re.MULTILINE)]
        ahead += [each for each in names if each not in reached]
        reached.update(names)
    return sorted(each for each in reached if each.endswith(".h") and Path(each).is_file())


def taken(name: str) -> Path | None:
    """A kernel that was built before, in the folder that KERNELS_BUILT names: for this interpreter, and after all that it is made of.

    For who builds one wheel after the other of sources that did not change, as the tests do. Its name says which Python it is for.
    """
    folder = os.environ.get("KERNELS_BUILT", "")
    if not folder:
        return None
    built = Path(folder) / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    made_of = [Path(f"kernels/{name}.pyx"), Path(f"kernels/{name}.pxd"), *map(Path, headers(name))]
    newest = max(each.stat().st_mtime for each in made_of if each.is_file())
    return built if built.is_file() and built.stat().st_mtime >= newest else None


def extensions() -> list[Extension]:
    """The extension modules, translated to C by Cython where the sources are newer."""
    from Cython.Build import cythonize

    modules = [
        Extension(
            f"kernels.{name}",
            [f"kernels/{name}.pyx"],
            include_dirs=["kernels"],
            # Who only wants to see that it builds need not wait for the optimizer.
            extra_compile_args=[os.environ.get("KERNELS_OPTIMIZE", "-O3"), "-g0", "-ffp-contract=off"],
            depends=headers(name),
        )
        for name in KERNELS
    ]
    there = [module for module in modules if taken(module.name.rpartition(".")[2]) is not None]
    fresh = [module for module in modules if module not in there]
    result: list[Extension] = cythonize(fresh, compiler_directives=DIRECTIVES, annotate=False) if fresh else []
    return result + there


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
