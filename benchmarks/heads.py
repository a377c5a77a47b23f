"""Several heads from one backbone pass, against one head: seconds an update, features computed live (nothing cached).

    one   = backbone's forward + update of a TR head
    four  = backbone's forward + updates of four heads, two TR and two MLP, on the same tokens

at published sizes (k 2048, p 2048, r 90, 100 projections a concept, one patch of every 4 x 4 block), with random
weights and pictures: neither changes what an update costs, but how many concepts are in use does, and is set. The parts
are timed one after the other in every round, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F

from cause_lib.backbones import Backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.stages import head_run
from cause_lib.training import session

HEADS = {
    "TR": {"head": "tr"},
    "MLP": {"head": "mlp"},
    "TR, another threshold": {"head": "tr", "positive_threshold": 0.4},
    "MLP, another seed": {"head": "mlp", "seed": 1},
}


def heads_from_one_pass(architecture: str = "vit_small_patch8_224", *, image_size: int = 320, batch_size: int = 4,
                        concepts_used: int = 110, rounds: int = 3, device: str = "auto",
                        precision: str = "no") -> dict[str, float]:
    """Medians over `rounds`, after one that does not count.

    Args:
        architecture: a timm ViT (vit_small_patch8_224: the one of dino_vits8). batch_size: pictures an update.
        concepts_used: concepts that ever win a token, their banks full from the start; after training on small real
            sets these are about 110 of the 2048.

    Returns:
        Seconds of `backbone` and of each of `HEADS`, of `one` and `four`; `ratio`, the median of four / one.
    """
    shared = Experiment(dataset="camvid", backbone=architecture, image_size=image_size, train_size=image_size,
                        batch_size=batch_size, order_seed=0, device=device, precision=precision)
    with session(shared) as accelerator:
        images = torch.rand(batch_size, 3, image_size, image_size, device=accelerator.device)
        vit = timm.create_model(architecture, num_classes=0, global_pool="", dynamic_img_size=True)
        backbone = Backbone(vit, name=architecture, image_size=image_size, mean=(0.5,) * 3, std=(0.5,) * 3,
                            weights_sha256="", description="").to(accelerator.device)
        side = image_size // backbone.patch_size

        def see() -> torch.Tensor:
            with accelerator.autocast():
                return backbone(images).float()

        tokens = see()  # (b, n, d)
        winners = tokens.flatten(0, 1)[torch.randperm(tokens.shape[0] * tokens.shape[1])[:concepts_used]]
        losers = -tokens.mean(dim=(0, 1)).expand(shared.num_concepts - concepts_used, -1)
        book = Clusterbook(torch.cat([winners, losers]))
        runs = {name: head_run(shared.replace(**changes), Path(name), book, accelerator,
                               SimpleNamespace(grid=(side, side))) for name, changes in HEADS.items()}
        for run in runs.values():
            full = torch.arange(concepts_used, device=accelerator.device).repeat(shared.bank_capacity)
            noise = torch.randn(len(full), shared.projection_dim, device=accelerator.device)
            run.state["bank"].update(F.normalize(noise, dim=-1), full)

        seconds: dict[str, list[float]] = {name: [] for name in ("backbone", *runs)}
        for step in range(rounds + 1):
            tokens, spent = _timed(see)
            seconds["backbone"].append(spent)
            for name, run in runs.items():
                seconds[name].append(_timed(lambda update=run.update: update(tokens, step))[1])
    one = [sum(parts) for parts in zip(seconds["backbone"], seconds["TR"])]
    four = [sum(parts) for parts in zip(*seconds.values())]
    seconds |= {"one": one, "four": four, "ratio": [many / single for many, single in zip(four, one)]}
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _timed(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    started = time.perf_counter()
    result = work()
    if result.is_cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    for part, value in heads_from_one_pass().items():
        print(f"{part:24} {value:8.3f}")
