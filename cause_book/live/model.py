"""The network of the live page: one ONNX file of one picture size, from a canvas's bytes to what the page shows.

    pixels    uint8 (s, s, 4)    RGBA of a canvas; alpha is not looked at
    colors    uint8 (n, 3)       tokens along three axes of training scenes' tokens, as red, green and blue
    concepts  int32 (n,)         the clusterbook's prototype of each patch
    masks     int32 (2, s, s)    class ids: argmax of each read-out, clusters and a linear probe, upsampled bilinearly

The picture is seen once, not also mirrored as `Segmenter` does it: that would take twice as long. Weights that float16
holds exactly are stored so, and cast when the session starts; `bundled` is of that kind, and the rest is made so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook
from cause_lib.errors import RunError
from cause_lib.probes import smooth
from cause_lib.segmenter import Segmenter
from cause_lib.use.exported import forget_source

OUTPUTS = ("colors", "concepts", "masks")


class Graph(nn.Module):
    """What the file computes.

    Args:
        segments: Segmenters of one run, each with its read-out, whose clusters are matched to classes one to one.
        book: the run's clusterbook.
        origin, axes: (n, d), (3, d), see `principal_axes`.
    """

    def __init__(self, segments: Sequence[Segmenter], book: Clusterbook, origin: Tensor, axes: Tensor) -> None:
        super().__init__()
        first = segments[0]
        self.backbone, self.head, self.book, self.readouts = first.backbone, first.head, book, len(segments)
        self.smoothing, self.rows = first.smoothing, first.image_size // first.backbone.patch_size
        lines = [line_of(segment.probe, segment.assignment) for segment in segments]
        self.line = nn.Linear(*reversed(lines[0][0].shape))  # of all read-outs, row after row a class
        self.line.weight, self.line.bias = (nn.Parameter(torch.cat(parts)) for parts in zip(*lines))
        self.register_buffer("origin", origin.half().float())
        self.register_buffer("axes", axes)
        for module in (self.head, self.line, self.book):
            module.half().float()
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels uint8 (s, s, 4) -> colors uint8 (n, 3), concepts int32 (n,), masks int32 (2, s, s)."""
        picture = pixels[:, :, :3].permute(2, 0, 1)[None].float() / 255  # (1, 3, s, s)
        tokens = self.backbone(picture)  # (1, n, d)
        grid = (self.rows, self.rows)
        features = smooth(self.head(tokens, grid), self.smoothing)  # (1, n, r)
        scores = self.line(features).mT.unflatten(2, grid)  # (1, 2 c, rows, rows)
        scores = F.interpolate(scores, pixels.shape[:2], mode="bilinear", align_corners=False)  # (1, 2 c, s, s)
        masks = scores[0].unflatten(0, (self.readouts, -1)).argmax(dim=1)  # (2, s, s)
        return self.colors(tokens)[0], self.book.assign(tokens)[0].int(), masks.int()

    def colors(self, tokens: Tensor) -> Tensor:
        """tokens (..., n, d) -> uint8 (..., n, 3)."""
        return (255 * ((tokens - self.origin) @ self.axes.T + 0.5).clamp(0, 1)).round().to(torch.uint8)


def line_of(probe: nn.Module, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """A read-out as weights (c, r) and biases (c,), a class a row: a feature's largest product is its class."""
    weights = probe.weight if hasattr(probe, "weight") else F.normalize(probe.centroids, dim=-1)
    biases = probe.bias if hasattr(probe, "weight") else torch.zeros(len(weights))
    order = assignment.argsort()  # from class to cluster
    return weights[order], biases[order]


def principal_axes(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens (g, n, d) the mean at each place, (n, d), without which most of their variance is that of places, and
    three axes (3, d) of what is left: (tokens - origin) @ axes.T + 0.5 is in [0, 1] from percentile 1 to 99."""
    mean = tokens.mean(dim=0)  # (n, d)
    left = (tokens - mean).flatten(0, 1)  # (g n, d)
    directions = torch.linalg.eigh(left.double().T @ left.double()).eigenvectors.flip(1)[:, :3].T.float()  # (3, d)
    directions = directions * directions.sum(dim=1, keepdim=True).sign()  # eigenvectors have no sign of their own
    parts = (left @ directions.T).sort(dim=0).values  # (g n, 3)
    low, high = parts[round(0.01 * (len(parts) - 1))], parts[round(0.99 * (len(parts) - 1))]
    return mean + (low + high) / 2 @ directions, directions / (high - low)[:, None]


def write_onnx(graph: Graph, path: Path) -> None:
    """Writes the file. Raises RuntimeError where onnx or onnxscript is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RunError(f"{error.name} is not installed, which PyTorch needs to write ONNX: install the group "
                       "cause-book[onnx].") from error
    side = graph.rows * graph.backbone.patch_size
    pixels = torch.zeros(side, side, 4, dtype=torch.uint8)
    made = torch.onnx.export(graph, (pixels,), dynamo=True, input_names=["pixels"], output_names=list(OUTPUTS),
                             verbose=False)
    forget_source(made)
    model = made.model_proto
    turned = {weights.T.contiguous().numpy().tobytes(): name for name, weights in graph.named_parameters()
              if weights.ndim == 2}
    store_in_half(model.graph, turned)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def store_in_half(graph, turned: dict[bytes, str]) -> None:
    """In an ONNX graph, float32 weights that float16 holds exactly become float16 and a Cast; those that the exporter
    has transposed get their names back, and `.T`. turned: a name for the bytes of each."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    renamed, casts = {}, []
    for weights in graph.initializer:
        old, values = weights.name, numpy_helper.to_array(weights)
        name = f"{turned[key]}.T" if (key := values.tobytes()) in turned else old
        renamed[old] = name
        if values.dtype == np.float32 and values.size > 1 and np.array_equal(values.astype(np.float16), values):
            values, renamed[old] = values.astype(np.float16), f"{name}.float32"
            casts.append(helper.make_node("Cast", [name], [renamed[old]], to=TensorProto.FLOAT))
        weights.CopyFrom(numpy_helper.from_array(values, name))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    nodes = [*casts, *graph.node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
