"""Several heads from one pass of the backbone, against one head, against one pass each, and against the pass alone.

Published sizes (k 2048, p 2048, r 90, 100 projections a concept, one patch of every 4 x 4 block), features computed live.
Weights and pictures are random: neither changes what an update costs. How many concepts are in use does, and is set: of
2048 that are trained on small real sets, about 110 ever win a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F

from benchmarks.measure import Row
from cause_lib.backbones import Backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.runs.loop import session
from cause_lib.steps import head_run

TOGETHER, ONE, FLOOR, APART = "four heads, one pass", "TR alone", "backbone alone", "four heads, a pass each"

HEADS = {
    "TR": {"head": "tr"},
    "MLP": {"head": "mlp"},
    "TR, another threshold": {"head": "tr", "positive_threshold": 0.4},
    "MLP, another seed": {"head": "mlp", "seed": 1},
}


def case(form: str, device: str, *, b: int, size: int, depth: int, d: int, k: int, p: int, used: int
         ) -> Callable[[], None]:
    """A ViT of `depth` layers of width d on patches of 8; `used` concepts win tokens, and their banks are full."""
    shared = Experiment(dataset="camvid", image_size=size, train_size=size, batch_size=b, num_concepts=k,
                        projection_dim=p, order_seed=0, device=device)
    with session(shared) as accelerator:
        torch.manual_seed(0)
        images = torch.rand(b, 3, size, size, device=accelerator.device)
        vit = timm.models.vision_transformer.VisionTransformer(
            patch_size=8, embed_dim=d, depth=depth, num_heads=max(1, d // 64), num_classes=0, global_pool="",
            dynamic_img_size=True)
        backbone = Backbone(vit, name="random", image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3, weights_sha256="",
                            description="").to(accelerator.device)
        tokens = backbone(images).clone()  # (b, n, d)
        winners = tokens.flatten(0, 1)[torch.randperm(tokens.shape[0] * tokens.shape[1])[:used]]
        losers = -tokens.mean(dim=(0, 1)).expand(k - used, -1)
        grid = (size // 8, size // 8)
        runs = {name: head_run(shared.replace(**changes), Path(name), Clusterbook(torch.cat([winners, losers])),
                               accelerator, SimpleNamespace(grid=grid)) for name, changes in HEADS.items()}
        for run in runs.values():
            full = torch.arange(used, device=accelerator.device).repeat(shared.bank_capacity)
            run.state["bank"].update(F.normalize(torch.randn(len(full), p, device=accelerator.device), dim=-1), full)

    def step() -> None:
        if form in (FLOOR, APART):
            for _ in range(len(runs) if form == APART else 1):
                tokens = backbone(images)
        else:
            tokens = backbone(images)
        for name, run in runs.items():
            if form in (TOGETHER, APART) or (form == ONE and name == "TR"):
                run.update(tokens.clone(), 0)

    return step


def largest(*, b: int, size: int, d: int, k: int, **_: int) -> int:
    """Similarities of all tokens to all concepts."""
    return 4 * b * (size // 8)**2 * k


ROWS = [Row("an update of several heads", case, (TOGETHER, ONE, FLOOR, APART),
            {"b": 4, "size": 320, "depth": 12, "d": 384, "k": 2048, "p": 2048, "used": 110},
            {"b": 2, "size": 32, "depth": 1, "d": 16, "k": 20, "p": 8, "used": 3}, largest)]
CURVES: list = []
