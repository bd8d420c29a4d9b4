"""The batched execution of sample plans, on any torch device: all samples of a batch by the same kernels.

It does what `augmentation.augment` and `augmentation.color` do, on the tensors of `samples.pack_batch`,
and never waits for the device. The number of kernels depends on the tiles a sample may have (4, or 9),
not on the samples; a large batch is drawn in pieces, to bound what they take of the device's memory.
"""

import torch
from torch import Tensor

from trainjobs.data.augmentation.augment import FILL
from trainjobs.task import Batch

PIECE_PX = 2**23
"""Output pixels drawn at a time, 20 images of 640 px: at about 120 bytes each they take 1 GB."""


def draw_batch(packed: Batch) -> Batch:
    """`images` (B, 3, H, W) uint8 and `targets` of a packed batch, on its device."""
    pixels = packed["pixels"]
    if "decoded" in packed:
        pixels = torch.cat([pixels, packed["decoded"]])
    columns, rows = packed["columns"], packed["rows"]
    images = _draw(pixels, packed["tiles"], packed["places"], rows, columns)
    if "mixed" in packed:
        others = _draw(pixels, packed["mixed_tiles"], packed["mixed_places"], rows, columns)
        share = packed["mixed_share"][:, None, None, None]
        mixed = images[packed["mixed"]].float() * (1 - share) + others * share
        images[packed["mixed"]] = _to_bytes(mixed)
    for piece, colors in _pieces(images, images, packed["colors"]):
        _change_colors(piece, colors)
    if "holes" in packed:
        images.masked_fill_(_covered(packed["holes"], rows, columns)[:, None], FILL)
    return {"images": images, "targets": packed["targets"]}


def _pieces(images: Tensor, *tables: Tensor) -> list[tuple[Tensor, ...]]:
    """Parts of tables along the samples, of at most PIECE_PX of `images`."""
    count = max(PIECE_PX // (images.shape[2] * images.shape[3]), 1)
    starts = range(0, len(images), count)
    return [tuple(table[start : start + count] for table in tables) for start in starts]


def _draw(pixels: Tensor, tiles: Tensor, places: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 of tiles (B, K, 21) and their places (B, K, 2); FILL where none shows."""
    shape = (len(tiles), 3, len(rows), len(columns))
    images = torch.empty(shape, dtype=torch.uint8, device=pixels.device)
    for piece, its_tiles, its_places in _pieces(images, images, tiles, places):
        x, y, slot = _find_pixels(its_tiles, rows, columns)
        place = its_places.gather(1, slot.clamp(min=0).flatten(1)[..., None].expand(-1, -1, 2))
        # Where no tile shows, x and y are 0; slot 0's first pixel may lie before the buffer.
        first, stride = (
            torch.where(slot.flatten(1)[..., None] >= 0, place, 0).view(*slot.shape, 2).unbind(3)
        )
        drawn = _interpolate(pixels, x, y, first, stride)
        piece.copy_(torch.where(slot[..., None] >= 0, drawn, FILL).permute(0, 3, 1, 2))
    return images


def _find_pixels(tiles: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each output pixel reads: x, y and the tile's slot (B, H, W); slot -1: nothing."""
    row, column = rows[:, None], columns
    x = tiles.new_zeros(len(tiles), len(rows), len(columns))
    y, slot = torch.zeros_like(x), torch.full_like(x, -1, dtype=torch.int64)
    for number, tile in enumerate(tiles[..., None, None].unbind(1)):
        table = tile.unbind(1)  # 21 of (B, 1, 1)
        depth = table[6] * column + (table[7] * row + table[8])
        tile_x = (table[0] * column + (table[1] * row + table[2])) / depth
        tile_y = (table[3] * column + (table[4] * row + table[5])) / depth
        left, top, right, bottom = table[9:13]
        shows = (tile_x >= left) & (tile_x < right) & (tile_y >= top) & (tile_y < bottom)
        left, top, right, bottom = table[17:21]
        shows &= (column > left) & (column < right) & ((row > top) & (row < bottom))
        left, top, right, bottom = table[13:17]
        x = torch.where(shows, tile_x.clamp(left, right - 1), x)
        y = torch.where(shows, tile_y.clamp(top, bottom - 1), y)
        slot.masked_fill_(shows, number)
    return x, y, slot


def _interpolate(pixels: Tensor, x: Tensor, y: Tensor, first: Tensor, stride: Tensor) -> Tensor:
    """Bilinear values (B, H, W, 3) uint8 of pixels (P, 3) at y * stride + x from `first` on."""
    whole_x, whole_y = x.floor(), y.floor()
    share_x, share_y = (x - whole_x)[..., None], (y - whole_y)[..., None]
    index = first + whole_y.long() * stride + whole_x.long()
    upper = torch.lerp(pixels[index].float(), pixels[index + 1].float(), share_x)
    index += stride
    lower = torch.lerp(pixels[index].float(), pixels[index + 1].float(), share_x)
    return _to_bytes(torch.lerp(upper, lower, share_y))


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _change_colors(images: Tensor, colors: Tensor) -> None:
    """In place, what `color.change_colors` does to each image, without blur and equalization."""
    saturation, value = colors[:, 9, None, None], colors[:, 10, None, None]
    turned = colors[:, :9].view(-1, 3, 3) @ images.flatten(2).float()  # (B, 3, H W)
    turned = turned.round_().clamp_(0, 255)
    brightest = turned.amax(dim=1, keepdim=True)
    missing = (value * saturation * (brightest - turned)).round_().clamp_(0, 255)
    changed = (value * brightest).round_().clamp_(0, 255) - missing
    images.copy_(changed.clamp_(min=0).view(images.shape))


def _covered(holes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, H, W) whether a pixel lies in one of the holes (B, J, 4)."""
    x1, y1, x2, y2 = holes[..., None].unbind(2)  # (B, J, 1)
    across = (columns > x1) & (columns < x2)  # (B, J, W)
    down = (rows > y1) & (rows < y2)
    return (down[..., None] & across[..., None, :]).any(dim=1)
