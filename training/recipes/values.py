"""Options by their names: plain values, as TOML has them -> the options class of a command, or its command line."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from f2f.engine.cli import COMMANDS, as_flag
from f2f.engine.errors import UsageError

_POSITIONAL = get_args(Positional[int])[1]
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "words in quotes",
    Path: "a path in quotes",
}


def command_function(command: str) -> Callable[[Any], int]:
    """What a command of `f2f` runs."""
    module, name = COMMANDS[command][0].split(":")
    function: Callable[[Any], int] = getattr(importlib.import_module(module), name)
    return function


def options_class(command: str) -> type[Any]:
    """The class of a command's options."""
    found: type[Any] = get_type_hints(command_function(command))["options"]
    return found


def option_types(options: type[Any]) -> dict[str, Any]:
    """The type of every option by its name; classes within the class are opened."""
    hints = get_type_hints(options, include_extras=True)
    found: dict[str, Any] = {}
    for entry in fields(options):
        hint = hints[entry.name]
        found |= option_types(hint) if is_dataclass(hint) else {entry.name: hint}  # type: ignore[arg-type]
    return found


def build(options: type[Any], given: Mapping[str, Any]) -> Any:
    """The options with the values `given` by name, all others at their defaults.

    Raises:
        UsageError: there is no such option, one without a default is missing, or a value is of the wrong kind or not
            accepted.
    """
    known = option_types(options)
    for name in given:
        if name not in known:
            raise UsageError(f"{name} is no option; accepted: {', '.join(sorted(known))}")
    return _built(options, given)


def _built(options: type[Any], given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(options, include_extras=True)
    values: dict[str, Any] = {}
    for entry in fields(options):
        hint = hints[entry.name]
        if is_dataclass(hint):
            values[entry.name] = _built(hint, given)  # type: ignore[arg-type]
        elif entry.name in given:
            values[entry.name] = _converted(entry.name, hint, given[entry.name])
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise UsageError(f"{entry.name} is missing; accepted: {accepted(hint)}; give it")
    return options(**values)


def _converted(name: str, hint: Any, value: Any) -> Any:
    kind = _plain(hint)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_converted(name, inner[0], one) for one in value)
    if origin is Literal and value in inner:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise UsageError(f"{name} is {value!r}; accepted: {accepted(hint)}")


def _plain(hint: Any) -> Any:
    """Without notes for the command line, and without None, which TOML has not."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        (kind,) = (one for one in get_args(hint) if one is not NoneType)
        return _plain(kind)
    return hint


def accepted(hint: Any) -> str:
    """What values an option of this type takes, in words."""
    kind = _plain(hint)
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list, in brackets, of {accepted(get_args(kind)[0])}"
    return _WORDS[kind]


def command_line(command: str, given: Mapping[str, Any]) -> str:
    """The same options as a command for the shell."""
    types = option_types(options_class(command))
    placed = [name for name, hint in types.items() if name in given and _is_positional(hint)]
    flags = [as_flag("--" + name.replace("_", "-"), value) for name, value in given.items() if name not in placed]
    words = [str(given[name]) for name in placed] + [word for flag in flags for word in flag]
    return shlex.join(["f2f", *command.split(), *words])


def _is_positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and _POSITIONAL in get_args(hint)
