"""What the live page should show, computed by the library's own functions from the weights in its ONNX file."""

import json
from pathlib import Path

import torch

from cause_lib.backbones import load_backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.masks import winners
from cause_lib.probes import ClusterProbe, LinearProbe, smooth
from cause_lib.runs.saved import restore_head

FOLDER = Path(__file__).resolve().parent.parent / "book/_static/live"
RECORD = json.loads((FOLDER / "live.json").read_text())


def stored_weights() -> dict:
    """Every named weight in the ONNX file by its name in the library, float32. Needs the package onnx."""
    import onnx

    found = {}
    for weights in onnx.load(FOLDER / "model.onnx").graph.initializer:
        tensor = torch.from_numpy(onnx.numpy_helper.to_array(weights).copy())
        name = weights.name.removesuffix(".T")
        found[name] = tensor.float().T.contiguous() if name != weights.name else tensor
    return found


def library():
    """A function from pixels uint8 (s, s, 3 or 4) to concepts (n,) and masks (2, s, s)."""
    weights, backbone, count = stored_weights(), load_backbone("bundled"), len(RECORD["classes"])
    head = {name.removeprefix("head."): value.float() for name, value in weights.items() if name.startswith("head.")}
    head = restore_head(head, (20, 20))
    book = Clusterbook(weights["book.prototypes"].float())
    lines, biases = weights["line.weight"], weights["line.bias"].float()
    clusters, linear = ClusterProbe(count, lines.shape[1], lines[:count]), LinearProbe(count, lines.shape[1])
    linear.weight.data, linear.bias.data = lines[count:], biases[count:]
    smoothing = RECORD["experiment"]["smoothing"]

    @torch.no_grad()
    def look(pixels):
        picture = torch.as_tensor(pixels)[..., :3].permute(2, 0, 1)[None].float() / 255
        tokens = backbone(picture)
        features = smooth(head(tokens), smoothing).mT.unflatten(2, (20, 20))
        return book.assign(tokens)[0], winners(features, picture.shape[2:], [clusters, linear])[0]

    return look


def agreement(found, expected) -> dict[str, float]:
    """Shares of patches, or of pixels, that are equal: {"concepts", "clusters", "linear probe"}."""
    concepts, masks = expected
    parts = [("concepts", found[0], concepts), *zip((one["name"] for one in RECORD["readouts"]), found[1], masks)]
    return {name: (torch.as_tensor(one) == other).double().mean().item() for name, one, other in parts}
