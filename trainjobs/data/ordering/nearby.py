"""Which positions of an order are near one: a mosaic's partners come from these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def round_about(position: int, length: int, window: int) -> range:
    """So many of `length` positions, half on either side of one; near an end, moved inside."""
    start = max(min(position - window // 2, length - window), 0)
    return range(start, min(start + window, length))


@dataclass(frozen=True, slots=True)
class StripePositions(Sequence[int]):
    """The positions of a stripe's images, by their offset in it."""

    offsets: range
    stripe: int
    stripes: int
    batch: int

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        turn, inside = divmod(self.offsets[index], self.batch)
        return (turn * self.stripes + self.stripe) * self.batch + inside
