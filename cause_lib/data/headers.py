"""What a picture's header says, and whether its file is whole, without decoding it: a look at very many files.

Pillow reads size, mode and bits from the first bytes. A file that was cut off lacks its end, which is its last bytes in
JPEG, PNG and GIF, and its stated length in WebP; a file that looks wrong so is decoded, and the decoder has the last
word. Of other kinds the header alone is looked at.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import ExifTags, Image
from tqdm.auto import tqdm

from cause_lib.data.images import read_picture

if TYPE_CHECKING:
    from cause_lib.data.source import PictureFiles

KINDS = {"1": "grey", "L": "grey", "I": "grey", "P": "palette", "RGB": "colour", "RGBA": "colour with alpha",
         "LA": "grey with alpha", "PA": "palette with alpha", "F": "floating point"}
LABEL_KINDS = ("grey", "palette", "colour")  # taken by their header; labels of any other kind are decoded


class Header(NamedTuple):
    """What the first bytes of a picture file say."""

    size: tuple[int, int]  # width and height in pixels, upright
    kind: str  # "grey, 8 bits"
    turned: bool  # by the camera's mark (EXIF)
    whole: bool  # its end is there, as far as that shows without decoding


class Look(NamedTuple):
    """A picture and its label: their headers, None where there is none, and why a run would refuse them, or ""."""

    image: Header | None
    label: Header | None
    fault: str


def read_header(path: Path) -> Header:
    """The header of a picture file. Raises as `images.load_image`."""

    def said(picture: Image.Image, layout: str) -> Header:
        # of a PNG without its mark at the start, Pillow would decode all to look for one at the end
        marked = picture.format != "PNG" or "exif" in picture.info
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1) if marked else 1
        base, found = picture.mode.split(";")[0], re.search(r"\w;(\d+)", f"{layout} {picture.mode}")
        bits = {"1": 1, "F": 32}.get(base) or (int(found[1]) if found else 32 if base == "I" else 8)
        size = picture.size[::-1] if turn in (5, 6, 7, 8) else picture.size
        return Header(size, f"{KINDS.get(base, base)}, {bits} bit{'s' * (bits > 1)}", turn in range(2, 9), True)

    return read_picture(path, said, pixels=False)._replace(whole=has_end(path))


def has_end(path: Path) -> bool:
    """Whether the end of a JPEG, PNG, GIF or WebP file is there; of any other kind, True."""
    with path.open("rb") as file:
        start, size = file.read(12), path.stat().st_size
        file.seek(max(0, size - 32))
        end = file.read().rstrip(b"\0\r\n ")
    if start.startswith(b"RIFF"):
        return int.from_bytes(start[4:8], "little") + 8 <= size
    marks = {b"\xff\xd8": end.endswith(b"\xff\xd9"), b"\x89PNG": b"IEND" in end, b"GIF8": end.endswith(b";")}
    return next((there for mark, there in marks.items() if start.startswith(mark)), True)


def look_at(files: "PictureFiles", *, full: bool = False) -> Sequence[Look]:
    """A `Look` for every picture; those that look wrong are decoded, or all if `full`, and faults are the run's own."""

    def look(index: int) -> Look:
        image = label = None
        try:
            image = read_header(files.images[index])
            path = files.labels[index] if files.labels else None
            label = read_header(path) if path else None
            if (full or not image.whole or "float" in image.kind or label and not (
                    label.whole and label.size == image.size and label.kind.split(",")[0] in LABEL_KINDS)):
                files(index)
        except (ValueError, OSError) as error:
            return Look(image, label, str(error))
        return Look(image, label, "")

    count = len(files.images)
    with ThreadPoolExecutor(8) as pool:
        return list(tqdm(pool.map(look, range(count)), total=count, desc="headers", unit="file", delay=2, leave=False))
