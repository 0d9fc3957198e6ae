"""A tiny stack machine over float64, whose programs are verified once and then run without a check."""

from collections.abc import Sequence

from typing_extensions import Buffer

OPERATIONS: tuple[str, ...]
INSTRUCTIONS_MAX: int
STACK_MAX: int
VARIABLES_MAX: int
CONSTANTS_MAX: int
INPUTS_MAX: int
NEST_MAX: int
STEPS_MAX: int

class Program:
    """A verified program. ValueError, with the number of the instruction, for one that is not fit to run."""

    def __init__(
        self,
        code: Buffer,
        constants: Sequence[float] = (),
        inputs: int = 1,
        outputs: int = 1,
        steps_max: int = 65536,
    ) -> None: ...
    @property
    def code(self) -> bytes: ...
    @property
    def constants(self) -> tuple[float, ...]: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def run(self, inputs: Buffer, outputs: Buffer) -> int: ...

def assemble(text: str) -> bytes: ...
def disassemble(code: Buffer) -> str: ...
