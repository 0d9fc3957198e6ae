"""A tiny stack machine over float64, whose programs are verified once and then run without a check.

A program is instructions of 2 bytes (operation, argument) and a table of constants. Verification follows each path,
as that of the Java virtual machine (JVM specification, 4.10) and of WebAssembly does, made simple by what cannot be
written: jumps lead forward only and never into or out of a loop, a loop has a fixed count and leaves the stack as
high as it found it. So the height of the stack at each instruction is known, the number of steps has a bound that
is known before it runs, and a program that passes can neither leave its stack, its sixteen variables and its
inputs, nor go on for ever.

Arithmetic is IEEE 754 of 64 bits, and only operations that it defines to the last bit, so results are the same on
any machine (but for the sign and payload of NaN): 0/0 is NaN, 1/0 is infinite, nothing traps.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.math cimport fabs, floor, sqrt
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.string cimport memset

cdef enum Op:
    NOP, CONST, INPUT, LOAD, STORE, DUP, DROP, SWAP, OVER, ADD, SUB, MUL, DIV, MIN, MAX, NEG, ABS, SQRT, FLOOR, LT, EQ,
    SELECT, JUMP, JUMPZ, LOOP, END, OPS

cdef enum:
    CODE_MOST = 4096         # instructions
    STACK_MOST = 64
    VARIABLES = 16
    CONSTANTS_MOST = 256
    INPUTS_MOST = 256
    NEST_MOST = 8
    GIL_WORTH = 4096         # steps from which the GIL is given back for a run

OPERATIONS = (
    "nop", "const", "input", "load", "store", "dup", "drop", "swap", "over", "add", "sub", "mul", "div", "min", "max",
    "neg", "abs", "sqrt", "floor", "lt", "eq", "select", "jump", "jumpz", "loop", "end",
)
INSTRUCTIONS_MAX = CODE_MOST
STACK_MAX = STACK_MOST
VARIABLES_MAX = VARIABLES
CONSTANTS_MAX = CONSTANTS_MOST
INPUTS_MAX = INPUTS_MOST
NEST_MAX = NEST_MOST
STEPS_MAX = 1 << 40

# What each takes off the stack, and puts on it.
cdef int[OPS] TAKES
cdef int[OPS] GIVES
TAKES[:] = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 3, 0, 1, 0, 0]
GIVES[:] = [0, 1, 1, 1, 0, 2, 0, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]


cdef void run_row(const uint8_t* code, int size, const double* constants, const double* inputs, double* out,
                  int outputs) noexcept nogil:
    """One run of a verified program: the top `outputs` values of its stack, the lowest of them first."""
    cdef double[STACK_MOST] stack
    cdef double[VARIABLES] variables
    cdef int[NEST_MOST] begin
    cdef int[NEST_MOST] left
    cdef int pc = 0, top = 0, nest = 0, op, arg, i
    cdef double a, b
    memset(variables, 0, sizeof(variables))
    while pc < size:
        op = code[2 * pc]
        arg = code[2 * pc + 1]
        pc += 1
        if op == CONST:
            stack[top] = constants[arg]
            top += 1
        elif op == INPUT:
            stack[top] = inputs[arg]
            top += 1
        elif op == LOAD:
            stack[top] = variables[arg]
            top += 1
        elif op == STORE:
            top -= 1
            variables[arg] = stack[top]
        elif op == DUP:
            stack[top] = stack[top - 1]
            top += 1
        elif op == DROP:
            top -= 1
        elif op == SWAP:
            a = stack[top - 1]
            stack[top - 1] = stack[top - 2]
            stack[top - 2] = a
        elif op == OVER:
            stack[top] = stack[top - 2]
            top += 1
        elif op == NEG:
            stack[top - 1] = -stack[top - 1]
        elif op == ABS:
            stack[top - 1] = fabs(stack[top - 1])
        elif op == SQRT:
            stack[top - 1] = sqrt(stack[top - 1])
        elif op == FLOOR:
            stack[top - 1] = floor(stack[top - 1])
        elif op == SELECT:
            top -= 2
            if stack[top - 1] == 0.0:
                stack[top - 1] = stack[top + 1]
            else:
                stack[top - 1] = stack[top]
        elif op == JUMP:
            pc += arg
        elif op == JUMPZ:
            top -= 1
            if stack[top] == 0.0:
                pc += arg
        elif op == LOOP:
            begin[nest] = pc
            left[nest] = arg
            nest += 1
        elif op == END:
            left[nest - 1] -= 1
            if left[nest - 1] > 0:
                pc = begin[nest - 1]
            else:
                nest -= 1
        elif op == NOP:
            pass
        else:
            top -= 1
            a = stack[top - 1]
            b = stack[top]
            if op == ADD:
                a = a + b
            elif op == SUB:
                a = a - b
            elif op == MUL:
                a = a * b
            elif op == DIV:
                a = a / b
            elif op == MIN:
                a = b if b < a or b != b else a       # NaN if one is
            elif op == MAX:
                a = b if b > a or b != b else a
            elif op == LT:
                a = 1.0 if a < b else 0.0
            else:
                a = 1.0 if a == b else 0.0
            stack[top - 1] = a
    for i in range(outputs):
        out[i] = stack[top - outputs + i]


cdef class Program:
    """A verified program. ValueError, with the number of the instruction, for one that is not fit to run.

    code: 2 bytes an instruction; constants: float64s that CONST pushes; inputs: how many numbers a run is given,
    outputs: how many it gives, the top ones of its stack at its end; steps_max: the bound of its steps that is
    still accepted.
    """

    cdef readonly bytes code
    cdef readonly tuple constants
    cdef readonly int inputs
    cdef readonly int outputs
    cdef readonly int depth           # of its stack, at most
    cdef readonly uint64_t steps      # at most in a run
    cdef double* table
    cdef int size

    def __cinit__(self, code, constants=(), int inputs=1, int outputs=1, uint64_t steps_max=65536):
        cdef int i
        self.code = bytes(code)
        self.constants = tuple(float(value) for value in constants)
        self.inputs = inputs
        self.outputs = outputs
        if len(self.code) % 2 or len(self.code) > 2 * CODE_MOST:
            raise ValueError(f"a program of {len(self.code)} bytes; an even number up to {2 * CODE_MOST} is")
        if len(self.constants) > CONSTANTS_MOST:
            raise ValueError(f"{len(self.constants)} constants; at most {CONSTANTS_MOST} fit")
        if not 0 <= inputs <= INPUTS_MOST or not 1 <= outputs <= STACK_MOST:
            raise ValueError(f"{inputs} inputs and {outputs} outputs; 0 to {INPUTS_MOST} and 1 to {STACK_MOST} can be")
        self.size = <int> (len(self.code) // 2)
        self.verify(min(steps_max, <uint64_t> STEPS_MAX))
        self.table = <double*> PyMem_Calloc(CONSTANTS_MOST, sizeof(double))
        if self.table == NULL:
            raise MemoryError("no memory for the constants of a program")
        for i in range(<int> len(self.constants)):
            self.table[i] = self.constants[i]

    def __dealloc__(self):
        PyMem_Free(self.table)

    cdef int verify(self, uint64_t steps_max) except -1:
        """Follow each path once, from the first instruction to the last: all jumps lead forward."""
        cdef const uint8_t* code = self.code
        cdef int[NEST_MOST] begin       # of the loops that are open: which instruction
        cdef int[NEST_MOST] height      # of the stack at their beginning
        cdef uint64_t[NEST_MOST] outer  # how often what is around them is run
        cdef int pc, op, arg, depth, after, target, nest = 0
        cdef uint64_t times = 1, steps = 0
        cdef int32_t* wanted = <int32_t*> PyMem_Malloc((self.size + 1) * 2 * sizeof(int32_t))
        cdef int32_t* inside            # the loop that a jump comes from, which must be that of its target: -1 for none
        if wanted == NULL:
            raise MemoryError("no memory to verify a program")
        inside = wanted + self.size + 1
        for pc in range(self.size + 1):
            wanted[pc] = -1
        try:
            depth = 0
            for pc in range(self.size + 1):
                if wanted[pc] >= 0:
                    if depth >= 0 and depth != wanted[pc]:
                        raise ValueError(f"instruction {pc}: its stack is {depth} high, or {wanted[pc]} if jumped to")
                    if inside[pc] != (begin[nest - 1] if nest else -1):
                        raise ValueError(f"instruction {pc}: a jump to it leads into a loop or out of one")
                    depth = wanted[pc]
                if depth < 0:
                    raise ValueError(f"instruction {pc}: it cannot be reached")
                if pc == self.size:
                    break
                op = code[2 * pc]
                arg = code[2 * pc + 1]
                if op >= OPS:
                    raise ValueError(f"instruction {pc}: there is no operation {op}")
                if ((op == CONST and arg >= len(self.constants)) or (op == INPUT and arg >= self.inputs)
                        or ((op == LOAD or op == STORE) and arg >= VARIABLES)):
                    raise ValueError(f"instruction {pc}: {OPERATIONS[op]} {arg} is beyond what there is")
                if depth < TAKES[op]:
                    raise ValueError(f"instruction {pc}: {OPERATIONS[op]} on a stack of {depth}")
                after = depth - TAKES[op] + GIVES[op]
                if after > STACK_MOST:
                    raise ValueError(f"instruction {pc}: a stack of more than {STACK_MOST}")
                self.depth = max(self.depth, after)
                if times > steps_max or steps > steps_max - times:
                    raise ValueError(f"instruction {pc}: more than {steps_max} steps")
                steps += times
                if op == JUMP or op == JUMPZ:
                    target = pc + 1 + arg
                    if target > self.size:
                        raise ValueError(f"instruction {pc}: a jump behind the end")
                    if wanted[target] >= 0 and wanted[target] != after:
                        raise ValueError(f"instruction {target}: jumped to with stacks of {wanted[target]} and {after}")
                    if wanted[target] >= 0 and inside[target] != (begin[nest - 1] if nest else -1):
                        raise ValueError(f"instruction {target}: a jump to it leads into a loop or out of one")
                    wanted[target] = after
                    inside[target] = begin[nest - 1] if nest else -1
                    if op == JUMP:
                        after = -1
                elif op == LOOP:
                    if nest == NEST_MOST:
                        raise ValueError(f"instruction {pc}: more than {NEST_MOST} loops in one another")
                    if arg == 0:
                        raise ValueError(f"instruction {pc}: a loop of no rounds")
                    begin[nest] = pc
                    height[nest] = after
                    outer[nest] = times
                    nest += 1
                    if times > steps_max // <uint64_t> arg:
                        raise ValueError(f"instruction {pc}: more than {steps_max} steps")
                    times *= <uint64_t> arg
                elif op == END:
                    if nest == 0:
                        raise ValueError(f"instruction {pc}: the end of no loop")
                    nest -= 1
                    if after != height[nest]:
                        raise ValueError(f"instruction {pc}: a loop that leaves {after} where it found {height[nest]}")
                    times = outer[nest]
                depth = after
            if nest:
                raise ValueError(f"instruction {begin[nest - 1]}: a loop without an end")
            if depth < self.outputs:
                raise ValueError(f"the end: {depth} on the stack, {self.outputs} to be given")
            self.steps = steps
        finally:
            PyMem_Free(wanted)
        return 0

    def run(self, inputs, outputs):
        """One run for each row of `inputs` (contiguous float64s, `inputs` a row) into the rows of `outputs`; how
        many there were.

        ValueError unless both have the same number of rows. Each run begins with empty variables.
        """
        cdef const double[::1] given = numbers(inputs)
        cdef double[::1] taken = numbers(outputs)
        cdef Py_ssize_t rows = taken.shape[0] // self.outputs, row
        cdef const uint8_t* code = self.code
        cdef const double* source
        cdef double* target
        if taken.shape[0] != rows * self.outputs or given.shape[0] != rows * self.inputs:
            raise ValueError(
                f"{given.shape[0]} numbers in and {taken.shape[0]} out, for {self.inputs} and {self.outputs} a run")
        if rows == 0:
            return 0
        source = &given[0] if self.inputs else self.table
        target = &taken[0]
        if <double> rows * <double> self.steps < GIL_WORTH:
            for row in range(rows):
                run_row(code, self.size, self.table, source + row * self.inputs, target + row * self.outputs,
                        self.outputs)
        else:
            with nogil:
                for row in range(rows):
                    run_row(code, self.size, self.table, source + row * self.inputs, target + row * self.outputs,
                            self.outputs)
        return rows


cdef object numbers(buffer):
    """A contiguous buffer of any shape as a row of float64s; ValueError where it is not one of them."""
    view = memoryview(buffer)
    if view.format not in ("d", "<d", "B"):
        raise ValueError(f"float64s are needed, not {view.format!r}")
    if view.nbytes == 0:                 # a view of nothing cannot be cast
        return memoryview(bytearray()).cast("d")
    return view.cast("B").cast("d")


def assemble(text):
    """The code of a program written one instruction a line: an operation, and its argument if it is not 0.
    ValueError if it is none."""
    out = bytearray()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        argument = words[1] if len(words) > 1 else "0"
        if words[0] not in OPERATIONS or len(words) > 2 or not argument.isdecimal() or int(argument) > 255:
            raise ValueError(f"line {number}: {line.strip()!r} is not an instruction")
        out += bytes((OPERATIONS.index(words[0]), int(argument)))
    return bytes(out)


def disassemble(code):
    """Code as text, an instruction a line. ValueError where an operation is unknown or its argument is missing."""
    cdef list lines = []
    cdef Py_ssize_t at
    raw = bytes(code)
    if len(raw) % 2:
        raise ValueError(f"a program of {len(raw)} bytes")
    for at in range(0, len(raw), 2):
        if raw[at] >= OPS:
            raise ValueError(f"instruction {at // 2}: there is no operation {raw[at]}")
        lines.append(OPERATIONS[raw[at]] + (f" {raw[at + 1]}" if raw[at + 1] else ""))
    return "\n".join(lines)
