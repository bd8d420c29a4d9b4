"""Whatever a file holds, reading it succeeds or is one `ServiceError`: nothing else, and no code runs.

Each reader gets files of three kinds: a good one with bytes flipped, cut or doubled, YAML or JSON of a
random shape, and what was built to do harm.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from cluster.config_io import dump_yaml, load_yaml, merge
from cluster.errors import ServiceError
from cluster.lease import LEASE, Holder, read_lease
from cluster.storage import RunPaths
from tests.fuzz import damaged, damages, quick, shapes
from tests.labeled_images import NAMES as CLASSES
from tests.labeled_images import coco_content, voc_text
from trainjobs.checkpoint import load_weights
from trainjobs.config import TrainConfig
from trainjobs.data.formats.coco_layout import open_coco
from trainjobs.data.formats.files import list_images
from trainjobs.data.formats.labels import SplitFiles
from trainjobs.data.formats.stored import StoredImage, fetch_file
from trainjobs.data.formats.voc_layout import read_annotation
from trainjobs.data.formats.yolo_layout import read_labels
from trainjobs.data.sources import read_data_yaml, source_files
from trainjobs.run_folder import (
    CONFIG,
    METRICS,
    RECORD,
    RESULT,
    RunRecord,
    failed_result,
    load_config,
    load_metrics,
    load_record,
    load_result,
    save_record,
    save_result,
)
from trainjobs.yolo import DEMO
from trainjobs.yolov5_hyp import read_hyp
from tuning.command_line import load_points
from tuning.ledger import SETTINGS, TRIALS, Ledger, load_ledger, load_settings
from tuning.proposals import check_points
from tuning.settings import SweepSettings
from tuning.space import check_constraints, check_space, parse_space

Read = Callable[[Path], object]

SPACE = """\
optim.lr: {loguniform: [1e-4, 1e-1]}
optim.name: {grid: [sgd, adamw]}
optim.momentum: {uniform: [0.8, 0.98], when: {optim.name: sgd}}
optim.accumulate: {int: [1, 4]}
constraints: ["images_per_step <= 256", "epochs * optim.accumulate < 1000"]
"""
DATA = "path: .\ntrain: images\nval: [images, list.txt]\nnames: {0: cat, 1: dog}\nnc: 2\n"
HYP = "lr0: 0.01\nlrf: 0.1\nmomentum: 0.9\nfl_gamma: 1.5\nanchors: 3\nhsv_h: 0.015\n"
POINTS = "points:\n- {optim.lr: 0.1, optim.name: sgd}\n- {model.name: yolov5n}\n"
OBJECTS = {"1.jpg": [("cat", (1.0, 2.0, 30.0, 20.5)), ("owl", (0.0, 0.0, 40.0, 32.0))]}
LABELS = "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"


def read_config(file: Path) -> object:
    return merge(TrainConfig(), load_yaml(file), str(file))


def read_hyps(file: Path) -> object:
    return merge(TrainConfig(), read_hyp(load_yaml(file), str(file)), str(file))


def read_space(file: Path) -> object:
    space = parse_space(load_yaml(file), str(file))
    check_space(space, DEMO.config)
    check_constraints(space, DEMO.config, world_size=2)
    return space


def read_points(file: Path) -> object:
    points = load_points(str(file))
    check_points(points, DEMO.config)
    return points


def read_data(file: Path) -> object:
    spec = read_data_yaml(file)
    return [source_files(spec, split) for split in spec.splits]


def read_coco(file: Path) -> object:
    image = file.parent / "images" / "1.jpg"
    files = SplitFiles(
        images=[image],
        folders=(image.parent,),
        root=file.parent,
        names=CLASSES,
        annotations=file,
    )
    return open_coco(files).read(StoredImage(image), 32, 40)


def read_voc(file: Path) -> object:
    return read_annotation(file, file.parent / "images" / "1.jpg", (32, 40), CLASSES)


def in_run(read: Callable[[RunPaths], object]) -> Read:
    return lambda file: read(RunPaths(str(file.parent.parent), file.parent.name))


def good_files(folder: Path) -> dict[str, tuple[str, bytes, Read]]:
    """What is read -> its name in a run's folder, the bytes of a good one, and its reader."""
    paths = RunPaths(str(folder), "good")
    save_record(paths, RunRecord(launches=1, mlflow_run_id="abc"))
    save_result(paths, failed_result(TrainConfig(), paths, "no reason"))
    ledger = Ledger(paths)
    ledger.add("default", {}, 0)
    ledger.add("random", {"optim.lr": 0.1}, 0).curve = {1: 0.5}
    ledger.save()
    holder = json.dumps({name: getattr(Holder.this_process(), name) for name in Holder.__slots__})
    coco = coco_content("", OBJECTS)
    coco["annotations"][0]["segmentation"] = [[1, 2, 30, 2, 30, 20.5]]
    weights = save(torch.nn.Linear(2, 2).state_dict(), {"format_version": "1", "model": "tiny"})
    config, sweep = dump_yaml(TrainConfig()), dump_yaml(SweepSettings(name="s", space={"a": 1}))
    return {
        "config": ("c.yaml", config.encode(), read_config),
        "hyp": ("hyp.yaml", HYP.encode(), read_hyps),
        "space": ("space.yaml", SPACE.encode(), read_space),
        "points": ("points.yaml", POINTS.encode(), read_points),
        "data": ("data.yaml", DATA.encode(), read_data),
        "list": ("list.txt", b"images/1.jpg\n./images/2.jpg\n", lambda f: list_images(f, f.parent)),
        "labels": ("labels.txt", LABELS.encode(), lambda f: read_labels(f, 2)),
        "coco": ("coco.json", json.dumps(coco).encode(), read_coco),
        "voc": ("1.xml", voc_text(OBJECTS["1.jpg"]).encode(), read_voc),
        "weights": ("w.safetensors", weights, lambda f: load_weights(str(f))),
        "saved config": (CONFIG, config.encode(), in_run(load_config)),
        "saved sweep": (SETTINGS, sweep.encode(), in_run(load_settings)),
        "record": (RECORD, paths.read_bytes(RECORD), in_run(load_record)),
        "result": (RESULT, paths.read_bytes(RESULT), in_run(load_result)),
        "metrics": (METRICS, b"epoch,lr\n1,0.5\n2,\n", in_run(load_metrics)),
        "trials": (TRIALS, paths.read_bytes(TRIALS), in_run(load_ledger)),
        "lease": (LEASE, holder.encode(), in_run(read_lease)),
    }


NAMES = ("config", "hyp", "space", "points", "data", "list", "labels", "weights", "saved config",
         "saved sweep", "record", "result", "metrics", "trials", "lease", "coco", "voc")  # fmt: skip
YAML_NAMES = NAMES[:5] + NAMES[8:10]
JSON_NAMES = ("record", "result", "trials", "lease", "coco")
JSON_LISTS = ("trials", "images", "annotations", "categories")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes, Read]]:
    return good_files(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage") / "run"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.jpg").touch()
    (folder / "list.txt").write_text("images/1.jpg\n")
    return folder


def assert_read_or_refused(content: bytes, file: Path, read: Read) -> None:
    """The reader returns, or raises one error that names the file, in a few lines without traceback."""
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(content)
    try:
        read(file)
    except ServiceError as error:
        assert file.name in str(error) or "constraint" in str(error) or read is read_points, error
    finally:
        file.unlink() if before is None else file.write_bytes(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_good_file_is_read(name: str, good: dict[str, Any], run: Path) -> None:
    file, content, read = good[name]
    (run / file).write_bytes(content)
    try:
        read(run / file)
    finally:
        if file != "list.txt":
            (run / file).unlink()


@pytest.mark.parametrize("name", NAMES)
@given(damage=damages)
@quick
def test_a_damaged_file_is_read_or_refused(
    name: str, good: dict[str, Any], run: Path, damage: list[tuple[str, float, bytes]]
) -> None:
    file, content, read = good[name]
    assert_read_or_refused(damaged(content, damage), run / file, read)


@pytest.mark.parametrize("name", YAML_NAMES)
@given(data=st.data())
@quick
def test_yaml_with_values_of_any_shape_is_read_or_refused(
    name: str, good: dict[str, Any], run: Path, data: st.DataObject
) -> None:
    file, content, read = good[name]
    tree = yaml.safe_load(content)
    odd_keys = st.integers() | st.text(max_size=3) | st.booleans() | st.none()
    known = [*tree, "constraints", "when", "choice", "uniform", "format", "annotations"]
    keys = st.sampled_from(known) | odd_keys
    changes = data.draw(st.dictionaries(keys, shapes(keys), min_size=1, max_size=3))
    text = yaml.safe_dump({**tree, **changes}, allow_unicode=True)
    assert_read_or_refused(text.encode("utf-8", "surrogatepass"), run / file, read)


@pytest.mark.parametrize("name", JSON_NAMES)
@given(data=st.data())
@quick
def test_json_with_values_of_any_shape_is_read_or_refused(
    name: str, good: dict[str, Any], run: Path, data: st.DataObject
) -> None:
    file, content, read = good[name]
    tree = json.loads(content)
    places = [tree, *(tree[name][-1] for name in JSON_LISTS if name in tree)]
    place = data.draw(st.sampled_from(places))
    keys = st.sampled_from(list(place)) | st.text(max_size=3)
    changes = data.draw(st.dictionaries(keys, shapes(st.text(max_size=3)), min_size=1, max_size=2))
    place |= changes
    assert_read_or_refused(json.dumps(tree).encode(), run / file, read)


HARMFUL_YAML = {
    "deep": "[" * 400,
    "deep map": "a: " + "{a: " * 400,
    "bomb": "a0: &a0 [x, x]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
    "cycle": "data: &a\n  source: *a\n",
    "python object": "data: !!python/object/apply:os.system ['exit 7']\n",
    "python name": "data: !!python/name:os.system\n",
    "bool": "data: !!bool perhaps\n",
    "timestamp": "data: !!timestamp soon\n",
    "int": "data: !!int many\n",
    "set": "data: !!set {a, b}\n",
    "binary": "data: !!binary '*'\n",
    "digits": "epochs: " + "9" * 5000 + "\n",
    "half a character": 'path: "\\ud800"\n',
    "two documents": "a: 1\n---\nb: 2\n",
    "merge of nothing": "<<: 1\n",
    "constraints": "constraints: ['" + "(" * 500 + "']\noptim.lr: {choice: [1, 2]}\n",
    "wide range": "optim.lr: {uniform: [-1e308, 1e308]}\nconstraints: ['optim.lr < 1']\n",
    "wide whole range": "optim.images_per_step: {int: [1, 1e300]}\nconstraints: ['optim.images_per_step > 9']\n",
    "home of nobody": "path: ~nobody-here/x\ntrain: ~nobody-here/y\nval: a\nnames: [a]\n",
    "no name": f"path: {'a' * 5000}\ntrain: images\nval: images\nnames: [a]\n",
    "zero byte": 'path: "\\0"\ntrain: "\\0"\nval: "\\0"\nnames: [a]\n',
    "coco of itself": "path: .\nformat: coco\ntrain: images\nval: images\nnames: [a]\n"
    "annotations: {train: data.yaml, val: data.yaml, 1: data.yaml, test: ~nobody-here/x}\n",
    "device": "path: /dev\ntrain: zero\nval: zero\nnames: [a]\n",
}


@pytest.mark.parametrize("name", ["config", "space", "data"])  # the others are read alike
@pytest.mark.parametrize("kind", HARMFUL_YAML)
def test_yaml_that_was_built_to_do_harm_is_refused(
    kind: str, name: str, good: dict[str, Any], run: Path
) -> None:
    file, _, read = good[name]
    assert_read_or_refused(HARMFUL_YAML[kind].encode(), run / file, read)


@pytest.mark.parametrize("name", JSON_NAMES)
@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", "null", "3", '"a"', "[" * 10_000, '{"trials": [[]]}', "\udcff"]
)
def test_json_of_another_kind_is_refused(
    text: str, name: str, good: dict[str, Any], run: Path
) -> None:
    file, _, read = good[name]
    assert_read_or_refused(text.encode(errors="surrogateescape"), run / file, read)


def test_a_trial_whose_run_lies_elsewhere_is_refused(good: dict[str, Any], run: Path) -> None:
    file, content, read = good["trials"]
    (run / file).write_bytes(content.replace(b'"good-0000"', b'"../../elsewhere"'))
    with pytest.raises(ServiceError, match=r"trials\.json is damaged .*elsewhere"):
        read(run / file)
    (run / file).unlink()


@pytest.mark.timeout(20)
def test_pipes_devices_and_loops_of_links_do_not_hold_a_scan(run: Path) -> None:
    os.mkfifo(run / "pipe")
    for name in ("one", "two", "three"):
        (run / "images" / name).symlink_to(run / "images")
    for file in (run / "pipe", Path("/dev/zero")):
        for read in (
            lambda f: fetch_file(StoredImage(f)),
            lambda f: read_labels(f, 1),
            lambda f: list_images(f, f.parent),
        ):
            with pytest.raises(ServiceError, match=file.name):
                read(file)
    assert list_images(run / "images", run) == [run / "images" / "1.jpg"]
    for name in ("one", "two", "three"):
        (run / "images" / name).unlink()
