"""The fast network: its whitening, its shapes and how it begins."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainjobs.classifier import fast_net
from trainjobs.classifier.fast_net import NUM_FILTERS, Block, FastNet, whitening_filters

WIDTHS = (24, 32, 32)


def correlated_images(seed: int = 0) -> Tensor:
    """(8, 3, 16, 16): neighbors and colors resemble each other, as in photographs."""
    noise = torch.randn(8, 3, 18, 18, generator=torch.Generator().manual_seed(seed))
    smooth = functional.avg_pool2d(noise, 3, stride=1) * 3
    return smooth + smooth.mean(dim=1, keepdim=True) + 0.5


def responses(images: Tensor, filters: Tensor, offsets: Tensor) -> Tensor:
    """(12, patches), in float64."""
    return (
        functional.conv2d(images.double(), filters.double(), offsets.double())
        .transpose(0, 1)
        .flatten(1)
    )


def test_whitened_patches_are_uncorrelated_with_mean_0_and_variance_1() -> None:
    images = correlated_images()
    found = responses(images, *whitening_filters(images))
    covariance = found @ found.T / found.shape[1]
    # The epsilon on the variances shrinks them by up to 5e-4 of the least: about 0.02 here.
    torch.testing.assert_close(
        covariance.diagonal(), torch.ones(NUM_FILTERS).double(), rtol=0, atol=0.05
    )
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        found.mean(dim=1), torch.zeros(NUM_FILTERS).double(), rtol=0, atol=1e-4
    )


def test_images_of_one_color_give_finite_filters() -> None:
    filters, offsets = whitening_filters(torch.full((2, 3, 16, 16), 0.3))
    assert filters.isfinite().all() and offsets.isfinite().all()


def test_filters_do_not_depend_on_the_signs_that_a_library_gives_eigenvectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = correlated_images()
    filters, offsets = whitening_filters(images)
    eigh = torch.linalg.eigh

    def turned(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, vectors * torch.tensor([1.0, -1.0] * (NUM_FILTERS // 2)).double()

    monkeypatch.setattr(fast_net.torch.linalg, "eigh", turned)
    again, offsets_again = whitening_filters(images)
    assert torch.equal(filters, again) and torch.equal(offsets, offsets_again)


def test_each_filter_stands_with_both_signs_and_is_not_trained() -> None:
    model = FastNet(10, WIDTHS)
    model.whiten(correlated_images())
    for tensor in (model.whitening.weight, model.whitening.bias):
        assert tensor is not None
        assert torch.equal(tensor[:NUM_FILTERS], -tensor[NUM_FILTERS:]) and tensor.any()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "whitening.weight" not in trained and "whitening.bias" in trained


@pytest.mark.parametrize("side", [16, 17, 28, 32, 45])
@pytest.mark.parametrize("num_outputs", [2, 100])
def test_images_of_any_side_from_16_px_give_an_output_per_class(
    side: int, num_outputs: int
) -> None:
    model = FastNet(num_outputs, WIDTHS)
    assert model(torch.zeros(3, 3, side, side)).shape == (3, num_outputs)
    assert model(torch.zeros(2, 3, side, side + 7)).shape == (2, num_outputs)


def test_a_new_convolution_copies_its_input_into_its_first_channels() -> None:
    torch.manual_seed(0)
    block, images = Block(4, 6), torch.randn(2, 4, 8, 8)
    assert torch.equal(block.conv1(images)[:, :4], images)
    wide = torch.randn(2, 6, 8, 8)
    assert torch.equal(block.conv2(wide), wide)


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = FastNet(10, WIDTHS)
        model.whiten(correlated_images())
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
