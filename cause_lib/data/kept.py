"""Items of a data set in a file that is gone when the run ends: what is judged several times is decoded once."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Kept:
    """Pictures and labels at an item's size, of the first items that fit; 5 bytes a pixel."""

    def __init__(self, folder: Path, side: int, room: float) -> None:
        """folder: for the file, which has no name there. side: of the items. room: bytes that it may have."""
        self.side, self.bytes, self.file = side, 5 * side**2 + 1, None  # the last byte says that the others are there
        self.fits = int(room / self.bytes)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = hasattr(os, "pread") and tempfile.TemporaryFile(dir=folder, prefix=".items.")  # not on Windows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": None}  # for a worker that is no fork of this process

    def get(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Picture (3, h, w) uint8 and label (h, w) int16, None where they are not kept."""
        if not self.file or index >= self.fits:
            return None
        found = bytearray(os.pread(self.file.fileno(), self.bytes, index * self.bytes))
        if len(found) < self.bytes or not found[-1]:
            return None
        values, pixels = torch.frombuffer(found, dtype=torch.uint8)[:-1], self.side**2
        return (values[2 * pixels:].view(3, self.side, self.side),
                values[:2 * pixels].view(torch.int16).view(self.side, self.side))

    def put(self, index: int, image: Tensor, label: Tensor) -> None:
        """Keep the item of this number; where there is no room, it is not kept."""
        if self.file and index < self.fits and int(label.max()) < 2**15:
            parts = label.short().contiguous(), image.contiguous()
            with suppress(OSError):
                os.pwrite(self.file.fileno(), b"".join(part.numpy().tobytes() for part in parts) + b"\1",
                          index * self.bytes)
