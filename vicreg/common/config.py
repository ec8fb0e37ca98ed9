"""Frozen configuration dataclasses: built from argparse once, compared field by field on resume."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from vicreg.common.logger import log

Config = TypeVar("Config")
_OF_ONE_RANK = ("local_rank", "workers")  # settings that may differ between the processes of a run


def setting(default: Any = dataclasses.MISSING, *, compare: str = "warn") -> Any:
    """Declare a field of a configuration dataclass.

    Args:
        default: Default value; the field is required without one.
        compare: What a different value means on resume: ``"must_match"`` refuses, ``"warn"`` reports the change,
            ``"ignore"`` accepts it silently, ``"length"`` is as ``"warn"`` and may also extend a finished run.
    """
    if compare not in ("must_match", "warn", "ignore", "length"):
        raise ValueError(f"compare={compare!r}: expected must_match, warn, ignore or length")
    return dataclasses.field(default=default, metadata={"compare": compare})


def from_args(cls: type[Config], namespace: argparse.Namespace, **overrides: Any) -> Config:
    """Build a configuration from parsed arguments of the same names; ``overrides`` take precedence."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {name: getattr(namespace, name) for name in names if hasattr(namespace, name)}
    return cls(**{**values, **overrides})


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values that JSON and ``torch.load(weights_only=True)`` accept."""
    return {key: _to_plain(value) for key, value in dataclasses.asdict(config).items()}


def flag_of(name: str) -> str:
    """Return the command-line spelling of an argument's name, such as ``--batch-size``."""
    return f"--{name.replace('_', '-')}"


def by_flag(config: Any) -> dict[str, Any]:
    """Return the values of a configuration that all processes share, also nested ones, by their flag."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _OF_ONE_RANK:
            values |= by_flag(value) if dataclasses.is_dataclass(value) else {flag_of(field.name): value}
    return values


def check_resume(saved: dict[str, Any], config: Any, exp_dir: str | Path, finished: bool = False) -> None:
    """Compare the configuration of a checkpoint with the current one, field by field.

    Fields that the checkpoint does not have (written by an older version) are skipped. A nested configuration is
    compared field by field too; an older checkpoint may hold its values at the top level.

    Args:
        saved: Configuration of the checkpoint, as from ``to_dict``.
        config: Current configuration.
        exp_dir: Run folder, for messages.
        finished: Whether the saved run reached its last step. Every difference is then refused, except in fields
            marked ``"length"`` or ``"ignore"``: no step is left that could use the new value.

    Raises:
        ValueError: A ``"must_match"`` field differs, or the run is finished and another field differs.
    """
    current = to_dict(config)
    for field in dataclasses.fields(config):
        compare = field.metadata.get("compare", "warn")
        if dataclasses.is_dataclass(getattr(config, field.name)):
            check_resume(saved.get(field.name, saved), getattr(config, field.name), exp_dir, finished)
            continue
        if compare == "ignore" or field.name not in saved or saved[field.name] == current[field.name]:
            continue
        old, new, flag = saved[field.name], current[field.name], flag_of(field.name)
        if compare == "must_match" or (finished and compare != "length"):
            kind = "a finished run" if finished else "a run"
            raise ValueError(
                f"{exp_dir} holds {kind} with {flag} {old}, not {new}; choose another --exp-dir or the same value"
            )
        log(f"note: {flag} was {old} when this run started and is {new} now")


def _to_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value
