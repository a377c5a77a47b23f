"""A Segmenter as one ONNX file, for onnxruntime on a computer, a telephone or in a browser.

    picture  float32 (1, 3, h, w)    RGB in [0, 1], h and w any multiples of the patch; normalised inside
    scores   float32 (1, c, h, w)    log-probability of each class, clusters already put in the classes' order
    mask     int64 (1, h, w)         class ids, the argmax

Inside are backbone, head and read-out, of the picture and of its mirror image, as calling the Segmenter computes them;
the CRF is not, nor the tiles of elongated pictures. The file's metadata say the rest: `classes`, `colors`, `patch`,
`image_size`, `resize` and `squash` as JSON, `rule` in words, `library`, `backbone` and its SHA-256.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cause_lib import tokens
from cause_lib.errors import InputError, Refusal, RunError
from cause_lib.masks import scores_by_pixel
from cause_lib.probes import mirror_mean
from cause_lib.runs.store import library_version, whole

RULE = ("bring the short side to image_size and the long side in proportion (squash: both to image_size), each rounded "
        "to the nearest multiple of patch; nearest means the pixel under the new pixel's centre")


class Graph(nn.Module):
    """What the file computes: picture (1, 3, h, w) -> scores (1, c, h, w) and mask (1, h, w)."""

    def __init__(self, segment: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.probe = segment.backbone, segment.head, segment.probe
        self.smoothing, self.assignment = segment.smoothing, segment.assignment.tolist()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """picture (1, 3, h, w) floating in [0, 1] -> scores (1, c, h, w), mask (1, h, w) int64."""
        grid = tuple(side // self.backbone.patch_size for side in picture.shape[2:])
        tokens = self.backbone(torch.cat([picture, picture.flip(-1)]))  # (2, n, d)
        features = mirror_mean(tokens[:1], tokens[1:], grid, self.head, self.smoothing)  # (1, r, rows, columns)
        scores = scores_by_pixel(features, picture.shape[2:], [self.probe])[:, 0]  # (1, clusters, h, w)
        owns = [[i for i, own in enumerate(self.assignment) if own == c] for c in range(len(self.assignment))]
        if all(len(own) == 1 for own in owns):
            scores = scores[:, [own[0] for own in owns]]  # (1, c, h, w)
        else:  # given by hand: several clusters of one class
            nobody = torch.full_like(scores[:, 0], -1e4)
            scores = torch.stack([scores[:, own].amax(dim=1) if own else nobody for own in owns], dim=1)
        return scores, scores.argmax(dim=1)


def write_onnx(segment: Any, path: Path) -> Path:
    """See `Segmenter.export`."""
    if path.suffix != ".onnx":
        raise InputError(f"{path} would not be known as what it is: give it a name that ends in .onnx.")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RunError(f"{error.name} is not installed, which PyTorch needs to write ONNX: install the group "
                       "cause-book[onnx], or onnx and onnxscript.") from error
    patch, native = segment.backbone.patch_size, {*segment.backbone.vit.patch_embed.grid_size}
    native |= {*getattr(segment.head, "grid", ())}
    rows, columns = [side for side in range(4, 12) if side not in native][:2]  # a size without rules of its own
    graph, training = Graph(segment), segment.head.training
    picture = torch.zeros(1, 3, rows * patch, columns * patch, device=segment.backbone.mean.device)
    try:
        sides = {axis: patch * torch.export.Dim(name, min=1, max=4096) for axis, name in ((2, "rows"), (3, "columns"))}
        with _any_size(), torch.no_grad():
            program = torch.export.export(graph.eval(), (picture,), dynamic_shapes=(sides,))
            other = torch.zeros(1, 3, (rows + 1) * patch, (columns + 2) * patch, device=picture.device)
            program.module()(other)  # raises where the tracer took a side for a constant, as timm's rotary positions do
            made = torch.onnx.export(program, dynamo=True, input_names=["picture"], output_names=["scores", "mask"],
                                     verbose=False)
    except Refusal:
        raise
    except Exception as error:  # of the tracer: a dozen kinds
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"PyTorch {torch.__version__} cannot write {segment.backbone.name} with this head as ONNX "
                       f"({type(error).__name__}: {reason}): try another version of PyTorch, or a "
                       "backbone with learned positions.") from error
    finally:
        segment.head.train(training)
    told = {"classes": segment.classes, "colors": segment.colors.tolist(), "patch": patch,
            "image_size": segment.image_size, "resize": segment.resize, "squash": segment.squash, "rule": RULE,
            "normalisation": "inside", "matched": segment.matched, "library": library_version(),
            "backbone": segment.backbone.name, "backbone_sha256": segment.backbone.weights_sha256}
    forget_source(made)
    made.model.metadata_props.update({key: json.dumps(value) for key, value in told.items()})
    with whole(path, "the ONNX file") as beside:
        made.save(beside, external_data=False)
    return path


def forget_source(made: Any) -> None:
    """Drops what PyTorch notes beside each node of its ONNX program: files and lines of the machine that wrote it."""
    for graph in (made.model.graph, *made.model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """While PyTorch traces, positions are resized by products of matrices: `resize_positions` asks whether the size is
    the native one, and a graph for all sizes has no place for the answer."""
    own = tokens.positions_at
    tokens.positions_at = positions_by_products
    try:
        yield
    finally:
        tokens.positions_at = own


def positions_by_products(positions: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 1, *,
                          rule: str = "dino") -> Tensor:
    """`tokens.resize_positions`, to its rounding, without a branch on the new size."""
    counts = [torch.ones(side, device=positions.device).sum() for side in new]  # as tensors
    native = torch.stack([count == of for count, of in zip(counts, old)]).all()
    add = 0.1 if rule == "dino" else 0.0
    products = [_cubic(of, side, torch.where(native, 1.0, (count + add) / of), rule == "antialiased")
                for of, side, count in zip(old, new, counts)]
    patches = positions[:, prefix:].unflatten(1, tuple(old)).float()  # (1, rows, columns, d)
    resized = torch.einsum("ir,jc,brcd->bijd", *products, patches)
    return torch.cat([positions[:, :prefix], resized.flatten(1, 2).to(positions.dtype)], dim=1)


def _cubic(old: int, new: int, scale: Tensor, antialias: bool) -> Tensor:
    """How much each of `old` places counts for each of `new`, bicubic as F.interpolate: (new, old) float32."""
    j = torch.arange(old, device=scale.device)
    centre = (torch.arange(new, device=scale.device) + 0.5) / scale - 0.5  # (new,) in old places
    if antialias:
        weights = _keys((j - centre[:, None]) * scale.clamp(max=1.0), -0.5)  # (new, old)
        return weights / weights.sum(dim=1, keepdim=True)
    first = centre.floor()
    taps = [(first + k).clamp(0, old - 1)[:, None].eq(j) * _keys(centre - first - k, -0.75)[:, None]
            for k in (-1, 0, 1, 2)]
    return sum(taps)


def _keys(x: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys 1981)."""
    x = x.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
