"""The bottom floor: user-facing errors, and mappings checked into frozen dataclasses.

Each room of the library declares its configuration as a frozen dataclass whose field types are
`bool`, `int`, `float`, `str`, `dict`, `tuple`, `X | None`, or another such dataclass. `parse`
turns the mapping that a user wrote (an `ml_collections.ConfigDict` or a plain dict) into it and
refuses what does not fit before anything is loaded.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping


class ConfigError(ValueError):
    """Something the user gave cannot work; the message says what was given and what to do."""


def parse(cls, mapping: Mapping, path: str = "config"):
    """Returns `cls` built from `mapping`, nested dataclasses included.

    Args:
      cls: a dataclass type.
      mapping: its fields by name; missing ones take their defaults.
      path: the mapping's own name, used in messages.

    Raises:
      ConfigError: an unknown key (the nearest known one is named), a missing key without default,
        a value of another type, or a combination that the dataclass itself refuses.
    """
    if not isinstance(mapping, Mapping) and not hasattr(mapping, "items"):
        raise ConfigError(f"{path} is {mapping!r}: give a group of keys ({_names(cls)})")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key} is no known key: {nearest(key, fields)}")
        values[key] = _convert(hints[key], value, f"{path}.{key}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ConfigError(f"{path}.{name} is missing: give it a value")
    return cls(**values)


def nearest(given: str, known) -> str:
    """Returns a hint: the known name most like `given`, or all of them."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def to_dict(config) -> dict:
    """Returns the dataclass `config` as a dict that JSON can hold (tuples become lists)."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return plain(config)


def flatten(config: Mapping, prefix: str = "") -> dict:
    """Returns nested mappings as one dict with dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _names(cls) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls))


def _convert(hint, value, path: str):
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else parse(hint, value, path)
    kind = origin or hint
    if kind is dict and (isinstance(value, Mapping) or hasattr(value, "items")):
        return {key: _plain(item) for key, item in value.items()}
    if kind is tuple and isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is typing.Any:
        return value
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(
        f"{path} is {value!r}, a {type(value).__name__}: give a value of type {kind.__name__}"
    )


def _plain(value):
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value
