"""Judging settings: the pydantic-settings model that is derived from the declarations in :mod:`nodes.settings`.

Importing this module costs 200 to 300 ms; only :func:`nodes.settings.load` does, and only when it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Optional

import pydantic
import pydantic_settings
from pydantic import BeforeValidator, ConfigDict, Field, create_model

from nodes.settings import HIDDEN, SECTIONS, NodeSettings, Setting, from_tree, settings_of
from nodes.settings_sources import Layer, Layers, did_you_mean
from swarm.errors import ConfigError
from swarm.units import parse_bytes, parse_duration_s


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=False)


class _LayerSource(pydantic_settings.PydanticBaseSettingsSource):
    """One layer as a source of pydantic-settings. Lists and tables replace those of weaker layers."""

    def __init__(self, settings_cls: type[pydantic_settings.BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: pydantic.fields.FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return {
            section: {key: _Whole(value) for key, value in keys.items()} for section, keys in self._layer.values.items()
        }


class _Whole:
    """Keeps pydantic-settings from merging the tables of two sources key by key."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def validate(layers: Layers) -> NodeSettings:
    """The settings that the layers make together, or ConfigError with everything that is wrong with them."""

    class Model(pydantic_settings.BaseSettings):
        model_config = pydantic_settings.SettingsConfigDict(extra="ignore")

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[pydantic_settings.BaseSettings], **_: Any
        ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
            return tuple(_LayerSource(settings_cls, layer) for layer in (layers.flags, layers.env, layers.toml))

    problems = list(layers.problems)
    sections: dict[str, Any] = {section: (_section_model(section), Field(default_factory=dict)) for section in SECTIONS}
    judge = create_model("NodeSettings", __base__=Model, **sections)
    tree: dict[str, dict[str, Any]] = {}
    try:
        model = judge()
        tree = {
            section: {setting.key: getattr(getattr(model, section), setting.key) for setting in settings_of(section)}
            for section in SECTIONS
        }
    except pydantic.ValidationError as error:
        problems += _problems(error, layers.origins())
    if problems:
        message, hint = problems[0]
        if len(problems) > 1:
            hint = f"{hint}; {len(problems) - 1} more: `swarm config check` lists all" if hint else ""
        raise ConfigError(message, hint=hint, problems=problems)
    return from_tree(tree)


def _section_model(section: str) -> type[_Section]:
    fields: dict[str, Any] = {setting.key: (_type(setting), _default(setting)) for setting in settings_of(section)}
    return create_model(section, __base__=_Section, **fields)


def _default(setting: Setting) -> Any:
    return Field(default_factory=lambda: setting.default)


def _type(setting: Setting) -> Any:
    bounds: dict[str, Any] = {"ge": setting.low, "le": setting.high}
    kind: Any
    match setting.kind:
        case "text" if setting.choices:
            kind = Literal[setting.choices]
        case "text":
            kind = Annotated[str, Field(pattern=f"^(?:{setting.pattern or '.*'})$", max_length=4096)]
        case "whole" | "bytes":
            kind = Annotated[int, Field(**bounds)]
        case "number" | "seconds":
            kind = Annotated[float, Field(**bounds, allow_inf_nan=False)]
        case "switch":
            kind = bool
        case "words":
            kind = tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...]
        case "texts":
            kind = dict[str, Annotated[str, Field(min_length=1)]]
        case "numbers":
            kind = dict[str, Annotated[float, Field(**bounds, allow_inf_nan=False)]]
    if setting.auto:
        kind = Optional[kind]  # noqa: UP045 - kind is a value here, not an annotation
    return Annotated[kind, BeforeValidator(_reader(setting))]


def _reader(setting: Setting) -> Callable[[Any], Any]:
    """From what stands in a file, a variable or a flag to what pydantic judges."""

    def read(given: Any) -> Any:
        value = given.value if isinstance(given, _Whole) else given
        if setting.auto and value == "auto":
            return None
        if isinstance(value, bool) and setting.kind != "switch":
            raise ValueError("must not be true or false")
        match setting.kind:
            case "bytes" if isinstance(value, str):
                return parse_bytes(value)
            case "seconds" if isinstance(value, str):
                return parse_duration_s(value)
            case "words":
                return _words(value)
            case "texts" | "numbers":
                return _table(value)
        return value

    return read


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(filter(None, (part.strip() for part in value.split(","))))
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return tuple(word for part in value for word in _words(part))
    return value


def _table(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value
    table: dict[str, str] = {}
    for pair in _words(value):
        name, equals, rest = pair.partition("=") if isinstance(pair, str) else ("", "", "")
        if not equals or not name.strip() or not rest.strip():
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        table[name.strip()] = rest.strip()
    return table


def _problems(error: pydantic.ValidationError, origins: Mapping[str, str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for each in error.errors(include_url=False):
        section, key = (*map(str, each["loc"]), "", "")[:2]
        path = f"{section}.{key}"
        place = origins.get(path, "")
        known = {setting.key: setting for setting in settings_of(section)}
        if each["type"] == "extra_forbidden":
            found.append((f"{place}: {path}: no such setting", did_you_mean(key, known)))
            continue
        given = each["input"].value if isinstance(each["input"], _Whole) else each["input"]
        reason = each["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
        if each["type"] == "string_pattern_mismatch":
            reason = "has characters that can not stand there, or is too long"
        shown = HIDDEN if known[key].secret else _shown(given)
        found.append((f"{place}: {path} = {shown}: {reason}", _hint(known[key])))
    return list(dict.fromkeys(found))


def _hint(setting: Setting) -> str:
    allowed = f"one of {', '.join(setting.choices)}" if setting.choices else _EXAMPLES[setting.kind]
    also = f", or auto: {setting.auto}" if setting.auto else ""
    return f"{setting.about} ({allowed}{also})"


_EXAMPLES: Mapping[str, str] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a number",
    "bytes": "a size such as 512MiB, 2GB or 4096",
    "seconds": "a duration such as 30s, 10m or 1h",
    "switch": "true or false",
    "words": "a list of words",
    "texts": "NAME=VALUE pairs",
    "numbers": "NAME=NUMBER pairs",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
