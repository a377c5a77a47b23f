"""The network of the live page: one ONNX file of one picture size, from a canvas's bytes to what the page shows.

    pixels    uint8 (s, s, 4)    RGBA of a canvas; alpha is not looked at
    colors    uint8 (n, 3)       tokens along three principal components of training scenes' tokens, as red, green, blue
    concepts  int32 (n,)         the clusterbook's prototype of each patch
    mask      int32 (s, s)       class ids: argmax of the read-out at features upsampled bilinearly

The picture is seen once, not also mirrored as `Segmenter` does it: that would take twice as long. Weights that float16
holds exactly are stored so, and cast when the session starts; `bundled` is of that kind, and the rest is made so.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook
from cause_lib.errors import RunError
from cause_lib.probes import smooth
from cause_lib.segmenter import Segmenter

OUTPUTS = ("colors", "concepts", "mask")


class Graph(nn.Module):
    """What the file computes, of a Segmenter, its clusterbook and an origin and three axes: (d,), (3, d)."""

    def __init__(self, segment: Segmenter, book: Clusterbook, origin: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.backbone, self.head, self.probe, self.book = segment.backbone, segment.head, segment.probe, book
        self.smoothing, self.rows = segment.smoothing, segment.image_size // segment.backbone.patch_size
        for name, value in (("origin", origin), ("axes", axes), ("assignment", segment.assignment)):
            self.register_buffer(name, value)
        for module in (self.head, self.probe, self.book):
            module.half().float()
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels uint8 (s, s, 4) -> colors uint8 (n, 3), concepts int32 (n,), mask int32 (s, s)."""
        picture = pixels[:, :, :3].permute(2, 0, 1)[None].float() / 255  # (1, 3, s, s)
        tokens = self.backbone(picture)  # (1, n, d)
        grid = (self.rows, self.rows)
        features = smooth(self.head(tokens, grid), self.smoothing)  # (1, n, r)
        scores = self.probe.products(features).mT.unflatten(2, grid)  # (1, c, rows, rows)
        scores = F.interpolate(scores, pixels.shape[:2], mode="bilinear", align_corners=False)  # (1, c, s, s)
        mask = self.assignment[scores.argmax(dim=1)[0]]  # (s, s)
        return self.colors(tokens[0]), self.book.assign(tokens)[0].int(), mask.int()

    def colors(self, tokens: Tensor) -> Tensor:
        """tokens (n, d) -> uint8 (n, 3)."""
        return (255 * ((tokens - self.origin) @ self.axes.T + 0.5).clamp(0, 1)).round().to(torch.uint8)


def principal_axes(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens (m, d) the origin (d,) and three axes (3, d), so that (tokens - origin) @ axes.T + 0.5 is in [0, 1] from
    percentile 1 to percentile 99."""
    mean = tokens.mean(dim=0)
    directions = torch.linalg.eigh(torch.cov(tokens.T.double())).eigenvectors.flip(1)[:, :3].T.float()  # (3, d)
    directions = directions * directions.sum(dim=1, keepdim=True).sign()  # eigenvectors have no sign of their own
    low, high = torch.quantile((tokens - mean) @ directions.T, torch.tensor([0.01, 0.99]), dim=0)
    axes = directions / (high - low)[:, None]
    return mean + (low + high) / 2 @ directions, axes


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
    model = made.model_proto
    turned = {weights.T.contiguous().numpy().tobytes(): name for name, weights in graph.named_parameters()
              if weights.ndim == 2}
    store_in_half(model.graph, turned)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def store_in_half(graph, turned: dict[bytes, str]) -> None:
    """In an ONNX graph, float32 weights that float16 holds exactly become float16 and a Cast; those that the exporter has
    transposed get their names back, and `.T`. turned: a name for the bytes of each."""
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
