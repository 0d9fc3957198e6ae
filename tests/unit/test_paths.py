"""Where files live: the same environment gives the same places, and /tmp can not be used against us."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ConfigError, SystemRefused
from swarm.paths import SOCKET_PATH_BYTES_MAX, Home, checked_name, private_directory


def test_one_variable_moves_everything(tmp_path: Path) -> None:
    home = Home.resolve({"SWARM_HOME": str(tmp_path), "XDG_DATA_HOME": "/elsewhere", "HOME": "/nowhere"})
    for path in (home.config, home.data, home.state, home.cache, home.fleet_dir, home.node_dir("oak")):
        assert path.is_relative_to(tmp_path)
    assert len({home.config, home.data, home.state, home.cache, home.runtime}) == 5


def test_xdg_variables_are_followed_and_relative_ones_are_not() -> None:
    home = Home.resolve({"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "relative"})
    assert home.data == Path("/d/swarm")
    assert home.config == Path("/h/.config/swarm")
    assert home.cache == Path("/h/.cache/swarm")


def test_nothing_is_created_by_looking(tmp_path: Path) -> None:
    Home.resolve({"SWARM_HOME": str(tmp_path / "new")}).node_socket("oak")
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_directory_that_does_not_exist_is_not_used(tmp_path: Path) -> None:
    home = Home.resolve({"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path / "gone")})
    assert not home.runtime.is_relative_to(tmp_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as there:  # tmp_path may be longer than a socket's name allows
        assert Home.resolve({"HOME": "/h", "XDG_RUNTIME_DIR": there}).runtime == Path(there) / "swarm"


@given(st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_a_socket_path_always_fits(length: int) -> None:
    home = Home.resolve({"SWARM_HOME": "/" + "d" * length})
    assert len(os.fsencode(home.node_socket("n" * 32))) <= SOCKET_PATH_BYTES_MAX
    assert home.runtime == Home.resolve({"SWARM_HOME": "/" + "d" * length}).runtime


def test_two_long_homes_have_two_runtime_directories() -> None:
    first, second = (Home.resolve({"SWARM_HOME": "/" + "d" * 100 + end}).runtime for end in "ab")
    assert first != second


@pytest.mark.parametrize("name", ["../oak", "", "Oak", "a/b", "-a", "a-", "a" * 33, "a.b", "a\n"])
def test_a_name_can_not_lead_out_of_the_directory(name: str) -> None:
    with pytest.raises(ConfigError):
        checked_name(name)


def test_private_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert stat.S_IMODE(private_directory(made).stat().st_mode) == 0o700


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    with pytest.raises(SystemRefused):
        private_directory(tmp_path / "ours")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.paths._uid", lambda: os.getuid() + 1)
    with pytest.raises(SystemRefused):
        private_directory(tmp_path)


def test_a_file_in_the_way_is_told_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemRefused) as caught:
        private_directory(tmp_path / "file" / "below")
    assert "SWARM_HOME" in caught.value.hint
