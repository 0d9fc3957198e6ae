"""Payloads go there and back; what may not be loaded is not; what cannot be sent is named."""

from __future__ import annotations

import functools
import pickle
import sys
import threading

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import errors
from swarm.payload import (
    BUFFERS_MAX,
    PayloadError,
    Ref,
    decode_call,
    decode_value,
    encode_call,
    encode_value,
    refs_of,
)
from swarm.payload_code import decode_code, display_name, encode_code, is_local
from swarm.payload_failure import Failure, Notice, decode_failure, encode_failure, encode_notice, error_of
from swarm.protocol.states import Status
from transport.bounds import INLINE_BYTES_MAX, OUT_OF_BAND_BYTES


class Store:
    """Blobs in a dict."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def put(self, buffer: memoryview) -> Ref:
        name = len(self.held).to_bytes(32, "big")
        self.held[name] = bytes(buffer)
        return Ref(name, buffer.nbytes, 0)

    def open(self, ref: Ref) -> memoryview:
        return memoryview(self.held[ref.id])


@pytest.fixture
def store() -> Store:
    return Store()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ANY = PLAIN | st.tuples(PLAIN, PLAIN) | st.sets(st.integers()) | st.complex_numbers(allow_nan=False)


def same(left: object, right: object) -> bool:
    return left == right and type(left) is type(right)


@given(PLAIN)
@settings(max_examples=60, deadline=None)
def test_plain_values_go_without_a_pickle(value: object) -> None:
    payload = encode_value(value, pickles=False)
    assert payload[:1] == b"M"
    assert same(decode_value(payload), value)


@given(st.lists(ANY, max_size=3), st.dictionaries(st.text(max_size=4), ANY, max_size=3))
@settings(max_examples=60, deadline=None)
def test_calls_of_anything_come_back_equal(args: list[object], kwargs: dict[str, object]) -> None:
    call = decode_call(encode_call(tuple(args), kwargs), trusted=True)
    assert same(call.args, tuple(args))
    assert call.kwargs == kwargs


class Name(str):
    pass


@pytest.mark.parametrize("value", [(1, 2), [(1,)], Name("x"), {1: 2}, 1 << 64, "\ud800", True + 0j, bytearray(b"x")])
def test_what_message_pack_would_change_is_pickled(value: object) -> None:
    payload = encode_value(value)
    assert payload[:1] == b"P"
    assert same(decode_value(payload, trusted=True), value)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_and_never_loads_a_pickle(body: bytes) -> None:
    for tag in (b"", b"M", b"R", b"P", b"B", b"Z"):
        try:
            decode_value(tag + body, Store())
        except (ValueError, KeyError):
            pass  # PayloadError is a ValueError; a ref to a blob that is nowhere is a KeyError


def test_pickles_need_the_grant() -> None:
    armed = b"P" + pickle.dumps(pytest.fail)
    with pytest.raises(PayloadError) as caught:
        decode_value(armed)
    assert "code" in caught.value.hint


def test_arrays_go_out_of_band_and_come_back_as_views(store: Store) -> None:
    array = np.arange(100_000, dtype=np.float64)
    payload = encode_call((array, {"again": array[:50_000]}), None, store)
    assert payload[:1] == b"B"
    assert len(payload) < 1000
    (back, more), _ = decode_call(payload, store, trusted=True)
    assert np.array_equal(back, array)
    assert np.array_equal(more["again"], array[:50_000])
    assert not back.flags.writeable
    held = np.frombuffer(store.held[refs_of(payload)[0].id], dtype=np.float64)
    assert np.shares_memory(back, held)


def test_small_arrays_stay_in_band(store: Store) -> None:
    payload = encode_value(np.arange(10), store)
    assert payload[:1] == b"P"
    assert not store.held


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_not_copied_into_the_pickle(kind: type, store: Store) -> None:
    value = kind(b"x" * (OUT_OF_BAND_BYTES + 1))
    payload = encode_value(value, store)
    assert payload[:1] == b"B"
    assert len(payload) < 300
    assert same(decode_value(payload, store, trusted=True), value)


@pytest.mark.parametrize("size", [3, OUT_OF_BAND_BYTES + 1])
def test_a_memoryview_comes_back_as_one(size: int, store: Store) -> None:
    back = decode_value(encode_value(memoryview(b"x" * size), store), store, trusted=True)
    assert type(back) is memoryview
    assert back == b"x" * size


def test_large_plain_values_of_somebody_without_the_grant_go_by_reference(store: Store) -> None:
    value = {"lines": ["x" * 1000] * 100}
    payload = encode_value(value, store, pickles=False)
    assert payload[:1] == b"R"
    assert decode_value(payload, store) == value
    assert decode_call(encode_call((value,), None, store, pickles=False), store).args == (value,)


def test_a_large_pickle_is_a_blob_itself(store: Store) -> None:
    value = tuple(range(100_000))
    payload = encode_value(value, store)
    assert len(refs_of(payload)) == 1
    assert decode_value(payload, store, trusted=True) == value


def test_a_blob_of_another_size_than_its_ref_is_refused(store: Store) -> None:
    payload = encode_value(bytes(100_000), store)
    store.held = {name: body[:-1] for name, body in store.held.items()}
    with pytest.raises(PayloadError, match="99999 bytes where its ref says 100000"):
        decode_value(payload, store, trusted=True)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"x"],
        [b"x", 5],
        [b"x", [[b"short", 1, 0]]],
        [b"x", [[bytes(32), -1, 0]]],
        [b"x", [b""] * (BUFFERS_MAX + 1)],
    ],
)
def test_malformed_refs_are_refused(parts: list[object]) -> None:
    payload = b"B" + msgpack.packb(parts)
    with pytest.raises(PayloadError):
        refs_of(payload)
    with pytest.raises(PayloadError):
        decode_value(payload, Store(), trusted=True)


def test_dependencies_fill_their_arguments() -> None:
    payload = encode_call((None, 5), {"c": None}, fills=[(0, 1), ("c", 0)])
    assert payload[:1] == b"M"
    call = decode_call(payload, dependencies=["first", "second"])
    assert call == (("second", 5), {"c": "first"})
    pickled = encode_call((None, (5,)), fills=[(0, 0)])
    assert decode_call(pickled, trusted=True, dependencies=[7]).args == (7, (5,))
    with pytest.raises(PayloadError, match="dependencies"):
        decode_call(payload, dependencies=[])


def test_the_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(
        errors.NotPicklable, match=r"argument 'lock', of type _thread\.lock, cannot be pickled"
    ) as caught:
        encode_call((1,), {"fine": 2, "lock": threading.Lock()})
    assert caught.value.hint
    with pytest.raises(errors.NotPicklable, match="the result"):
        encode_value(i for i in ())
    with pytest.raises(errors.NotPicklable, match="argument 0, of type set, is not plain") as caught:
        encode_call(({1},), pickles=False)
    assert "code" in caught.value.hint


def test_too_large_says_how_large_and_what_is_allowed() -> None:
    for options in ({}, {"pickles": False}):
        with pytest.raises(errors.PayloadTooLarge) as caught:
            encode_value("x" * (INLINE_BYTES_MAX + 1), **options)  # type: ignore[arg-type]
        assert caught.value.size_bytes > INLINE_BYTES_MAX
        assert caught.value.limit_bytes <= INLINE_BYTES_MAX


# --- callables by value


def test_what_is_local_goes_by_value_and_the_rest_by_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_alone.py").write_text("K = 3\nclass Thing:\n    pass\ndef helper(x):\n    return x * K\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_alone

    assert is_local("mine_alone")
    assert not any(map(is_local, ("json", "numpy", "swarm.payload", "builtins", "__main__", "nowhere")))
    code = encode_code(lambda x: (mine_alone.helper(x), mine_alone.Thing.__name__))
    argument = encode_call((mine_alone.Thing(),), by_value=is_local)
    monkeypatch.delitem(sys.modules, "mine_alone")
    monkeypatch.undo()
    assert decode_code(code.blob)(2) == (6, "Thing")
    assert type(decode_call(argument, trusted=True).args[0]).__name__ == "Thing"


def test_others_who_use_cloudpickle_are_not_touched(tmp_path, monkeypatch) -> None:
    import cloudpickle

    (tmp_path / "mine_too.py").write_text("def helper(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_too

    encode_code(mine_too.helper)
    assert "mine_too" not in cloudpickle.list_registry_pickle_by_value()
    monkeypatch.delitem(sys.modules, "mine_too")


def test_code_says_which_python_made_it_and_stays_a_pickle() -> None:
    from nodes.worker.guest.callables import made_by

    blob = encode_code(lambda: 5).blob
    assert pickle.loads(blob)() == 5
    assert made_by(blob) == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert made_by(pickle.dumps(len)) == ""


def test_the_digest_is_of_the_blob() -> None:
    from blake3 import blake3

    code = encode_code(len)
    assert code.digest == blake3(code.blob).digest()
    assert code.name == "len"


def test_names_to_show() -> None:
    def inner() -> None: ...

    assert display_name(inner) == "inner"
    assert display_name(functools.partial(inner)) == "inner"
    assert display_name(Store().put) == "Store.put"


def test_code_that_holds_a_lock_is_refused_with_a_hint() -> None:
    lock = threading.Lock()
    with pytest.raises(errors.NotPicklable, match="cannot be sent") as caught:
        encode_code(lambda: lock)
    assert "inside" in caught.value.hint


def test_code_must_be_callable() -> None:
    with pytest.raises(TypeError, match="not callable"):
        decode_code(pickle.dumps(5))


# --- failures


class Odd(Exception):
    """Can be written and not read back."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}{b}")


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def test_an_exception_comes_back_as_itself_caused_by_its_remote_traceback() -> None:
    payload = encode_failure(caught(KeyError("k")), node="oak", attempt=2)
    error = error_of(Status.FAILED, payload, trusted=True)
    assert type(error) is KeyError
    assert error.args == ("k",)
    text = str(error.__cause__)
    assert "oak" in text
    assert "attempt 2" in text
    assert "raise error" in text


@pytest.mark.parametrize("trusted", [True, False])
def test_an_exception_that_cannot_be_brought_here_is_told(trusted: bool) -> None:
    error = error_of(Status.FAILED, encode_failure(caught(Odd(1, 2)), node="elm", attempt=1), trusted=trusted, task="t")
    assert isinstance(error, errors.TaskFailed)
    assert "Odd: 12" in str(error)
    assert error.type == f"{__name__}:Odd"
    assert error.node == "elm"
    assert error.task == "t"


def test_a_failure_lists_its_classes_for_retry_on() -> None:
    said = decode_failure(encode_failure(FileNotFoundError(2, "gone")))
    assert isinstance(said, Failure)
    assert said.mro[:3] == ("builtins:FileNotFoundError", "builtins:OSError", "builtins:Exception")


def test_no_exception_is_too_odd_to_be_told() -> None:
    deep = caught(ValueError("x" * 1_000_000 + "\ud800"))
    said = decode_failure(encode_failure(deep))
    assert isinstance(said, Failure)
    assert len(said.message) < 20_000
    rude = decode_failure(encode_failure(caught(Rude())))
    assert isinstance(rude, Failure)
    assert "RuntimeError" in rude.message


def test_our_frames_are_cut_and_the_tasks_kept() -> None:
    def ours() -> None:
        theirs()

    def theirs() -> None:
        raise ValueError

    try:
        ours()
    except ValueError as error:
        here = test_our_frames_are_cut_and_the_tasks_kept.__code__
        said = decode_failure(encode_failure(error, ours=(ours.__code__, here)))
    assert isinstance(said, Failure)
    assert "in theirs" in said.traceback
    assert "in ours" not in said.traceback


def test_a_pickle_in_a_failure_is_not_loaded_without_the_grant() -> None:
    payload = b"F" + msgpack.packb({"type": "a:B", "message": "m", "pickle": pickle.dumps(pytest.fail)})
    assert isinstance(error_of(Status.FAILED, payload), errors.TaskFailed)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.CANCELLED, errors.TaskCancelled),
        (Status.TIMEOUT, errors.TaskTimeout),
        (Status.CRASHED, errors.WorkerCrashed),
        (Status.LOST, errors.TaskLost),
        (Status.REFUSED, errors.TaskRefused),
        (Status.DEPENDENCY, errors.DependencyFailed),
        (Status.QUARANTINED, errors.TaskQuarantined),
        (Status.EXPIRED, errors.TaskExpired),
    ],
)
def test_a_notice_becomes_the_error_of_its_status(status: Status, kind: type) -> None:
    payload = encode_notice("what", "do this", {"n": 3, "hint": "not this", "message": "nor this"})
    assert decode_failure(payload) == Notice("what", "do this", {"n": 3, "hint": "not this", "message": "nor this"})
    error = error_of(status, payload)
    assert type(error) is kind
    assert (str(error), error.hint, error.n) == ("what", "do this", 3)


@given(st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_garbage_is_no_failure(body: bytes) -> None:
    for payload in (body, b"F" + body):
        try:
            said = decode_failure(payload)
        except PayloadError:
            continue
        assert isinstance(said, Failure | Notice)
