"""index.json of a packed dataset: what its shards hold, and how to tell that they are whole."""

import json
from dataclasses import asdict, dataclass

from cluster.config_io import from_dict
from cluster.errors import ConfigError, DatasetError
from trainjobs.data.packed.schema import FORMAT_VERSION

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One shard."""

    file: str
    """Name, beside the index."""
    num_images: int
    num_bytes: int
    sha256: str
    """Of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEntry:
    """One split."""

    shards: tuple[ShardEntry, ...]
    """In the order in which images are counted."""
    num_background: int
    """Images without objects."""
    num_boxes: tuple[int, ...]
    """Boxes of each class."""
    num_skipped: int
    """Images of the source that were left out."""
    largest_px: tuple[int, int]
    """Greatest height and greatest width."""

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(shard.num_images for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetIndex:
    """A packed dataset."""

    format_version: int
    names: tuple[str, ...]
    """Class names by class id."""
    fingerprint: str
    """Identifies what the dataset holds, wherever it lies and however it is cut into shards."""
    splits: dict[str, SplitEntry]


def dump_index(index: DatasetIndex) -> str:
    """As JSON."""
    return json.dumps(asdict(index), indent=1)


def parse_index(text: str, source: str) -> DatasetIndex:
    """From JSON.

    Args:
        text: content of an index.json.
        source: what errors call it.

    Raises:
        DatasetError: it is damaged, or of another format.
    """
    try:
        content = json.loads(text)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            reason = f"has format_version {version!r}, this is format {FORMAT_VERSION}; pack anew"
            raise DatasetError(source, reason)
        index = from_dict(DatasetIndex, content, source)
    except (ConfigError, ValueError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise DatasetError(source, f"is damaged ({reason})") from error
    _check(index, source)
    return index


def _check(index: DatasetIndex, source: str) -> None:
    for split, entry in index.splits.items():
        if not entry.shards:
            raise DatasetError(source, f"{split} has no shard")
        for shard in entry.shards:
            if "/" in shard.file or shard.file in ("", ".", ".."):
                raise DatasetError(
                    source, f"{split}: {shard.file!r} is no name of a file beside it"
                )
            if min(shard.num_images, shard.num_bytes) < 1:
                raise DatasetError(source, f"{shard.file} must have images and bytes")
        if len(entry.num_boxes) != len(index.names):
            raise DatasetError(source, f"{split}: num_boxes must have {len(index.names)} numbers")
