"""Twin of :mod:`kernels.stackvm`: it checks before each step, and verifies by walking through every state that can
be reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

OPERATIONS = (
    *(
        "nop",
        "const",
        "input",
        "load",
        "store",
        "dup",
        "drop",
        "swap",
        "over",
        "add",
        "sub",
        "mul",
        "div",
        "min",
        "max",
    ),
    *("neg", "abs", "sqrt", "floor", "lt", "eq", "select", "jump", "jumpz", "loop", "end"),
)
STACK, VARIABLES, NEST = 64, 16, 8


def loops_of(code: bytes) -> list[tuple[int, ...]]:
    """The loops around each instruction, and around the end, outermost first; an END belongs to its loop, a LOOP
    does not."""
    inside: list[tuple[int, ...]] = []
    around: tuple[int, ...] = ()
    for pc in range(len(code) // 2):
        inside.append(around)
        if OPERATIONS[code[2 * pc]] == "loop":
            around = (*around, pc)
            if len(around) > NEST or code[2 * pc + 1] == 0:
                raise ValueError("loops too deep, or one of no rounds")
        elif OPERATIONS[code[2 * pc]] == "end":
            if not around:
                raise ValueError("the end of no loop")
            around = around[:-1]
    if around:
        raise ValueError("a loop without an end")
    return [*inside, ()]


def _effect(name: str) -> tuple[int, int]:
    """What an operation takes off the stack and puts on it."""
    if name in ("const", "input", "load"):
        return 0, 1
    if name in ("nop", "jump", "loop", "end"):
        return 0, 0
    special = {"store": (1, 0), "drop": (1, 0), "jumpz": (1, 0), "dup": (1, 2), "swap": (2, 2), "over": (2, 3)}
    if name in special:
        return special[name]
    return {"neg": 1, "abs": 1, "sqrt": 1, "floor": 1, "select": 3}.get(name, 2), 1


def verify(code: bytes, constants: int, inputs: int, outputs: int, steps_max: int) -> tuple[int, int]:
    """(height of the stack at most, steps at most). ValueError for what may not run."""
    size = len(code) // 2
    if any(op >= len(OPERATIONS) for op in code[::2]):
        raise ValueError("no such operation")
    inside = loops_of(code)
    heights: dict[int, int] = {}
    highest = 0
    ahead = [(0, 0)]
    while ahead:
        pc, height = ahead.pop()
        if heights.setdefault(pc, height) != height:
            raise ValueError("two heights at one instruction")
        if pc == size:
            continue
        name, arg = OPERATIONS[code[2 * pc]], code[2 * pc + 1]
        room = {"const": constants, "input": inputs, "load": VARIABLES, "store": VARIABLES}.get(name, 256)
        takes, gives = _effect(name)
        after = height - takes + gives
        if arg >= room or height < takes or after > STACK:
            raise ValueError("beyond what there is")
        highest = max(highest, after)
        targets = [pc + 1]
        if name in ("jump", "jumpz"):
            there = pc + 1 + arg
            if there > size or inside[there] != inside[pc]:
                raise ValueError("a jump to where it may not lead")
            targets = [there] if name == "jump" else [there, pc + 1]
        elif name == "end" and heights[inside[pc][-1]] != after:
            raise ValueError("a loop that changes the height")
        ahead += [(target, after) for target in targets if heights.get(target) != after]
    if set(heights) != set(range(size + 1)):
        raise ValueError("what cannot be reached")
    if heights[size] < outputs:
        raise ValueError("too little on the stack at the end")
    steps = sum(math.prod(code[2 * loop + 1] for loop in inside[pc]) for pc in range(size))
    if steps > steps_max:
        raise ValueError("too many steps")
    return highest, steps


def run(code: bytes, constants: Sequence[float], inputs: Sequence[float], outputs: int) -> tuple[list[float], int, int]:
    """(the top `outputs` values, steps made, height of the stack at most) of one run. IndexError where verify would
    have refused."""
    stack: list[float] = []
    variables = [0.0] * VARIABLES
    loops: list[list[int]] = []
    pc = steps = highest = 0
    while pc < len(code) // 2:
        name, arg = OPERATIONS[code[2 * pc]], code[2 * pc + 1]
        pc, steps = pc + 1, steps + 1
        if name in ("const", "input", "load"):
            stack.append({"const": constants, "input": inputs, "load": variables}[name][arg])
        elif name == "store":
            variables[arg] = stack.pop()
        elif name == "loop":
            loops.append([pc, arg])
        elif name == "end":
            loops[-1][1] -= 1
            if loops[-1][1]:
                pc = loops[-1][0]
            else:
                loops.pop()
        elif name == "jump" or (name == "jumpz" and stack.pop() == 0):
            pc += arg
        elif name not in ("jumpz", "nop"):
            takes = _effect(name)[0]
            taken = [stack.pop() for _ in range(takes)][::-1]
            stack += _results(name, taken)
        highest = max(highest, len(stack))
    return stack[len(stack) - outputs :], steps, highest


def _results(name: str, v: list[float]) -> list[float]:
    """What an operation makes of what it took, lowest first."""
    if name in ("dup", "drop", "swap", "over"):
        return {"dup": v * 2, "drop": [], "swap": v[::-1], "over": [*v, *v[:1]]}[name]
    if name in ("neg", "abs"):
        return [-v[0] if name == "neg" else abs(v[0])]
    if name == "sqrt":
        return [math.sqrt(v[0]) if v[0] >= 0 else math.nan]
    if name == "floor":
        return [math.copysign(math.floor(v[0]), v[0]) if math.isfinite(v[0]) else v[0]]
    if name == "select":
        return [v[2] if v[0] == 0 else v[1]]
    a, b = v
    if name == "div":
        if b != 0:
            return [a / b]
        return [math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)]
    if name in ("min", "max"):
        if a != a or b != b:
            return [math.nan]
        return [min(a, b) if name == "min" else max(a, b)]
    if name in ("lt", "eq"):
        return [float(a < b if name == "lt" else a == b)]
    return [{"add": a + b, "sub": a - b, "mul": a * b}[name]]
