"""Faulty pictures, labels and classes.json of `dataset="folder"`."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cause_lib.data import load_dataset
from faults.fault import Fault

SIZE = 16
RED, BLUE, GREEN, WHITE = (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255)


def open_folder(folder: Path, **options: Any):
    """The data set and all of its items."""
    dataset = load_dataset("folder", "train", image_size=SIZE, folder=str(folder), **options)
    return dataset, [dataset[i] for i in range(len(dataset))]


def drawing(width: int = 40, height: int = 40) -> Image.Image:
    """Left half red, right half blue, the upper left quarter green."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    pixels[: height // 2, : width // 2] = GREEN
    return Image.fromarray(pixels)


def noise(width: int = 48, height: int = 40) -> Image.Image:
    """A picture that no format compresses to nothing."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def is_item(item: dict) -> None:
    assert item["image"].shape == (3, SIZE, SIZE) and item["image"].dtype == torch.float32
    assert 0 <= item["image"].min() and item["image"].max() <= 1 and item["label"].shape == (SIZE, SIZE)


def corners(upper_left: tuple, upper_right: tuple, lower_left: tuple, lower_right: tuple) -> Callable:
    """Checks the colours of the four quarters of the one picture that is not `good.png`."""

    def check(result: tuple) -> None:
        dataset, items = result
        (item,) = [item for name, item in zip(dataset.names, items) if name != "good.png"]
        is_item(item)
        for (y, x), color in zip(((2, 2), (2, 13), (13, 2), (13, 13)),
                                 (upper_left, upper_right, lower_left, lower_right)):
            found = (item["image"][:, y, x] * 255).round()
            assert (found - torch.tensor(color)).abs().max() <= 12, (y, x, found, color)

    return check


AS_DRAWN = corners(GREEN, BLUE, RED, BLUE)


def shaped(count: int) -> Callable:
    """Checks that there are so many items, all of the right shape and range."""

    def check(result: tuple) -> None:
        assert len(result[1]) == count
        for item in result[1]:
            is_item(item)

    return check


def picture(kind: str, name: str, content: Any, check: Callable | None = None, *, file: str = "bad.png",
            either: bool = False) -> Fault:
    """A folder of two pictures, one of them good; content: bytes, or a function that makes the path."""

    def make(folder: Path) -> None:
        (folder / "images").mkdir()
        noise().save(folder / "images" / "good.png")
        path = folder / "images" / file
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return Fault(kind, name, make, open_folder, named=file, check=check, either=either,
                 skippable="" if check and not either else file)


def png(width: int, height: int, depth: int, color: int, rows: bytes, *, extra: bytes = b"", crc: int = 0) -> bytes:
    """A PNG file from its parts, true or not; crc is added to the header's checksum."""

    def chunk(name: bytes, body: bytes, wrong: int = 0) -> bytes:
        check = (zlib.crc32(name + body) + wrong) & 0xFFFFFFFF
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0), crc)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep(channels: int, color: int) -> bytes:
    """The drawing with 16 bits a channel: RGB, or RGB and full opacity."""
    pixels = np.asarray(drawing().convert("RGBA" if channels == 4 else "RGB")).astype(">u2") * 257
    return png(40, 40, 16, color, b"".join(b"\0" + row.tobytes() for row in pixels))


def _truncated() -> list[Fault]:
    forms = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}
    faults = []
    for suffix, form in forms.items():
        whole = encoded(noise(), form)
        for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
            faults.append(picture("truncated", f"{suffix} at {share:.0%}", whole[: int(share * len(whole))], shaped(2),
                                  file=f"bad.{suffix}", either=True))
        faults.append(picture("zero-byte", suffix, b"", file=f"bad.{suffix}"))
        middle = len(whole) // 2
        damaged = whole[:middle] + bytes(64) + whole[middle + 64 :]
        faults.append(picture("overwritten", suffix, damaged, shaped(2), file=f"bad.{suffix}", either=True))
    return faults


def _suffixes() -> list[Fault]:
    kind, faults = "wrong suffix", []
    for form, suffix in (("PNG", "jpg"), ("JPEG", "png"), ("WEBP", "jpg"), ("BMP", "png"), ("TIFF", "jpg"),
                         ("GIF", "png"), ("PNG", "webp"), ("PNG", "TIF")):
        options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
        faults.append(picture(kind, f"{form} as {suffix}", encoded(drawing(), form, **options), AS_DRAWN,
                              file=f"bad.{suffix}"))
    others = {"text": b"not a picture\n" * 20, "web page": b"<!doctype html><title>404</title>" * 9,
              "PDF": b"%PDF-1.7\n" + bytes(200), "zip": b"PK\x03\x04" + bytes(200), "program": b"\x7fELF" + bytes(200),
              "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "JSON": b'{"a": 1}', "PNG's first bytes": b"\x89PNG",
              "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}
    return faults + [picture(kind, f"{name} as png", content) for name, content in others.items()]


def _modes() -> list[Fault]:
    kind, drawn = "mode", drawing()
    grey = np.asarray(drawn.convert("L"))
    clear = drawn.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(grey == grey[0, 0], 0, 255).astype(np.uint8)))
    light = [tuple([int(value)] * 3) for value in (grey[0, 0], grey[0, -1], grey[-1, 0], grey[-1, -1])]
    ramp = grey.astype(np.uint16) * 257
    palette = drawn.quantize(8)
    pale = dict(transparency=palette.getpixel((2, 2)))
    cmyk = drawn.convert("CMYK")
    faults = [
        picture(kind, "grey png", encoded(drawn.convert("L"), "PNG"), corners(*light)),
        picture(kind, "grey jpg", encoded(drawn.convert("L"), "JPEG"), corners(*light), file="bad.jpg"),
        picture(kind, "16-bit grey png", encoded(Image.fromarray(ramp), "PNG"), corners(*light)),
        picture(kind, "16-bit grey tif", encoded(Image.fromarray(ramp), "TIFF"), corners(*light), file="bad.tif"),
        picture(kind, "16-bit big-endian tif", encoded(Image.frombytes("I;16B", (40, 40), ramp.astype(">u2").tobytes()),
                                                       "TIFF"), corners(*light), file="bad.tif"),
        picture(kind, "32-bit integer tif", encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"), corners(*light),
                file="bad.tif"),
        picture(kind, "16-bit RGB png", deep(3, 2), AS_DRAWN),
        picture(kind, "16-bit RGBA png", deep(4, 6), AS_DRAWN),
        picture(kind, "1-bit png", encoded(Image.fromarray(grey > 100), "PNG"), corners(WHITE, *[(0, 0, 0)] * 3)),
        picture(kind, "palette png", encoded(palette, "PNG"), AS_DRAWN),
        picture(kind, "palette with a clear colour", encoded(palette, "PNG", **pale), corners(WHITE, BLUE, RED, BLUE)),
        picture(kind, "palette bmp", encoded(palette, "BMP"), AS_DRAWN, file="bad.bmp"),
        picture(kind, "RGBA png", encoded(clear, "PNG"), corners(WHITE, BLUE, RED, BLUE)),
        picture(kind, "RGBA webp", encoded(clear, "WEBP", lossless=True), corners(WHITE, BLUE, RED, BLUE),
                file="bad.webp"),
        picture(kind, "RGBA tif", encoded(clear, "TIFF"), corners(WHITE, BLUE, RED, BLUE), file="bad.tif"),
        picture(kind, "grey with alpha", encoded(clear.convert("LA"), "PNG"), corners(WHITE, *light[1:])),
        picture(kind, "CMYK jpg", encoded(cmyk, "JPEG", quality=100, subsampling=0), AS_DRAWN, file="bad.jpg"),
        picture(kind, "CMYK tif", encoded(cmyk, "TIFF"), AS_DRAWN, file="bad.tif"),
        picture(kind, "YCbCr tif", encoded(drawn.convert("YCbCr"), "TIFF"), AS_DRAWN, file="bad.tif"),
        picture(kind, "LAB tif", encoded(Image.frombytes("LAB", (8, 8), bytes(192)), "TIFF"), shaped(2),
                file="bad.tif", either=True),  # newer Pillows turn it to RGB
        picture(kind, "float tif", encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"), file="bad.tif"),
        picture(kind, "float tif of NaN", encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
                file="bad.tif"),
    ]
    return faults


def _turned() -> list[Fault]:
    faults, upright = [], drawing()
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}
    for orientation in (*range(1, 9), 0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.transpose(back[orientation]) if orientation in back else upright
        for suffix, form, options in (("jpg", "JPEG", {"quality": 100, "subsampling": 0}), ("png", "PNG", {})):
            faults.append(picture("EXIF", f"orientation {orientation} in {suffix}",
                                  encoded(stored, form, exif=exif, **options), AS_DRAWN, file=f"bad.{suffix}"))
    for name, block in (("cut off", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), ("empty", b"Exif\0\0"),
                        ("garbage", b"Exif\0\0" + bytes(range(200))), ("endless", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"
                                                                     + b"\x03\0\xff\xff\xff\xff\xff\xff\xff\xff")):
        faults.append(picture("EXIF", f"block {name}", encoded(upright, "JPEG", exif=block, quality=100, subsampling=0),
                              AS_DRAWN, file="bad.jpg", either=True))
    return faults


def _animated() -> list[Fault]:
    frames = [Image.new("RGB", (40, 40), color) for color in (BLUE, WHITE)]
    options = {"save_all": True, "append_images": frames}
    return [picture("animated", name, encoded(drawing(), form, **options, **more), AS_DRAWN, file=f"bad.{suffix}")
            for name, form, suffix, more in (("gif as png", "GIF", "png", {}), ("webp", "WEBP", "webp",
                                             {"lossless": True}), ("apng", "PNG", "png", {}),
                                             ("tif of pages", "TIFF", "tif", {}))]


def _sizes() -> list[Fault]:
    faults = [picture("size", f"{width} x {height} {form}", encoded(noise(width, height), form), shaped(2),
                      file=f"bad.{form.lower()[:3]}")
              for width, height in ((1, 1), (1, 7), (7, 1), (2, 2), (20_000, 1), (1, 20_000), (20_000, 30))
              for form in ("PNG", "BMP")]
    headers = {
        "png": png(60_000, 60_000, 8, 2, b""), "bmp": encoded(noise(2, 2), "BMP")[:18]
        + struct.pack("<ii", 60_000, 60_000) + encoded(noise(2, 2), "BMP")[26:],
        "gif as png": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    }
    faults += [picture("bomb", f"{name} of billions of pixels", content, file=f"bad.{name[-3:]}")
               for name, content in headers.items()]
    rows = b"\0" * ((20_000 // 8 + 1) * 10_000)
    faults += [
        picture("bomb", "png of 200 million pixels in 25 kB", png(20_000, 10_000, 1, 0, rows)),
        picture("bomb", "text that unpacks to 200 MB", _with_text(200_000_000)),
        picture("broken parts", "png of no width", png(0, 9, 8, 2, b"")),
        picture("broken parts", "png of depth 3", png(9, 9, 3, 2, b"")),
        picture("broken parts", "png with a wrong checksum", png(1, 1, 8, 2, b"\0\1\2\3", crc=1)),
        picture("broken parts", "png with too few rows", png(9, 9, 8, 2, b"\0\1\2\3"), shaped(2), either=True),
        picture("broken parts", "png of rows that do not unpack", png(9, 9, 8, 2, b"").replace(b"x\x9c", b"\0\0"),
                shaped(2), either=True),
        picture("broken parts", "palette png without a palette", png(2, 1, 8, 3, b"\0\0\1"), shaped(2), either=True),
        picture("broken parts", "colour profile of garbage", encoded(drawing(), "PNG", icc_profile=b"garbage" * 9),
                AS_DRAWN),
    ]
    return faults


def _with_text(size: int) -> bytes:
    body = b"Comment\0\0" + zlib.compress(bytes(size))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return png(1, 1, 8, 2, b"\0\1\2\3", extra=chunk)


def _names() -> list[Fault]:
    names = {"accents": "été à Zürich.png", "Chinese": "照片.png", "an emoji": "🙂.png", "spaces": " my  picture .png",
             "a newline": "first\nsecond.png", "a tab": "a\tb.png", "quotes": "it's \"mine\".png", "percent": "50%s%d.png",
             "braces": "{folder}.png", "a dash first": "-rf.png", "a backslash": "a\\b.png", "200 letters": "x" * 200 + ".png",
             "two dots": "a..png", "a star": "*.png", "right to left": "\u202eabc.png", "no stem": "..png",
             "bytes that are no UTF-8": os.fsdecode(b"\xff\xfe.png"), "upper-case suffix": "A.PNG"}
    faults = [picture("name", name, encoded(drawing(), "PNG"), (shaped(1) if file.startswith(".") else AS_DRAWN),
                      file=file) for name, file in names.items()]
    return faults + [picture("name", f"{name}, and cut off", encoded(noise(), "PNG")[:99], file=names[name])
                     for name in ("accents", "Chinese", "spaces", "a newline", "quotes", "percent", "braces", "a star")]


def _places() -> list[Fault]:
    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def unix_socket(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)

    def loop(path: Path) -> None:
        path.symlink_to(path.with_name("other.link"))
        path.with_name("other.link").symlink_to(path)

    def good_link(path: Path) -> None:
        drawing().save(path.with_name("kept.there"), "PNG")
        path.symlink_to("kept.there")

    def locked(path: Path) -> None:
        drawing().save(path)
        path.chmod(0)

    faults = [picture("no file", name, make) for name, make in {
        "folder": lambda path: path.mkdir(), "pipe": fifo, "socket": unix_socket, "link to itself":
        lambda path: path.symlink_to(path.name), "loop of two links": loop, "link to nothing":
        lambda path: path.symlink_to("gone.png"), "link to a folder": lambda path: path.symlink_to("."),
        "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "link to /dev/null": lambda path: path.symlink_to("/dev/null")}.items()]
    reads_all = hasattr(os, "geteuid") and os.geteuid() == 0  # root does
    faults += [picture("no file", "nobody may read it", locked, AS_DRAWN if reads_all else None),
               picture("no file", "link to a picture", good_link, AS_DRAWN)]
    return faults


def _twins() -> list[Fault]:
    def two(first: str, second: str, labels: tuple[str, ...], folder: Path) -> None:
        for name in (first, second):
            (folder / "images").mkdir(exist_ok=True)
            drawing().save(folder / "images" / name)
        for name in labels:
            (folder / "labels").mkdir(exist_ok=True)
            Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "labels" / name)

    pairs = {"names that differ in case": ("a.png", "A.png", ("a.png", "A.png")),
             "suffixes that differ in case": ("a.png", "a.PNG", ("a.png",)),
             "one stem, two suffixes": ("a.png", "a.jpg", ("a.png",))}
    faults = [Fault("twins", name, partial(two, first, second, ()), open_folder, check=shaped(2))
              for name, (first, second, _) in pairs.items()]
    return faults + [Fault("twins", f"{name}, labelled", partial(two, *pair), open_folder, named=min(pair[:2]),
                           check=shaped(2) if len(pair[2]) == 2 else None) for name, pair in pairs.items()]


# --- labels and the list of classes ---

def label(name: str, content: Any, check: Callable | None = None, *, file: str = "bad.png", classes: Any = 3,
          kind: str = "label", picture_options: dict | None = None, named: str = "") -> Fault:
    """Two pictures of 40 x 40 with labels, one of them good; content: bytes, an array, or what makes the path."""

    def make(folder: Path) -> None:
        for part in ("images", "labels"):
            (folder / part).mkdir()
        noise(40, 40).save(folder / "images" / "good.png")
        drawing(*(picture_options or {}).get("size", (40, 40))).save(
            folder / "images" / "bad.jpg", **{key: value for key, value in (picture_options or {}).items()
                                              if key != "size"})
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / "labels" / "good.png")
        path = folder / "labels" / file
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            content(path)
        if classes is not None:
            (folder / "classes.json").write_text(json.dumps(["one", "two", "three"][:classes]))

    return Fault(kind, name, make, open_folder, named=named or "bad.", check=check, skippable="" if check else "bad.jpg")


def ids_are(ids: list[int], classes: int = 3) -> Callable:
    """Checks the ids of the label that is not `good.png`'s, -1 void, and the number of classes."""

    def check(result: tuple) -> None:
        dataset, items = result
        (item,) = [item for name, item in zip(dataset.names, items) if name != "good.png"]
        is_item(item)
        assert item["label"].unique().tolist() == ids and dataset.num_classes == classes

    return check


def _labels() -> list[Fault]:
    plain = np.zeros((40, 40), dtype=np.uint8)
    plain[20:] = 2
    colour = np.asarray(drawing())
    whole = encoded(Image.fromarray(plain), "PNG")
    busy = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 3, (40, 40), dtype=np.uint8)), "PNG")
    palette = Image.fromarray(plain).convert("P")
    palette.putpalette([*RED, *GREEN, *BLUE])
    exif = Image.Exif()
    exif[0x0112] = 6

    def tif(array: np.ndarray) -> bytes:
        return encoded(Image.fromarray(array), "TIFF")

    faults = [label(f"of {width} x {height} pixels", np.zeros((height, width), np.uint8))
              for width, height in ((39, 40), (40, 39), (1, 1), (80, 80), (40, 20))]
    faults += [label(f"id {number}", np.where(plain == 2, number, 0).astype(np.uint8)) for number in (3, 4, 100, 254)]
    faults += [label(f"{kind} picture in {form}", encoded(Image.fromarray(colour).convert(kind), form, **more))
               for kind, form, more in (("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("LA", "PNG", {}), ("CMYK", "TIFF", {}),
                                        ("RGB", "JPEG", {}))]
    faults += [label(f"cut off at {share:.0%}", busy[: int(share * len(busy))]) for share in (0.05, 0.3, 0.6)]
    faults += [
        label("16-bit id 300", np.where(plain == 2, 300, 0).astype(np.uint16)),
        label("negative ids", tif(np.where(plain == 2, -7, 0).astype(np.int32))),
        label("floating ids", tif(plain.astype(np.float32)), ids_are([0, 2])),
        label("floating fractions", tif(plain.astype(np.float32) / 3)),
        label("grey jpg, whose ids are smeared", encoded(drawing().convert("L"), "JPEG")),
        label("zero-byte", b""), label("text", b"0 0 1 1\n"), label("missing", None, ids_are([-1])),
        label("suffix in upper case", whole, ids_are([0, 2]), file="bad.PNG"),
        label("other suffix", whole, ids_are([0, 2]), file="bad.tif"),
        label("folder", lambda path: path.mkdir()), label("pipe", os.mkfifo),
        label("link to nothing", lambda path: path.symlink_to("gone.png")),
        label("link to itself", lambda path: path.symlink_to(path.name)),
        label("of the picture before it was turned", np.zeros((30, 40), np.uint8),
              picture_options={"size": (40, 30), "exif": exif}),
        label("a depth, without classes.json", np.where(plain == 2, 60_000, 0).astype(np.uint16), classes=None),
        label("plain", plain, ids_are([0, 2])), label("palette", encoded(palette, "PNG"), ids_are([0, 2])),
        label("16-bit", plain.astype(np.uint16), ids_are([0, 2])),
        label("1-bit", np.tril(np.ones((40, 40), bool)), ids_are([0, 1])),
        label("all void", np.full((40, 40), 255, np.uint8), ids_are([-1])),
        label("some void", np.where(plain == 2, 255, 1).astype(np.uint8), ids_are([-1, 1])),
        label("-1 for void", tif(np.where(plain == 2, -1, 1).astype(np.int32)), ids_are([-1, 1])),
        label("TIFF as png", tif(plain), ids_are([0, 2])),
        label("no classes.json", plain, ids_are([0, 2]), classes=None),
        label("id 200, without classes.json", np.where(plain == 2, 200, 0).astype(np.uint8), ids_are([0, 200], 201),
              classes=None),
    ]
    return faults


def listed(name: str, text: str | bytes, check: Callable | None = None) -> Fault:
    """A labelled folder with this classes.json."""

    def make(folder: Path) -> None:
        for part in ("images", "labels"):
            (folder / part).mkdir()
        drawing().save(folder / "images" / "a.png")
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / "labels" / "a.png")
        (folder / "classes.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    return Fault("classes.json", name, make, open_folder, named="a.png" if name == "too few names" else "classes.json",
                 check=check)


def _classes() -> list[Fault]:
    def named(*names: str) -> Callable:
        def check(result: tuple) -> None:
            assert result[0].classes == list(names)

        return check

    broken = {"empty": "", "cut off": '["sky", "se', "object": '{"sky": 0}', "number": "7", "null": "null", "text": '"sky"',
              "empty list": "[]", "numbers": "[0, 1]", "lists": '[["sky"], ["sea"]]', "null names": "[null, null]",
              "a name that is null": '[{"name": null}]', "a name that is a number": '[{"name": 3}]',
              "no names": '[{"color": [0, 0, 0]}]', "trailing comma": '["sky", "sea",]', "single quotes": "['sky']",
              "not UTF-8": '["Straße"]'.encode("latin-1"), "UTF-16": '["sky"]'.encode("utf-16"), "zeros": bytes(40),
              "100000 brackets": "[" * 100_000, "comments": '["sky"] // one', "too few names": '["sky"]'}
    colors = {"300": "[0, 0, 300]", "-1": "[0, 0, -1]", "two": "[0, 0]", "four": "[0, 0, 0, 255]", "halves":
              "[0.5, 0.5, 0.5]", "unknown": '"blueish"', "null": "null", "a number": "7", "infinite": "[1e999, 0, 0]",
              "NaN": "[NaN, 0, 0]", "30 digits": f"[{10 ** 30}, 0, 0]", "true": "[true, true, true]", "an object": '{"r": 1}'}
    faults = [listed(name, text) for name, text in broken.items()]
    faults += [listed(f"colour {name}", f'[{{"name": "sky", "color": {color}}}, "sea"]') for name, color in colors.items()]
    return faults + [
        listed("a mark before the text", b"\xef\xbb\xbf" + b'["sky", "sea"]', named("sky", "sea")),
        listed("escaped letters", '["Stra\\u00dfe", "sea"]', named("Straße", "sea")),
        listed("more names than ids", '["sky", "sea", "sand"]', named("sky", "sea", "sand")),
        listed("a colour by name", '[{"name": "sky", "color": "red"}, "sea"]', named("sky", "sea")),
    ]


def picture_faults() -> list[Fault]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*_truncated(), *_suffixes(), *_modes(), *_turned(), *_animated(), *_sizes(), *_names(), *_places(),
                *_twins(), *_labels(), *_classes()]
