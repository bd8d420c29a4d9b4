"""What a first launch fixes, and what a resumed run may change (recipe, section 4)."""

import dataclasses
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import RunError
from tests.builders import make_config
from trainjobs.config import TrainConfig
from trainjobs.resolve import build_plan, fit_batch, resolve_launch, resolve_resume

quick = settings(deadline=None, max_examples=30)


def launched(changes: dict[str, object] | None = None, world_size: int = 2) -> TrainConfig:
    return resolve_launch(make_config({"run_name": "r", **(changes or {})}), world_size=world_size)


def test_a_batch_larger_than_the_dataset_is_reduced_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit_batch(make_config(), 5).batch_size_per_worker == 5
    assert "batch_size_per_worker is 16, the training split has 5 images: using 5" in caplog.text


def test_a_batch_that_fits_is_kept_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    config = make_config()
    assert fit_batch(config, 16) is config
    assert caplog.text == ""


def test_the_first_launch_fixes_what_depends_on_the_number_of_workers() -> None:
    optim = launched({"batch_size_per_worker": 8}, world_size=3).optim
    # 8 * 3 = 24 images a forward; round(64 / 24) = 3 of them; 100 forwards of warmup.
    assert optim.images_per_step == 72
    assert optim.warmup_min_images == 2400
    assert optim.warmup_micro_batches == 3


def test_what_the_user_gives_is_kept_as_given() -> None:
    given = {
        "optim.images_per_step": 50,
        "optim.warmup_min_images": 0,
        "optim.warmup_micro_batches": 7,
    }
    config = make_config(given)
    assert resolve_launch(config, world_size=4) == config


def test_accumulate_is_per_rank_and_images_per_step_overrides_it() -> None:
    assert launched({"optim.accumulate": 3}).optim.images_per_step == 3 * 16 * 2
    both = launched({"optim.accumulate": 3, "optim.images_per_step": 10})
    assert both.optim.images_per_step == 10


@quick
@given(first=st.integers(1, 16), later=st.integers(1, 16))
def test_resolving_again_with_any_number_of_workers_changes_nothing(first: int, later: int) -> None:
    config = launched(world_size=first)
    assert resolve_launch(config, world_size=later) == config


@quick
@given(first=st.integers(1, 8), later=st.integers(1, 8))
def test_a_resume_with_any_number_of_workers_keeps_every_step(first: int, later: int) -> None:
    config = launched(world_size=first)
    resumed = resolve_resume(make_config({"run_name": "r"}), config)
    plans = [
        build_plan(c, num_images=200, world_size=w) for c, w in ((config, first), (resumed, later))
    ]
    assert list(plans[0].steps(0)) == list(plans[1].steps(0))
    assert [plan.world_size for plan in plans] == [first, later]


def test_a_resume_takes_epochs_resources_and_tracking_as_asked() -> None:
    changes = {
        "epochs": 7,
        "resources.num_workers": 5,
        "resources.storage": "/elsewhere",
        "tracking.uri": "http://mlflow",
    }
    saved = launched()
    resumed = resolve_resume(make_config({"run_name": "r", **changes}), saved)
    asked = make_config(changes)
    expected = dataclasses.replace(
        saved, epochs=7, resources=asked.resources, tracking=asked.tracking
    )
    assert resumed == expected


def test_a_resume_with_other_settings_names_each_with_both_values() -> None:
    with pytest.raises(RunError) as raised:
        resolve_resume(make_config({"optim.lr": 0.5, "seed": 3}), launched())
    message = str(raised.value)
    assert "optim.lr: 0.01 in the run, 0.5 asked" in message
    assert "seed: 0 in the run, 3 asked" in message
    assert message.startswith("run r exists with other settings") and "--run-name" in message
    assert "images_per_step" not in message


def test_a_resume_that_asks_for_other_images_per_step_is_an_error() -> None:
    with pytest.raises(RunError, match=r"optim\.images_per_step: 64 in the run, 32 asked"):
        resolve_resume(make_config({"optim.images_per_step": 32}), launched())


def test_a_resume_with_the_resolved_values_themselves_is_fine() -> None:
    saved = launched()
    assert resolve_resume(saved, saved) == saved


def test_the_plan_warms_up_for_the_longer_of_epochs_and_images() -> None:
    config = launched({"optim.warmup_epochs": 2.5}, world_size=1)
    assert build_plan(config, num_images=1000, world_size=1).warmup_images == 2500
    assert build_plan(config, num_images=100, world_size=1).warmup_images == 1600


def test_the_plan_takes_its_numbers_from_the_config() -> None:
    plan = build_plan(launched(world_size=2), num_images=640, world_size=4)
    assert (plan.num_images, plan.images_per_step, plan.batch_size_per_worker) == (640, 64, 16)
    assert (plan.warmup_micro_batches, plan.world_size) == (2, 4)
