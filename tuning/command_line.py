"""argv -> the settings of a sweep. A setting of the trials is its training flag behind `--train.`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from cluster.config import ResourceRequest
from cluster.config_io import load_yaml, parse_yaml
from cluster.errors import ConfigError, RunError
from cluster.storage import RunPaths
from trainjobs.command_line import base_config, expanded, read_arguments
from trainjobs.config import TrainConfig
from trainjobs.demo import Demo
from trainjobs.locate import locate
from tuning.config import SearchConfig
from tuning.ledger import load_settings
from tuning.settings import SweepSettings, resume_settings
from tuning.space import default_space

PREFIX = "--train."
ALIASES = {
    "--storage": "--train.resources.storage",
    "--epochs": "--train.epochs",
    "--tracking-uri": "--train.tracking.uri",
}
FACTOR = re.compile(r"(\d+(?:\.\d+)?)[x\u00d7]")
"""A multiple of what a sweep had, such as 2x."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the sweep's command can be told."""

    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)
    job: Literal["yolo", "classify"] = "yolo"
    """The job whose runs are the trials."""
    name: str | None = None
    """Name of the sweep and of its folder. Default: a new name."""
    space: str | None = None
    """YAML file of the search space. Default: lr and weight decay a decade either side of the
    base config's, accumulation 1, 2 or 4."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The same on the command line: --vary 'optim.lr: {loguniform: [1e-4, 1e-1]}'."""
    points: str | None = None
    """YAML file with a list of known points (path: value), tried first."""
    warm_start: str | None = None
    """Folder of an earlier sweep to learn from."""
    config: tuple[str, ...] = ()
    """YAML files of training settings; later ones win, flags win over all."""
    resume: str | None = None
    """Name of a sweep to go on with."""
    extend: str | None = None
    """Name of a sweep to go on with and make larger: --num-trials +10, --epochs 2x."""
    train: TrainConfig
    """What all trials share."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least important lines to show."""


def parse(
    argv: Sequence[str], demos: Mapping[str, Demo], new_name: str
) -> tuple[SweepSettings, Command]:
    """Read a command line, and the saved settings where a sweep goes on.

    Args:
        argv: of the command.
        demos: what trials are told where nothing else is said, by job.
        new_name: of a sweep that is given none.

    Raises:
        ConfigError: a file or a value is wrong.
        RunError: there is no such sweep, one of that name exists, or it has other settings.
        SystemExit: with 2, after tyro's message, for unknown flags; with 0 after --help.
    """
    args = [ALIASES.get(a.partition("=")[0], a.partition("=")[0]) + "".join(a.partition("=")[1:])
            for a in argv]  # fmt: skip
    args = [expanded(argument, PREFIX) for argument in args]
    going_on = _value(args, "--resume") or _value(args, "--extend")
    if not going_on:
        demo = demos.get(_value(args, "--job") or "yolo", demos["yolo"])  # tyro refuses others
        command = _cli(args, Command(train=base_config(args, demo, PREFIX)))
        settings = _settings(command, command.name or new_name)
        if load_settings(_paths(settings)) is not None:
            raise RunError(
                f"sweep {settings.name} exists: go on with --resume {settings.name}, make it larger "
                f"with --extend {settings.name}, or give another --name"
            )
        return settings, command
    storage = locate(TrainConfig(resources=ResourceRequest(
        storage=_value(args, "--train.resources.storage")
    )))[0].resources.storage  # fmt: skip
    saved = load_settings(RunPaths(str(storage), going_on))
    if saved is None:
        raise RunError(f"there is no sweep {going_on} in {storage}; give its --storage")
    args = _enlarged(args, saved)
    command = _cli(args, Command(train=saved.train, search=saved.search, name=saved.name))
    asked = dataclasses.replace(
        saved, search=command.search, train=_located(command.train, saved.name)
    )
    extending = command.extend is not None
    return resume_settings(asked, saved, extending=extending), command


def _cli(args: Sequence[str], default: Command) -> Command:
    return read_arguments(
        Command,
        args,
        default=default,
        prog="python -m tuning.sweep",
        description="Search for the best training config; every trial is a run of its own. "
        "--train.data, --train.model and the like take the short forms of the job's command.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _settings(command: Command, name: str) -> SweepSettings:
    if command.train.run_name is not None:
        raise ConfigError("--train.run-name: the sweep names its trials; give --name")
    return SweepSettings(
        name=name,
        job=command.job,
        search=command.search,
        space=_space(command),
        points=load_points(command.points),
        warm_start=command.warm_start and _located_folder(command.warm_start, command.train),
        train=_located(command.train, name),
    )


def _space(command: Command) -> dict[str, Any]:
    tree = dict(load_yaml(command.space)) if command.space else {}
    for text in command.vary:
        tree |= parse_yaml(text, f"--vary {text!r}")
    return tree or default_space(command.train)


def load_points(file: str | None) -> tuple[dict[str, Any], ...]:
    """The known points that a file lists; none without a file.

    Raises:
        ConfigError: it cannot be read, or is of another form.
    """
    raw = load_yaml(file).get("points") if file else []
    if not isinstance(raw, list) or not all(isinstance(point, Mapping) for point in raw):
        raise ConfigError(f"{file} must hold `points:` and a list of `path: value` groups")
    return tuple({str(path): value for path, value in point.items()} for point in raw)


def _located(train: TrainConfig, name: str) -> TrainConfig:
    """With absolute paths, as trials run elsewhere."""
    located, _ = locate(dataclasses.replace(train, run_name=name))
    return dataclasses.replace(located, run_name=None)


def _located_folder(earlier: str, train: TrainConfig) -> str:
    """A sweep's folder, given as a path, or as a name in the same storage."""
    if "/" in earlier:
        return earlier
    return RunPaths(str(_located(train, earlier).resources.storage), earlier).location()


def _paths(settings: SweepSettings) -> RunPaths:
    return RunPaths(str(settings.train.resources.storage), settings.name)


def _value(args: Sequence[str], flag: str) -> str | None:
    for number, argument in enumerate(args):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and number + 1 < len(args):
            return args[number + 1]
    return None


def _enlarged(args: Sequence[str], saved: SweepSettings) -> list[str]:
    """`--num-trials +10` and `--train.epochs 2x` as plain numbers."""
    enlarged = list(args)
    for flag, before in (
        ("--num-trials", saved.num_trials),
        ("--train.epochs", saved.train.epochs),
    ):
        value = _value(args, flag)
        if value is None:
            continue
        if value.startswith("+"):
            total = before + int(value[1:]) if value[1:].isdigit() else None
        else:
            factor = FACTOR.fullmatch(value)
            total = round(before * float(factor[1])) if factor else None
        if total is not None:
            enlarged = [
                a.replace(value, str(total)) if a in (value, f"{flag}={value}") else a
                for a in enlarged
            ]
    return enlarged
