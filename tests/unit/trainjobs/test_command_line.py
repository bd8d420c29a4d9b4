"""argv -> config: short forms, files, precedence, and mistakes that are told clearly."""

from pathlib import Path

import pytest

from cluster.config_io import dump_yaml, leaf_paths, value_at
from cluster.errors import ConfigError
from tests.builders import make_config
from trainjobs.command_line import ALIASES, NOT_HERE, Command, parse
from trainjobs.config import TrainConfig
from trainjobs.demo import Demo

# Differs from the defaults in what no other source below sets, too.
DEMO = Demo(config=make_config({"epochs": 3, "seed": 9, "optim.lr": 0.5}), note="a demo")


def read(*argv: str) -> TrainConfig:
    return parse(argv, "yolo", DEMO).run


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("argv", "path", "expected"),
    [
        ("--data d.yaml", "data.source", "d.yaml"),
        ("--model yolov5n", "model.name", "yolov5n"),
        ("--weights w.st", "model.weights", "w.st"),
        ("--image-size 320", "data.image_size", 320),
        ("--img 320", "data.image_size", 320),
        ("--imgsz 320", "data.image_size", 320),
        ("--num-workers 1:2", "resources.num_workers", "1:2"),
        ("--num-workers auto", "resources.num_workers", "auto"),
        ("--storage /runs", "resources.storage", "/runs"),
        ("--project /runs", "resources.storage", "/runs"),
        ("--tracking-uri http://m", "tracking.uri", "http://m"),
        ("--precision bf16", "optim.precision", "bf16"),
        ("--name r", "run_name", "r"),
        ("--workers 4", "data.loader_workers", 4),
        ("--patience 5", "eval.patience", 5),
        ("--label-smoothing 0.1", "loss.label_smoothing", 0.1),
        ("--optimizer adamw", "optim.name", "adamw"),
        ("--optim.accumulate 2", "optim.accumulate", 2),
        ("--batch-size-per-worker 8", "batch_size_per_worker", 8),
    ],
)
def test_a_flag_or_its_short_form_reaches_its_setting(
    argv: str, path: str, expected: object
) -> None:
    assert value_at(read(*argv.split()), path) == expected
    assert value_at(read(argv.replace(" ", "=", 1)), path) == expected


@pytest.mark.parametrize("argv", ["--image_size 320", "--data.image_size 320", "--img=320"])
def test_underscores_are_as_good_as_dashes(argv: str) -> None:
    assert read(*argv.split()).data.image_size == 320


def test_yolov5s_image_weights_is_a_switch() -> None:
    assert not read().data.image_weights
    assert read("--image-weights").data.image_weights
    assert read("--data.image-weights").data.image_weights


def test_yolov5s_rect_is_a_switch_and_its_multi_scale_a_fraction() -> None:
    assert not read().data.rect and read("--rect").data.rect
    assert read("--multi-scale", "0.5").data.multi_scale == 0.5


def test_further_datasets_follow_each_other_and_replace_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: d, also: [a, 's3://b/x#0.5']}\n")
    assert read("--config", str(file)).data.also == ("a", "s3://b/x#0.5")
    both = read("--config", str(file), "--data.also", "c#2", "d")
    assert both.data.also == ("c#2", "d")


def test_a_number_of_workers_fits_what_resources_reads() -> None:
    assert read("--num-workers", "2").resources.worker_range() == (2, 2)


def test_every_short_form_stands_for_a_setting() -> None:
    flags = {f"--{path}".replace("_", "-") for path in leaf_paths(TrainConfig)}
    assert set(ALIASES.values()) <= flags
    assert not set(ALIASES) & set(NOT_HERE)
    assert not set(NOT_HERE) & flags


@pytest.mark.parametrize(
    ("argv", "advice"),
    [
        ("--batch-size 64", "--batch-size-per-worker"),
        ("--batch=64", "--batch-size-per-worker"),
        ("--device 0,1", "--num-workers"),
        ("--nproc_per_node=2", "--num-workers"),
        ("--nproc-per-node 2", "--num-workers"),
        ("--nnodes 2", "--num-workers"),
        ("--local_rank 0", "--num-workers"),
        ("--master_addr h", "RAY_ADDRESS"),
        ("--resume", "--run-name"),
        ("--cos-lr", "--optim.schedule cosine"),
        ("--cache ram", "nothing to set"),
    ],
)
def test_a_flag_of_yolov5_or_torchrun_names_what_to_use(argv: str, advice: str) -> None:
    flag = argv.replace("=", " ").partition(" ")[0]
    with pytest.raises(ConfigError, match=f"{flag} is not an option here") as raised:
        read(*argv.split())
    assert advice in str(raised.value)


@pytest.mark.parametrize("name", NOT_HERE)
def test_advice_names_only_flags_that_exist(name: str) -> None:
    flags = {f"--{path}".replace("_", "-") for path in leaf_paths(TrainConfig)} | set(ALIASES)
    words = NOT_HERE[name].replace(",", " ").replace(";", " ").replace("(", " ").replace(")", " ")
    assert {word for word in words.split() if word.startswith("--")} <= flags


@pytest.mark.parametrize("argv", ["--bogus 1", "--epochs many", "--optim.name lamb", "--epochs"])
def test_a_flag_or_value_that_cannot_be_is_exit_2_with_a_message(
    argv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        read(*argv.split())
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert argv.partition(" ")[0] in captured.err and captured.out == ""


@pytest.mark.parametrize("argv", ["--epochs 0", "--optim.lr -1", "--num-workers 0"])
def test_a_value_out_of_range_is_a_user_mistake(
    argv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, value = argv.split()
    with pytest.raises((ConfigError, SystemExit)) as raised:
        read(name, value)
    if isinstance(raised.value, SystemExit):
        assert raised.value.code == 2
    message = capsys.readouterr().err + str(raised.value)
    assert "must be" in message and value in message


def test_help_shows_every_setting_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        read("--help")
    text = capsys.readouterr().out
    assert raised.value.code == 0
    assert "--optim.images-per-step" in text and "Images of one optimizer step" in text
    # What is on by default is switched off: --optim.no-nesterov.
    flags = {p: (f"--{p}", f"--{'.no-'.join(p.rsplit('.', 1))}") for p in leaf_paths(TrainConfig)}
    shown = text.replace("-", "_")
    assert [
        p for p, forms in flags.items() if not any(f.replace("-", "_") in shown for f in forms)
    ] == []


def test_layers_to_freeze_are_numbers_or_names() -> None:
    assert read("--freeze", "10").model.freeze == (10,)
    assert read("--freeze", "model.0", "model.24.m").model.freeze == ("model.0", "model.24.m")


def test_factors_on_the_learning_rate_are_pairs_and_a_mapping_in_a_file(tmp_path: Path) -> None:
    factors = {"model.0": 0.1, "model.24.m": 2.0, "stem_conv": 0.5}
    flags = [word for pair in factors.items() for word in map(str, pair)]
    assert read("--optim.lr-factors", *flags).optim.lr_factors == factors
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml({"optim": {"lr_factors": factors, "milestones": [3, 5]}}))
    from_file = read("--config", str(file)).optim
    assert (from_file.lr_factors, from_file.milestones) == (factors, (3, 5))


def test_nesterov_is_switched_off_by_name() -> None:
    assert read().optim.nesterov and not read("--optim.no-nesterov").optim.nesterov


def test_without_data_the_demo_is_trained() -> None:
    assert read() == DEMO.config


def test_flags_change_the_demo() -> None:
    config = read("--epochs", "7")
    assert (config.epochs, config.seed, config.optim.lr) == (7, 9, 0.5)


@pytest.mark.parametrize("argv", ["--data d", "--data=d", "--data.source d"])
def test_with_data_the_demo_plays_no_part(argv: str) -> None:
    assert read(*argv.split()) == make_config({"data.source": "d"})


def test_data_in_a_file_is_data_too(tmp_path: Path) -> None:
    file = write(tmp_path, "c.yaml", "data: {source: d}\n")
    assert read("--config", file) == make_config({"data.source": "d"})


def test_defaults_then_demo_then_files_then_flags(tmp_path: Path) -> None:
    first = write(tmp_path, "1.yaml", "epochs: 4\nseed: 4\noptim: {lr: 0.4}\n")
    second = write(tmp_path, "2.yaml", "epochs: 5\nseed: 5\n")
    config = read("--config", first, second, "--epochs", "6")
    assert (config.epochs, config.seed, config.optim.lr) == (6, 5, 0.4)
    assert config.optim.momentum == TrainConfig().optim.momentum
    assert read("--config", first).seed == 4 and read().seed == 9


def test_a_hyp_file_of_yolov5_gives_way_to_settings_and_flags(tmp_path: Path) -> None:
    hyp = write(tmp_path, "hyp.yaml", "lr0: 0.1\nmomentum: 0.5\nmosaic: 0.25\n")
    file = write(tmp_path, "c.yaml", "optim: {lr: 0.2, momentum: 0.6}\n")
    config = read("--config", file, "--hyp", hyp, "--optim.lr", "0.3")
    assert (config.augment.mosaic, config.optim.momentum, config.optim.lr) == (0.25, 0.6, 0.3)


@pytest.mark.parametrize("form", ["--config {0} {1}", "--config={1}"])
def test_files_may_stand_in_either_form(tmp_path: Path, form: str) -> None:
    files = [write(tmp_path, f"{n}.yaml", f"epochs: {n}\n") for n in (4, 5)]
    argv = form.format(*files).split()
    assert read(*argv).epochs == 5
    assert read("--seed", "1", *argv, "--dry-run").epochs == 5


def test_the_config_that_a_run_saves_reproduces_it(tmp_path: Path) -> None:
    config = make_config(
        {
            "data.source": "d",
            "run_name": "r",
            "optim.images_per_step": 96,
            "resources.num_workers": "1:4",
            "augment.degrees": 1e-7,
        }
    )
    assert read("--config", write(tmp_path, "c.yaml", dump_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {learning_rate: 1}", "optim.learning_rate"),
        ("lr: 1", "unknown setting 'lr'"),
        ("epochs: many", "epochs must be a whole number"),
        ("epochs: 0", "epochs must be >= 1"),
        ("data: coco.yaml", "data must be a group of settings"),
        ("- 1", "key: value"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, "c.yaml", text)
    with pytest.raises(ConfigError, match=message) as raised:
        read("--config", file)
    if "must be >=" not in message:
        assert file in str(raised.value)


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read("--config", "absent.yaml")


def test_what_is_about_the_command_stays_out_of_the_run(tmp_path: Path) -> None:
    file = write(tmp_path, "c.yaml", "epochs: 4\n")
    command = parse(["--dry-run", "--log-level", "DEBUG", "--config", file], "yolo", DEMO)
    expected = make_config({"epochs": 4, "seed": 9, "optim.lr": 0.5})
    assert command == Command(run=expected, config=(file,), dry_run=True, log_level="DEBUG")
