"""What the verifier lets pass runs as its twin does, within the bounds that were given; what it refuses, the twin refuses."""

from __future__ import annotations

import math
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import stackvm as kernel
from kernels.reference import stackvm as reference
from kernels.stackvm import Program, assemble, disassemble

CONSTANTS = (0.0, -0.0, 1.0, -2.5, 1e308, math.inf, math.nan, 5e-324)
NUMBER = st.floats() | st.integers(-3, 3).map(float)
ANY = st.lists(st.tuples(st.integers(0, 26), st.sampled_from([0, 1, 2, 3, 5, 15, 16, 255])), max_size=14).map(
    lambda pairs: bytes(byte for pair in pairs for byte in pair)
)


def same(left, right):
    return struct.pack("<d", left) == struct.pack("<d", right) or (math.isnan(left) and math.isnan(right))


def refused(verify):
    try:
        return None, verify()
    except ValueError as error:
        return error, None


def ran(program, rows):
    out = np.empty((len(rows), program.outputs))
    assert program.run(np.array(rows, dtype=float), out) == len(rows)
    return out


def written(seed):
    """A program that is likely to be accepted: what is put on the stack is known while it is written."""
    pick = random.Random(seed)
    code, height = [], 0

    def emit(name, arg=0):
        nonlocal height
        takes, gives = reference._effect(name)
        code.append((kernel.OPERATIONS.index(name), arg))
        height += gives - takes

    def block(length, nest):
        nonlocal height
        for _ in range(length):
            kind = pick.random()
            if height < 1 or kind < 0.3:
                emit(
                    *pick.choice(
                        [("const", pick.randrange(8)), ("input", pick.randrange(2)), ("load", pick.randrange(16))]
                    )
                )
            elif kind < 0.35 and nest < 3:
                emit("loop", pick.randint(1, 3))
                before = height
                block(pick.randint(1, 5), nest + 1)
                level(before)
                emit("end")
            elif kind < 0.45:
                emit("jumpz", 0)
                at, before = len(code) - 1, height
                block(pick.randint(0, 4), nest)
                level(before)
                code[at] = (code[at][0], len(code) - 1 - at)
            else:
                names = [n for n in kernel.OPERATIONS[4:22] if reference._effect(n)[0] <= height]
                name = pick.choice(names)
                emit(name, pick.randrange(16) if name == "store" else 0)

    def level(wanted):
        while height < wanted:
            emit("const", 2)
        while height > wanted:
            emit("drop")

    block(pick.randint(1, 30), 0)
    level(max(height, 1))
    return bytes(byte for pair in code for byte in pair)


@settings(max_examples=600, deadline=None)
@given(ANY | st.integers(0, 2**32).map(written), st.integers(1, 2), st.sampled_from([0, 5, 100, 65536]))
def test_both_verifiers_agree(code, outputs, steps_max):
    error, program = refused(lambda: Program(code, CONSTANTS, 2, outputs, steps_max))
    other, bounds = refused(lambda: reference.verify(code, len(CONSTANTS), 2, outputs, steps_max))
    assert (error is None) == (other is None), (error, other, disassemble(code))
    if program is not None:
        assert (program.depth, program.steps) == bounds


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32).map(written), st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=5))
def test_accepted_programs_run_as_the_twin_within_their_bounds(code, rows):
    program = Program(code, CONSTANTS, 2, 1, 10**7)
    if program.steps > 20_000:
        return
    for row, (result,) in zip(rows, ran(program, rows)):
        (wanted,), steps, highest = reference.run(code, CONSTANTS, row, 1)
        assert same(result, wanted)
        assert steps <= program.steps and highest <= program.depth


def test_most_written_programs_are_accepted():
    """So that the tests above test something."""
    accepted = sum(refused(lambda seed=seed: Program(written(seed), CONSTANTS, 2))[0] is None for seed in range(200))
    assert accepted > 150


@pytest.mark.parametrize("name", kernel.OPERATIONS[9:22])
def test_arithmetic_is_that_of_the_twin_on_all_edges(name):
    edges = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -2.5, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, 2.0**52 + 0.5]
    takes = reference._effect(name)[0]
    code = assemble("\n".join([f"input {i}" for i in range(takes)] + [name]))
    program = Program(code, (), takes)
    for row in [(a, b, c)[:takes] for a in edges for b in edges for c in (edges[:4] if takes == 3 else [0])]:
        (wanted,), _, _ = reference.run(code, (), row, 1)
        (result,) = ran(program, [row])[0]
        assert same(result, wanted) or result == wanted == 0, (name, row, result, wanted)


def test_a_loop_counts():
    program = Program(
        assemble("""
            const 0
            store 0
            loop 100          # the sum of the first 10,000 odd numbers
              loop 100
                load 0
                load 1
                const 1
                mul
                const 0
                add
                const 2
                add
                add
                store 0
                load 1
                const 2
                add
                store 1
              end
            end
            load 0
        """),
        (0.0, 2.0, 1.0),
        0,
        1,
        200_000,
    )
    assert ran_without_inputs(program) == 10_000.0**2
    assert 140_000 < program.steps < 160_000


def ran_without_inputs(program):
    out = np.empty(1)
    assert program.run(b"", out) == 1
    return out[0]


def test_branches():
    absolute = Program(assemble("input 0\nconst 0\nlt\njumpz 3\ninput 0\nneg\njump 1\ninput 0"), (0.0,))
    assert ran(absolute, [[-3.0], [4.0], [0.0]]).ravel().tolist() == [3.0, 4.0, 0.0]


def test_many_rows_and_outputs_give_the_gil_back_and_the_same():
    program = Program(assemble("input 0\ninput 1\nmul\ninput 0\ninput 1\nadd"), (), 2, 2)
    rows = np.random.default_rng(1).normal(size=(5000, 2))
    out = np.empty((5000, 2))
    program.run(rows, out)
    assert np.array_equal(out, np.column_stack([rows[:, 0] * rows[:, 1], rows[:, 0] + rows[:, 1]]))


def test_text_and_code():
    text = "input 1\nconst 3\nadd\njumpz 0"
    assert disassemble(assemble(text)) == "input 1\nconst 3\nadd\njumpz"
    for bad in ("fly", "const -1", "const 256", "add 1 2", "const x"):
        with pytest.raises(ValueError, match="line 1"):
            assemble(bad)
    with pytest.raises(ValueError, match="operation 26"):
        disassemble(b"\x1a\0")
    with pytest.raises(ValueError, match="1 bytes"):
        disassemble(b"\0")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("add", "instruction 0: add on a stack of 0"),
        ("const 1", "instruction 0: const 1 is beyond"),
        ("input 2", "instruction 0: input 2 is beyond"),
        ("load 16", "instruction 0: load 16 is beyond"),
        ("", "the end: 0 on the stack, 1 to be given"),
        ("const 0\njump 1", "instruction 1: a jump behind the end"),
        ("jump 1\nnop\nconst 0", "instruction 1: it cannot be reached"),
        ("input 0\njumpz 1\nconst 0\nconst 0", "instruction 3: its stack is 1 high, or 0"),
        ("loop 2\nconst 0\nend\nconst 0", "instruction 2: a loop that leaves 1 where it found 0"),
        ("input 0\njumpz 1\nloop 2\nnop\nend\nconst 0", "instruction 3: a jump to it leads into a loop"),
        ("loop 2\ninput 0\njumpz 1\nend\nconst 0", "instruction 4: a jump to it leads into a loop or out of one"),
        ("const 0\nend", "instruction 1: the end of no loop"),
        ("const 0\nloop 2", "instruction 1: a loop without an end"),
        ("const 0\nloop 0\nend", "instruction 1: a loop of no rounds"),
        ("const 0\n" + "loop 1\n" * 9 + "end\n" * 9, "more than 8 loops"),
        ("const 0\n" + "dup\n" * 64, "instruction 64: a stack of more than 64"),
        ("const 0\nloop 255\nloop 255\nloop 255\nend\nend\nend", "instruction 3: more than 65536 steps"),
        ("const 0\n" + "loop 255\n" * 8 + "end\n" * 8, "more than 65536 steps"),
    ],
)
def test_refusals_name_the_instruction(text, what):
    with pytest.raises(ValueError, match=what):
        Program(assemble(text), (0.0,), 2)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Program(b"\0"), "1 bytes"),
        (lambda: Program(b"\0\0" * 4097), "8194 bytes"),
        (lambda: Program(b"\xff\0"), "no operation 255"),
        (lambda: Program(b"", [1.0] * 257), "257 constants"),
        (lambda: Program(b"", (), -1), "-1 inputs"),
        (lambda: Program(b"", (), 257), "257 inputs"),
        (lambda: Program(b"", (), 1, 0), "0 outputs"),
        (lambda: Program(assemble("input 0")).run(np.zeros(3), np.zeros(2)), "3 numbers in and 2 out"),
        (lambda: Program(assemble("input 0")).run(np.zeros(2, "f4"), np.zeros(2)), "float64s are needed, not 'f'"),
        (lambda: Program(assemble("input 0")).run(b"12345678", b"12345678"), "not writable"),
    ],
)
def test_what_cannot_be_asked(make, what):
    with pytest.raises((ValueError, TypeError, BufferError), match=what):
        make()


def test_no_rows():
    assert Program(assemble("input 0")).run(np.empty((0, 1)), np.empty((0, 1))) == 0
