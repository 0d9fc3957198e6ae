"""The register against its twin, and against dense matrices made of Kronecker products."""

from __future__ import annotations

import cmath
import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import register as kernel
from kernels.reference import register as reference
from kernels.register import Register

QUICK = settings(max_examples=120, deadline=None)
QUBITS = 4
ANGLE = st.floats(-7, 7)
I2 = np.eye(2)
X, Y, Z = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])


def spin(pauli, angle):
    return math.cos(angle / 2) * I2 - 1j * math.sin(angle / 2) * pauli


ONE = {
    "h": lambda: (X + Z) / math.sqrt(2),
    "x": lambda: X,
    "y": lambda: Y,
    "z": lambda: Z,
    "s": lambda: np.diag([1, 1j]),
    "t": lambda: np.diag([1, cmath.exp(0.25j * math.pi)]),
}
TURN = {"rx": X, "ry": Y, "rz": Z}
TWO = {"cnot": X, "cz": Z}


def lifted(matrices):
    """The Kronecker product over all qubits; qubit 0 is the last factor."""
    return functools.reduce(np.kron, [matrices.get(q, I2) for q in reversed(range(QUBITS))])


def dense(name, args):
    """The 2^n x 2^n matrix of a gate, built without an amplitude ever being addressed."""
    if name in ONE:
        return lifted({args[0]: ONE[name]()})
    if name in TURN:
        return lifted({args[1]: spin(TURN[name], args[0])})
    if name == "swap":
        a, b = args
        return (np.eye(2**QUBITS) + sum(lifted({a: p, b: p}) for p in (X, Y, Z))) / 2
    if name == "phase":
        angle, target, controls = args
        matrix = np.diag([1, cmath.exp(1j * angle)])
    elif name == "apply":
        matrix, target, controls = args
    elif name == "toffoli":
        matrix, target, controls = X, args[2], args[:2]
    else:
        matrix, target, controls = TWO[name], args[1], args[:1]
    ones = {control: np.diag([0, 1]) for control in controls}
    return np.eye(2**QUBITS) - lifted(ones) + lifted(ones) @ lifted({target: np.asarray(matrix)})


@st.composite
def gates(draw):
    name = draw(st.sampled_from([*ONE, *TURN, *TWO, "swap", "phase", "toffoli", "apply"]))
    qubits = draw(st.permutations(range(QUBITS)))
    if name in ONE:
        return name, (qubits[0],)
    if name in TURN:
        return name, (draw(ANGLE), qubits[0])
    if name in TWO or name == "swap":
        return name, tuple(qubits[:2])
    if name == "toffoli":
        return name, tuple(qubits[:3])
    controls = tuple(qubits[1 : 1 + draw(st.integers(0, QUBITS - 1))])
    if name == "phase":
        return name, (draw(ANGLE), qubits[0], controls)
    matrix = spin(X, draw(ANGLE)) @ spin(Z, draw(ANGLE)) * cmath.exp(1j * draw(ANGLE))
    return name, (tuple(map(tuple, matrix.tolist())), qubits[0], controls)


def run(register, circuit):
    for name, args in circuit:
        getattr(register, name)(*args)
    return register


@QUICK
@given(st.lists(gates(), max_size=25))
def test_circuits_against_dense_matrices_and_against_the_twin(circuit):
    state = np.eye(2**QUBITS)[0]
    for name, args in circuit:
        state = dense(name, args) @ state
    register = run(Register(QUBITS), circuit)
    assert np.allclose(np.asarray(register), state, rtol=0, atol=1e-12)
    assert np.allclose(run(reference.Register(QUBITS), circuit).amplitudes, state, rtol=0, atol=1e-12)
    assert abs(register.norm() - 1) < 1e-12
    for qubit in range(QUBITS):
        has = [i for i in range(2**QUBITS) if i >> qubit & 1]
        assert abs(register.probability_of_one(qubit) - (abs(state[has]) ** 2).sum()) < 1e-12


@QUICK
@given(
    st.lists(gates(), max_size=12),
    st.lists(st.none() | st.integers(0, QUBITS - 1), max_size=6),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 10),
)
def test_measurements_are_the_twins(circuit, asked, seed, stream, draws):
    ours, twin = Register(QUBITS, seed, stream), reference.Register(QUBITS, seed, stream)
    ours.draws = twin.draws = draws
    run(ours, circuit), run(twin, circuit)
    for qubit in asked:
        if qubit is None:
            assert ours.measure() == twin.measure()
        else:
            assert ours.measure_qubit(qubit) == twin.measure_qubit(qubit)
        assert np.allclose(np.asarray(ours), twin.amplitudes, rtol=0, atol=1e-9)
        assert abs(ours.norm() - 1) < 1e-12
    assert ours.draws == twin.draws


@QUICK
@given(st.sets(st.integers(0, 15), min_size=1), st.integers(0, 12))
def test_grovers_search_has_the_probability_of_the_textbook(marked, rounds):
    register, twin = Register(4), reference.Register(4)
    assert register.grover(marked, rounds) == rounds
    for qubit in range(4):
        twin.h(qubit)
    for _ in range(rounds):
        twin.mark(marked)
        twin.reflect()
    assert np.allclose(np.asarray(register), twin.amplitudes, rtol=0, atol=1e-12)
    theta = math.asin(math.sqrt(len(marked) / 16))
    found = sum(register.probability(state) for state in marked)
    assert abs(found - math.sin((2 * rounds + 1) * theta) ** 2) < 1e-12


@given(st.integers(1, 2**20), st.data())
def test_the_number_of_rounds_is_the_best_of_the_first_quarter_turn(states, data):
    marked = data.draw(st.integers(1, states))
    rounds = kernel.grover_rounds(states, marked)
    assert abs(rounds - reference.grover_rounds(states, marked)) <= 1
    theta = math.asin(math.sqrt(marked / states))
    misses = [abs((2 * r + 1) * theta - math.pi / 2) for r in (max(rounds - 1, 0), rounds, rounds + 1)]
    assert misses[1] <= min(misses) + 1e-9


def test_a_search_of_a_million_takes_800_questions():
    register = Register(20)
    assert register.grover([777_777]) == 804
    assert register.probability(777_777) > 0.999_999
    assert register.measure() == 777_777


def test_large_registers_take_the_same_way_as_small_ones():
    """Over 4096 amplitudes the GIL is released; the arithmetic must stay."""
    register = Register(13)
    for qubit in range(13):
        register.h(qubit)
    register.rz(0.3, 12)
    register.ry(0.7, 0)
    register.toffoli(0, 12, 5)
    register.swap(1, 11)
    register.cz(3, 12)
    small = Register(2)
    small.h(0), small.h(1), small.rz(0.3, 1), small.ry(0.7, 0)  # the rest does not change a product of |+>
    for state in (0, 1):
        wanted = abs(small.amplitude(state)) ** 2
        assert abs(abs(register.amplitude(state)) ** 2 * 2**11 - wanted) < 1e-12
    assert abs(register.norm() - 1) < 1e-12


def test_samples_follow_born():
    register = Register(3, seed=11)
    register.ry(1.0, 0), register.ry(2.0, 1), register.cnot(0, 2), register.rx(0.5, 2)
    shots = 20_000
    drawn = np.bincount(register.sample(shots), minlength=8)
    wanted = np.abs(np.asarray(register)) ** 2 * shots
    assert (drawn[wanted < 1e-9] == 0).all()
    likely = wanted > 1e-9
    chi2 = ((drawn - wanted)[likely] ** 2 / wanted[likely]).sum()
    assert chi2 < 24.3  # 0.1 % of 7 degrees of freedom; the seed is fixed
    assert register.draws == shots


def test_a_sample_is_what_measuring_copies_would_give():
    register = Register(3, seed=5)
    for qubit in range(3):
        register.ry(qubit + 0.5, qubit)
    state = np.array(register)
    sampled = register.sample(50)
    register.draws = 0
    for wanted in sampled:
        register.load(state)
        assert register.measure() == wanted
        assert np.abs(np.asarray(register)).tolist() == np.eye(8)[wanted].tolist()


def test_seeds_and_streams_differ_and_repeat():
    def measured(seed, stream):
        register = Register(8, seed, stream)
        for qubit in range(8):
            register.h(qubit)
        return register.sample(20)

    assert measured(1, 0) == measured(1, 0)
    assert measured(1, 0) != measured(2, 0)
    assert measured(1, 0) != measured(1, 1)


def test_entangled_qubits_agree():
    for seed in range(20):
        register = Register(2, seed)
        register.h(0), register.cnot(0, 1)
        assert register.measure_qubit(0) == register.measure_qubit(1)


def test_amplitudes_are_seen_without_a_copy_and_read_only():
    register = Register(2)
    seen = np.asarray(register)
    assert seen.dtype == np.complex128
    register.x(1)
    assert seen.tolist() == [0, 0, 1, 0]
    with pytest.raises((ValueError, BufferError)):
        seen[0] = 1
    del register
    assert seen[2] == 1
    assert len(Register(5)) == 32


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda r: Register(0), "0 qubits; it can have 1 to 20"),
        (lambda r: Register(21), "21 qubits"),
        (lambda r: r.h(3), "qubit 3 of a register of 3"),
        (lambda r: r.h(-1), "qubit -1"),
        (lambda r: r.cnot(1, 1), "qubit 1 twice"),
        (lambda r: r.swap(0, 0), "qubit 0 twice"),
        (lambda r: r.toffoli(0, 2, 2), "qubit 2 twice"),
        (lambda r: r.phase(1.0, 0, (0,)), "qubit 0 twice"),
        (lambda r: r.apply(((1, 0), (0, 2)), 0), "not unitary"),
        (lambda r: r.apply(((1, 0), (1, 0)), 0), "not unitary"),
        (lambda r: r.apply(((float("nan"), 0), (0, 1)), 0), "not unitary"),
        (lambda r: r.load(np.zeros(8, complex)), "sum to 0.0"),
        (lambda r: r.load(np.full(8, np.nan, complex)), "sum to nan"),
        (lambda r: r.load(np.eye(16, dtype=complex)[0]), "256 bytes for 8 amplitudes"),
        (lambda r: r.mark([1, 8]), "basis state 8 of 8"),
        (lambda r: r.reset(-1), "basis state -1"),
        (lambda r: r.probability(8), "basis state 8"),
        (lambda r: r.probability_of_one(9), "qubit 9"),
        (lambda r: r.measure_qubit(9), "qubit 9"),
        (lambda r: r.sample(-1), "-1 shots"),
        (lambda r: r.sample(2**30), "1073741824 shots"),
        (lambda r: r.grover([]), "0 marked of 8"),
        (lambda r: r.grover([1], -1), "-1 rounds"),
        (lambda r: kernel.grover_rounds(4, 5), "5 marked of 4"),
    ],
)
def test_what_cannot_be_asked(call, what):
    register = Register(3)
    register.h(1)
    before = np.array(register)
    with pytest.raises(ValueError, match=what):
        call(register)
    assert np.array_equal(np.asarray(register), before)


def test_marks_count_once_and_a_refused_mark_changes_nothing():
    register = Register(1)
    register.h(0)
    register.mark([1, 1])
    assert register.amplitude(1).real < 0 < register.amplitude(0).real
