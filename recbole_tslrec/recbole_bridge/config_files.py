"""The yaml files that an experiment is given, and those that we bring."""

from __future__ import annotations

import functools
import os
import sys
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import recbole
from recbole.config import Config
from yaml import YAMLError

from recbole_tslrec.config.values import did_you_mean


def properties_folder() -> Path:
    """Our yaml: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def config_file(name: str) -> Path:
    """A yaml file by its path; ``properties/…``, where there is none of that path, is one of ours.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if (path := _path_of(name)).is_file():
        return path
    presets = (f"properties/{file.relative_to(properties_folder())}" for file in _presets())
    raise FileNotFoundError(
        f"config_files: there is no file [{name}].{did_you_mean(name, presets)}"
    )


def is_config_file(name: str) -> bool:
    """Whether there is a yaml file of this name, as ``config_file`` takes it."""
    return _path_of(name).is_file()


def _path_of(name: str) -> Path:
    path = Path(name)
    if not path.is_file() and path.parts[:1] == ("properties",):
        return properties_folder().joinpath(*path.parts[1:])
    return path


def _presets() -> list[Path]:
    return sorted(properties_folder().rglob("*.yaml"))


def config_file_names(text: str) -> list[str]:
    """The names of yaml files that a text has between blanks; a text that is the path of one is one."""
    return [text] if os.path.isfile(text) else text.split()


def given_config_files(text: str) -> list[str]:
    """The names of yaml files, which are given in one text, once each is read; see ``config_file``.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one does not hold keys and values.
    """
    names = config_file_names(text)
    for file in names:
        read_config_file(file)
    return names


def read_config_file(file: str) -> dict[str, Any]:
    """The keys and values of a yaml file, as RecBole reads them.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it does not hold keys and values.
    """
    reader = Config.__new__(Config)
    reader.yaml_loader = reader._build_yaml_loader()
    return reader._load_config_files([file])


@functools.cache
def own_value(model: str, key: str) -> Any:
    """The value of a key in a model's own yaml, RecBole's or ours; None if it has none."""
    recboles = Path(recbole.__file__).parent / "properties"
    files = [folder / "model" / f"{model}.yaml" for folder in (recboles, properties_folder())]
    values = [read_config_file(str(file)) for file in files if file.is_file()]
    return ChainMap(*reversed(values)).get(key)


def as_recbole_reads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values as RecBole makes them of those that it is given."""
    return Config._convert_config_dict(None, dict(settings))


def command_line_settings() -> dict[str, Any]:
    """RecBole's keys and ours on the command line; takes them out of ``sys.argv``.

    Or RecBole would give them to each experiment of this process, over its own settings.

    Raises:
        ValueError: a key is given twice, with two values.
    """
    try:
        settings = Config.__new__(Config)._load_cmd_line()
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    sys.argv = sys.argv[:1]
    return settings


def naming_files(original):
    @functools.wraps(original)
    def load_config_files(self, file_list):
        values = {}
        for file in file_list or []:
            try:
                values |= original(self, [str(config_file(file))])
            # Empty; a text or a list; no yaml, of which some kinds fail in odd ways; no utf-8.
            except (TypeError, ValueError, LookupError, RecursionError, YAMLError) as error:
                said = " ".join(str(error).split())
                raise ValueError(
                    f"config_files: [{file}] is not 'key: value' lines: {said}"
                ) from None
        return values

    return load_config_files
