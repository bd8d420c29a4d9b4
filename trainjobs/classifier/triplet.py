"""A loss that trains an embedding: images of one class come near each other, others apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class TripletLoss(nn.Module):
    """mean over triplets of max(d_pos^2 - d_neg^2, t1) + beta max(d_pos^2, t2).

    Every image with another of its class and one of another class is a triplet; d are distances of
    embeddings of length 1, so squares lie in [0, 4]. It takes O(B^2) memory for a micro-batch of B, and
    never waits for the device.

    Source: Cheng et al. 2016, "Person Re-Identification by Multi-Channel Parts-Based CNN with Improved
    Triplet Loss Function", equation 4, whose limits and weight are the defaults.
    """

    def __init__(
        self, t1: float = -1.0, t2: float = 0.01, beta: float = 0.002, embedding_size: float = 64
    ) -> None:
        """Set the limits.

        Args:
            t1: a triplet whose d_pos^2 - d_neg^2 is below this is learned.
            t2: a pair whose d_pos^2 is below this is near enough.
            beta: weight of the pairs.
            embedding_size: outputs of the network; a whole number.

        Raises:
            ValueError: embedding_size is none.
        """
        super().__init__()
        if embedding_size < 1 or embedding_size != int(embedding_size):
            raise ValueError(f"embedding_size must be a whole number >= 1, got {embedding_size!r}")
        self.t1, self.t2, self.beta = t1, t2, beta
        self.embedding_size = int(embedding_size)

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        """Loss of embeddings (B, E) of images of `classes` (B,); 0 if there is no triplet."""
        unit = functional.normalize(outputs.float())
        squares = 2 - 2 * unit @ unit.T  # (B, B)
        is_same = classes[:, None] == classes[None]
        is_pair = is_same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
        # Of a pair's triplets, those with the nearest others are above t1: of a sorted row, its first.
        nearest = squares.masked_fill(is_same, torch.inf).sort(dim=1).values
        num_above = torch.searchsorted(nearest.detach(), squares.detach() - self.t1)
        sums = functional.pad(nearest.masked_fill(nearest.isinf(), 0).cumsum(dim=1), (1, 0))
        num_others = (~is_same).sum(dim=1, keepdim=True)
        terms = num_above * squares - sums.gather(1, num_above)
        terms = terms + (num_others - num_above) * self.t1
        terms = terms + self.beta * num_others * squares.clamp(min=self.t2)
        return (terms * is_pair).sum() / (is_pair * num_others).sum().clamp(min=1)
