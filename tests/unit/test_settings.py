"""Settings: one declaration, four ways to write it, one order among them, and errors that say where and what to do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nodes import settings_model
from nodes.cli.config import shown
from nodes.machine import worker_environment
from nodes.settings import HIDDEN, NodeSettings, Setting, all_settings, as_tree, from_tree, load, shown_tree
from nodes.settings_text import sample_file
from swarm.errors import ConfigError
from swarm.paths import Home

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = list(all_settings())
BY_PATH = {setting.path: setting for setting in SETTINGS}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.resolve({"SWARM_HOME": str(tmp_path / "home")})


def value_of(settings: NodeSettings, path: str) -> Any:
    section, _, key = path.partition(".")
    return getattr(getattr(settings, section), key)


def sample(setting: Setting) -> tuple[str, Any]:
    """A text that is not the default, and what it means."""
    match setting.kind:
        case "text" if setting.choices:
            other = next(choice for choice in setting.choices if choice != setting.default)
            return other, other
        case "text" if setting.secret:
            return "postgresql://oak/elm", "postgresql://oak/elm"
        case "text":
            return "oak", "oak"
        case "whole":
            number = max(7, int(setting.low or 0))
            return str(number), number
        case "number":
            return "2.5", 2.5
        case "bytes":
            return "3GiB", 3 << 30
        case "seconds":
            return "2m", 120.0
        case "switch":
            return str(not setting.default).lower(), not setting.default
        case "words":
            return "a,b", ("a", "b")
        case "texts":
            return "x=/y,z=w", {"x": "/y", "z": "w"}
        case "numbers":
            return "gpu=2", {"gpu": 2.0}


def as_toml(setting: Setting) -> str:
    text, value = sample(setting)
    match value:
        case bool():
            return text
        case int() | float() if setting.kind in ("whole", "number"):
            return text
        case tuple():
            return "[" + ", ".join(f'"{each}"' for each in value) + "]"
        case dict():
            return (
                "{"
                + ", ".join(f"{k} = {v}" if isinstance(v, float) else f'{k} = "{v}"' for k, v in value.items())
                + "}"
            )
    return f'"{text}"'


def test_defaults_need_no_validator(home: Home) -> None:
    # the import of pydantic-settings is half of what a start may cost: without settings there is none
    code = (
        "import sys; from nodes.settings import load, NodeSettings; from swarm.paths import Home\n"
        "assert load(env={}, home=Home.resolve({'SWARM_HOME': '/nonexistent'})).settings == NodeSettings()\n"
        "assert 'pydantic' not in sys.modules and 'tomllib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_the_defaults_are_valid(home: Home) -> None:
    from nodes.settings_sources import Layer, Layers

    assert settings_model.validate(Layers(Layer(), Layer(), Layer(), None)) == NodeSettings()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.path)
def test_every_setting_has_a_flag_a_variable_and_a_key_in_this_order(
    setting: Setting, home: Home, tmp_path: Path
) -> None:
    text, value = sample(setting)
    file = tmp_path / "node.toml"
    file.write_text(f"[{setting.section}]\n{setting.key} = {as_toml(setting)}\n")
    given: Any = (
        value if setting.kind == "switch" else [text] if setting.kind in ("words", "texts", "numbers") else text
    )
    for flags, env, path, origin in (
        ({setting.path: given}, {}, None, setting.flag),
        ({}, {setting.variable: text}, None, setting.variable),
        ({}, {}, file, f"{file}:2"),
    ):
        loaded = load(flags, env=env, file=path, home=home)
        assert value_of(loaded.settings, setting.path) == value
        assert loaded.origins == {setting.path: origin}


def test_flag_goes_before_variable_before_file(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\nworkers = 1\nlabels = ["a", "b"]\nresources = {gpu = 1, fpga = 1}\n[log]\nlevel = "debug"\n'
    )
    env = {"SWARM_WORKERS": "2", "SWARM_LABELS": "c", "SWARM_CONFIG": str(file)}
    settings = load({"node.workers": "3", "node.resources": ["tpu=2"]}, env=env, home=home).settings
    assert settings.node.workers == 3
    assert settings.node.labels == ("c",), "lists replace, they do not add up"
    assert dict(settings.node.resources) == {"tpu": 2.0}, "tables replace, too"
    assert settings.log.level == "debug"


def test_the_users_own_file_is_read_when_there_is_one(home: Home) -> None:
    home.config.mkdir(parents=True)
    home.settings_file.write_text("[http]\nport = 0\n")
    loaded = load(env={}, home=home)
    assert loaded.settings.http.port == 0
    assert loaded.file == home.settings_file


def test_auto_is_none_and_an_empty_variable_is_unset(home: Home) -> None:
    settings = load(
        {"node.workers": "auto"}, env={"SWARM_HTTP_PORT": "auto", "SWARM_LOG_LEVEL": ""}, home=home
    ).settings
    assert settings.node.workers is None
    assert settings.http.port is None
    assert settings.log.level == "info"


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("[node]\nworkrs = 2\n", ":2: node.workrs: no such setting", "workers"),
        ("\n\n[nod]\nworkers = 2\n", ":3: nod: no such section", "node"),
        ("workers = 2\n", ":1: workers: no such section", "node.workers"),
        ("node = 3\n", ":1: node is a section", "[node]"),
        ('[node]\nworkers = "many"\n', ":2: node.workers = 'many'", "auto"),
        ("[node]\nworkers = true\n", ":2: node.workers = True", "whole number"),
        ("[node]\nworkers = -1\n", ":2: node.workers = -1", "whole number"),
        ('[limits]\nqueue_bytes = "1 parsec"\n', ":2: limits.queue_bytes", "512MiB"),
        ('[node]\n# x\ndrain_timeout_s = "soon"\n', ":3: node.drain_timeout_s", "30s"),
        ("[node]\ndrain_timeout_s = nan\n", ":2: node.drain_timeout_s", "30s"),
        ('[log]\nformat = "xml"\n', ":2: log.format = 'xml'", "console"),
        ("[node]\nmodules = 3\n", ":2: node.modules = 3", "list"),
        ('[node]\nname = "Not A Name"\n', ":2: node.name", "auto"),
        ('[node]\nresources = {gpu = "x"}\n', ":2: node.resources", "NAME=NUMBER"),
        ('[discovery]\nmdns = "perhaps"\n', ":2: discovery.mdns", "true or false"),
        ("[http]\nport = 70000\n", ":2: http.port = 70000", "9464"),
        ("workers = auto\n", "line 1", "--toml"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line_and_what_to_do(
    text: str, where: str, hint: str, home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "n.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(env={}, file=file, home=home)
    assert where in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert not (home.cache / "settings").exists(), "what is wrong is not remembered"


def test_all_mistakes_are_told_at_once(home: Home) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"node.workers": "x", "log.level": "loud"}, env={"SWARM_WORKRS": "1"}, home=home)
    assert len(caught.value.problems) == 3
    assert "2 more" in caught.value.hint


def test_a_variable_that_resembles_a_setting_is_refused_and_others_are_left_alone(home: Home) -> None:
    with pytest.raises(ConfigError, match="SWARM_LOG_LEVL") as caught:
        load(env={"SWARM_LOG_LEVL": "debug"}, home=home)
    assert "SWARM_LOG_LEVEL" in caught.value.hint
    for guess in ("SWARM_NODE_WORKERS", "SWARM_NODE_WORKRES"):  # the key as the file has it
        with pytest.raises(ConfigError, match=guess) as caught:
            load(env={guess: "2"}, home=home)
        assert "did you mean SWARM_WORKERS?" in caught.value.hint
    # what Kubernetes puts beside a service called swarm
    loaded = load(env={"SWARM_SERVICE_HOST": "10.0.0.1", "SWARM_HOME": "/x", "SWARM_TASK_ID": "y"}, home=home)
    assert loaded.ignored == ("SWARM_SERVICE_HOST",)


def test_a_file_that_was_named_must_be_there_and_be_text(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(env={"SWARM_CONFIG": str(tmp_path / "none.toml")}, home=home)
    with pytest.raises(ConfigError, match="Is a directory"):
        load(env={}, file=tmp_path, home=home)
    (tmp_path / "binary").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(env={}, file=tmp_path / "binary", home=home)
    (tmp_path / "huge").write_text("# " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match="larger"):
        load(env={}, file=tmp_path / "huge", home=home)


def test_what_was_found_valid_is_remembered_and_not_judged_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"node.workers": "3", "node.resources": ["gpu=1"], "node.drain_timeout_s": "5s"}
    first = load(flags, env={}, home=home)

    def judged(layers: object) -> NodeSettings:
        raise AssertionError("judged again")

    monkeypatch.setattr(settings_model, "validate", judged)
    assert load(flags, env={}, home=home) == first
    with pytest.raises(AssertionError, match="judged again"):
        load({**flags, "node.workers": "4"}, env={}, home=home)


def test_a_damaged_memory_is_judged_anew(home: Home) -> None:
    flags = {"node.workers": "3"}
    load(flags, env={}, home=home)
    (remembered,) = (home.cache / "settings").iterdir()
    for rubbish in ("", "{}", '{"node": 3}', "[]", '{"node": {"surprise": 1}}'):
        remembered.write_text(rubbish)
        assert load(flags, env={}, home=home).settings.node.workers == 3


def test_a_cache_that_can_not_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = dataclasses.replace(Home.resolve({"SWARM_HOME": str(tmp_path)}), cache=tmp_path / "file")
    assert load({"node.workers": "3"}, env={}, home=home).settings.node.workers == 3


def test_the_tree_is_plain_and_turns_back() -> None:
    changed = dataclasses.replace(
        NodeSettings(), node=dataclasses.replace(NodeSettings().node, labels=("a",), resources={"gpu": 1.0}, workers=2)
    )
    assert from_tree(as_tree(changed)) == changed


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeSettings().node.workers = 3  # type: ignore[misc]


def test_names_do_not_collide() -> None:
    variables = [setting.variable for setting in SETTINGS]
    flags = [flag for setting in SETTINGS for flag in setting.flags]
    assert len(set(variables)) == len(variables)
    assert len(set(flags)) == len(flags)
    assert "SWARM_HOME" not in variables
    assert "--config" not in flags


def test_the_sample_file_is_the_defaults_once_its_comments_are_taken_away(home: Home, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "node.toml").read_text()
    assert text == sample_file()
    assert tomllib.loads(text) == {section: {} for section in as_tree(NodeSettings())}
    keys = {setting.key for setting in SETTINGS}
    lines = [line[2:] if line[2:].split(" =")[0] in keys else line for line in text.splitlines()]
    file = tmp_path / "node.toml"
    file.write_text("\n".join(lines))
    loaded = load(env={}, file=file, home=home)
    assert loaded.settings == NodeSettings()
    assert set(loaded.origins) == set(BY_PATH)


def test_what_may_have_a_password_in_it_is_shown_nowhere(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://swarm:hush@db/journals"
    env = {"SWARM_LEDGER_JOURNAL_URL": url, "SWARM_HOME": str(home.cache.parent)}
    loaded = load(env=env, home=home)
    assert loaded.settings.ledger.journal_url == url
    assert "hush" not in json.dumps(shown_tree(loaded.settings)) and HIDDEN in json.dumps(shown_tree(loaded.settings))
    assert shown(BY_PATH["ledger.journal_url"], loaded.settings) == HIDDEN
    kept = [
        path for path in home.cache.parent.rglob("*") if path.is_file() and "hush" in path.read_text(errors="replace")
    ]
    assert not kept, "it is not remembered, either"
    with pytest.raises(ConfigError) as wrong:
        load(env={"SWARM_LEDGER_JOURNAL_URL": "mysql://swarm:hush@db"}, home=home)
    assert "hush" not in f"{wrong.value} {wrong.value.hint} {wrong.value.facts}"


def test_tasks_do_not_get_what_is_secret(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_LEDGER_JOURNAL_URL", "postgresql://swarm:hush@db/journals")
    monkeypatch.setenv("SWARM_LEDGER_ZONE", "rack")
    environment = worker_environment(home, "oak")
    assert environment["SWARM_LEDGER_ZONE"] == "rack" and "hush" not in str(environment)
