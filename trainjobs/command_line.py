"""argv -> config, the same way for every command that trains.

A setting's path is its flag (`--optim.lr`); a few have a short form. Later beats earlier: defaults,
the demo recipe where no data is given, `--config` files, flags.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from cluster.config_io import load_yaml, merge
from cluster.errors import ConfigError
from cluster.redact import redact
from trainjobs.config import TrainConfig
from trainjobs.demo import Demo
from trainjobs.yolov5_hyp import read_hyp

Options = TypeVar("Options")

CONFIGS = Path(__file__).with_name("configs")
"""Settings for known datasets."""
ALIASES = {
    "--data": "--data.source",
    "--model": "--model.name",
    "--weights": "--model.weights",
    "--image-size": "--data.image-size",
    "--num-workers": "--resources.num-workers",
    "--storage": "--resources.storage",
    "--tracking-uri": "--tracking.uri",
    "--precision": "--optim.precision",
    # YOLOv5's names, where they mean the same.
    "--img": "--data.image-size",
    "--imgsz": "--data.image-size",
    "--name": "--run-name",
    "--project": "--resources.storage",
    "--workers": "--data.loader-workers",
    "--patience": "--eval.patience",
    "--label-smoothing": "--loss.label-smoothing",
    "--optimizer": "--optim.name",
    "--image-weights": "--data.image-weights",
    "--rect": "--data.rect",
    "--multi-scale": "--data.multi-scale",
    "--freeze": "--model.freeze",
}
"""Short form -> flag."""

NOT_HERE = {
    "--batch-size": "YOLOv5's is the total over GPUs; give --batch-size-per-worker, images per device",
    "--batch": "YOLOv5's is the total over GPUs; give --batch-size-per-worker, images per device",
    "--device": "give --num-workers (and --resources.gpus-per-worker); Ray assigns the devices",
    "--local-rank": "Ray starts the ranks; give --num-workers",
    "--nproc-per-node": "give --num-workers, the number of ranks on all nodes",
    "--nnodes": "Ray places the workers on the nodes of its cluster; give --num-workers",
    "--node-rank": "Ray places the workers on the nodes of its cluster; give --num-workers",
    "--master-addr": "ranks find each other through Ray; set RAY_ADDRESS to choose the cluster",
    "--master-port": "ranks find each other through Ray; set RAY_ADDRESS to choose the cluster",
    "--resume": "a run resumes by its name: give --run-name",
    "--cos-lr": "give --optim.schedule cosine",
    "--linear-lr": "linear is the default; see --optim.schedule",
    "--sync-bn": "not yet; BatchNorm's running statistics are combined over ranks in any case",
    "--evolve": "use `python -m tuning.sweep`, a search over any settings",
    "--single-cls": "not yet; give a data.yaml with one class",
    "--cfg": "give --model, for example yolov5s",
    "--exist-ok": "a run name that stands is continued; give another --run-name for a new run",
    "--save-period": "give --checkpoint.every-epochs",
    "--noautoanchor": "anchors are never changed",
    "--quad": "mosaic (--augment.mosaic) and --multi-scale 0.5 cover it",
    "--cache": "images are packed and read through the page cache of the node; there is nothing to set",
}
"""Flags of YOLOv5 and torchrun that have no equal here, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a training command can be told."""

    run: Annotated[TrainConfig, tyro.conf.arg(name="")]
    config: tuple[str, ...] = ()
    """YAML files of settings, or names of those in trainjobs/configs; later ones win, flags win over
    all."""
    hyp: str | None = None
    """A YOLOv5 hyp.yaml, as it is; files of settings win over it."""
    dry_run: bool = False
    """Show what would run (devices, images per step, memory) and stop."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least important lines to show."""


def parse(argv: Sequence[str], job: str, demo: Demo) -> Command:
    """Read a command line.

    Raises:
        ConfigError: a file or a value is wrong, or a flag is one of another system.
        SystemExit: with 2, after tyro's message, for unknown flags; with 0 after --help.
    """
    args = [expanded(argument) for argument in argv]
    base = base_config(args, demo)
    short = ", ".join(f"{s} for {flag}" for s, flag in ALIASES.items())
    return read_arguments(
        Command,
        args,
        default=Command(run=base),
        prog=f"python -m trainjobs.{job}",
        description=f"Train one model. Short forms: {short}.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def read_arguments(command: Callable[..., Options], args: Sequence[str], **how: Any) -> Options:
    """`tyro.cli`, which prints what it refuses, without printing secrets."""
    hidden = [redact(argument) for argument in args]
    if hidden != list(args):
        tyro.cli(command, args=hidden, **how)
    options: Options = tyro.cli(command, args=list(args), **how)
    return options


def base_config(args: Sequence[str], demo: Demo, prefix: str = "--") -> TrainConfig:
    """The config that flags are laid over: the job's own, for data or for none, and YAML files.

    Args:
        args: the command line, expanded.
        demo: of the job.
        prefix: what flags of the training config begin with.

    Raises:
        ConfigError: a file is wrong.
    """
    hyps = files_after("--hyp", args)
    files = [config_file(file) for file in files_after("--config", args)]
    trees = [read_hyp(load_yaml(file), file) for file in hyps]
    trees += [load_yaml(file) for file in files]
    has_data = any(a.split("=")[0] == f"{prefix}data.source" for a in args) or any(
        isinstance(data := tree.get("data"), dict) and data.get("source") for tree in trees
    )
    base = demo.defaults if has_data else demo.config
    for file, tree in zip(hyps + files, trees, strict=True):
        base = merge(base, tree, file)
    return base


def config_file(name: str) -> str:
    """The file that `--config` means: itself, or else one that comes with this package."""
    known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    if name in known and not Path(name).exists():
        return str(CONFIGS / f"{name}.yaml")
    if not name.endswith((".yaml", ".yml")) and not Path(name).exists():
        raise ConfigError(f"--config: no file {name}, and none of {', '.join(known)}")
    return name


def expanded(argument: str, prefix: str = "--") -> str:
    """An argument with its short form written out.

    Raises:
        ConfigError: it is a flag of another system; says what to give instead.
    """
    name, equals, value = argument.partition("=")
    plain = name.replace("_", "-")  # both spellings work, as in torchrun
    if not plain.startswith(prefix):
        return argument
    flag = f"--{plain.removeprefix(prefix)}"
    if flag in NOT_HERE:
        raise ConfigError(f"{name} is not an option here: {NOT_HERE[flag]}")
    if flag not in ALIASES:
        return argument
    return prefix + ALIASES[flag].removeprefix("--") + equals + value


def files_after(flag: str, args: Sequence[str]) -> list[str]:
    """The values that follow `flag`; tyro reads them again, after they have set the defaults."""
    files: list[str] = []
    for number, argument in enumerate(args):
        if argument.startswith(f"{flag}="):
            files.append(argument.removeprefix(f"{flag}="))
        if argument == flag:
            following = args[number + 1 :]
            end = next((i for i, a in enumerate(following) if a.startswith("--")), len(following))
            files += following[:end]
    return files
