"""The bundled backbone: its record, its scores, and what its tokens and its attention depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cause_book.verdicts.words import shares, table


def facts(card: Mapping[str, Any], file: str) -> str:
    """The record of the training as a table; card: of the weights; file: their name."""
    vit, settings = card["vit"], card["settings"]
    patches = (vit["image_size"] // vit["patch_size"]) ** 2
    rows = {
        "file": f"`{file}`, {card['bytes'] / 1e6:.1f} MB, {card['parameters'] / 1e6:.1f} million parameters in 16 bits",
        "SHA-256": f"`{card['sha256']}`",
        "architecture": f"{vit['depth']} blocks of width {vit['dim']}, {vit['num_heads']} heads, patches of "
                        f"{vit['patch_size']} pixels, {patches} tokens at {vit['image_size']} pixels",
        "training data": f"{settings['pictures']} generated scenes of the split `{settings['split']}`, on which no "
                         "chapter evaluates; no labels",
        "command": f"`{card['command']}`", "seed": str(settings["seed"]),
        "updates": f"{card['steps']} of {settings['batch_size']} pictures each",
        "device": f"{card['device']}, {card['precision']}", "duration": f"{card['seconds'] / 60:.0f} minutes",
        "versions": f"library {card['library']}, torch {card['torch']}", "licence": "that of the library",
    }
    return table([{" ": name, "  ": value} for name, value in rows.items()])


def scores(of: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The change of mIoU by training, by each probe; of: "random", "trained" -> probe -> miou as a fraction."""
    changes = [f"by {probe} from {100 * before['miou']:.1f} to {100 * of['trained'][probe]['miou']:.1f} % "
               f"({100 * (of['trained'][probe]['miou'] - before['miou']):+.1f} points)"
               for probe, before in of["random"].items()]
    return f"From random weights to the trained network, mIoU changes {'; '.join(changes)}. This is one training run."


def variance(tokens: Mapping[str, Tensor], grid: tuple[int, int]) -> str:
    """The shares of the variance of tokens between pictures and between rows.

    tokens: network -> (g, n, d)
    grid: rows and columns of patches, n in all
    """
    found = {name: shares(x, grid) for name, x in tokens.items()}
    return "; ".join(f"**{name}**: picture {each['picture']:.0%}, row {each['row']:.0%}"
                     for name, each in found.items()) + "."


def overlap(look: Tensor, grid: tuple[int, int], seed: int) -> tuple[float, float, float]:
    """Of attention (n, n): the part that two random patches share, that to the own place, and that of uniform
    attention to it. The own place is a patch and its eight neighbours.

    look: (n, n), at least 0
    grid: rows and columns of patches
    seed: of the pairs
    """
    rows = look / look.sum(1, keepdim=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:200]
    first, second = order[:len(order) // 2 * 2].view(2, -1)
    y, x = torch.arange(len(rows)) // grid[1], torch.arange(len(rows)) % grid[1]
    near = (y[:, None] - y).abs().maximum((x[:, None] - x).abs()) <= 1
    return (float(torch.minimum(rows[first], rows[second]).sum(1).mean()), float((rows * near).sum(1).mean()),
            float(near.double().mean()))


def attention(looks: Sequence[Tensor], grid: tuple[int, int], seed: int) -> str:
    """How much of the attention is common to the patches of a picture; looks: (n, n) of each picture."""
    common, near, even = torch.tensor([overlap(look, grid, seed) for look in looks]).mean(0).tolist()
    most = "common to all patches of a picture" if common > 0.5 else "specific to a patch"
    return (f"Two random patches of a picture share {common:.0%} of their attention (mean over {len(looks)} pictures). "
            f"A patch gives {near:.0%} of its attention to itself and its neighbours; uniform attention gives them "
            f"{even:.1%}. Most of the attention is {most}.")
