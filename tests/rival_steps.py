"""Short trainings of STEGO, HP and IIC on drawn tokens, and the table of book/labels.md that they fill.

    PYTHONPATH=. python tests/rival_steps.py cause_book/results/labels.csv

Written from the equations of the papers and the settings of the released code (mhamilton723/STEGO eb4d6b521740,
hynnsk/HP 8913644608c0, xu-ji/IIC b7602b743552); losses and heads of STEGO and HP are those of cause_rivals.
Where training uses labels, and where it detaches, is as released unless a parameter says otherwise. Left out, since no
label is near them: STEGO's and IIC's photometric views, HP's consistency term, half precision.

Axes: b pictures, d width of tokens, r of codes, h w the grid, N = b h w patches, c classes.
"""

from __future__ import annotations

import copy
import sys
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
import vectors
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cause_lib.heads import ema_update
from cause_lib.runs.loop import descend
from cause_rivals.heads import Centroids, ChannelHead, drop_channels
from cause_rivals.iic import iic_loss
from cause_rivals.positives import hidden_positives_loss, neighbour_weights
from cause_rivals.stego import Settings, stego_loss
from cause_rivals.views import nearest_views, others_of
from workflow.labels import compare, label_share

B, D, R, SIDE, C, BATCH = 16, 24, 12, 8, 5, 8  # of the drawn tokens
COLUMNS = ["method", "training", "part", "updates", "largest", "percent", "source"]


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens (B, D, SIDE, SIDE) of blocks of C kinds with noise, and labels (B, 2 SIDE, 2 SIDE), some void (-1)."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, C, (B, 1, 4, 4), generator=generator).float()
    kinds = F.interpolate(kinds, SIDE, mode="nearest")[:, 0].long()
    tokens = torch.randn(C, D, generator=generator)[kinds].permute(0, 3, 1, 2)
    tokens = tokens + 0.7 * torch.randn(tokens.shape, generator=generator)
    labels = kinds.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return tokens, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.1, -1)


class Probes(nn.Module):
    """The linear probe and the centroids that STEGO and HP train beside the head, on its codes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.own = nn.Linear(R, C), Centroids(C, R)

    def losses(self, codes: Tensor, labels: Tensor, detach: bool) -> Tensor:
        """Cross-entropy of the linear probe, and minus the cosine to the nearest centroid; codes (b, n, r)."""
        logits = self.linear(codes.detach() if detach else codes).mT.unflatten(2, (SIDE, SIDE))
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear")
        return F.cross_entropy(logits, labels, ignore_index=-1) + self.own.loss(codes)


def named(**modules: nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{key}": value.detach().clone() for part, module in modules.items()
            for key, value in module.state_dict().items()}


# --- STEGO ---

def stego(labels: Tensor, *, detach: bool = True, updates: int = 20, choose: bool = False):
    """STEGO on drawn tokens: three Adams, nothing clipped. `choose`: keep the checkpoint with the best accuracy."""
    tokens = drawn()[0].flatten(2).mT  # (B, n, D)
    torch.manual_seed(0)
    head, probes, settings = ChannelHead(D, R), Probes(), Settings(samples=5)
    start = named(head=head, probe=probes)
    adam = torch.optim.Adam([{"params": [*head.parameters()], "lr": 5e-4},
                             {"params": [*probes.parameters()], "lr": 5e-3}])
    near = nearest_views(tokens.mean(dim=1), settings.knn)  # (B, 7)
    best, kept, drawing = -1.0, start, torch.default_generator
    for step in range(updates):
        batch = torch.randperm(B)[:BATCH]
        pair = tokens[batch], tokens[near[batch, torch.randint(0, settings.knn, (BATCH,))]]
        at = torch.rand(2, BATCH, settings.samples**2, 2) * 2 - 1
        others = [others_of(BATCH, drawing) for _ in range(settings.negatives)]
        codes = [head(x) for x in pair]
        targets = [drop_channels(x, settings.target_dropout) for x in pair]
        loss = stego_loss(targets, codes, at, others, (SIDE, SIDE), settings)
        descend(adam, loss + probes.losses(codes[0], labels[batch], detach))
        if choose and step % 2 and (found := accuracy(head, probes, tokens, labels)) > best:
            best, kept = found, named(head=head, probe=probes)
    return start, kept if choose else named(head=head, probe=probes)


@torch.no_grad()
def accuracy(head: ChannelHead, probes: Probes, tokens: Tensor, labels: Tensor) -> float:
    """Pixel accuracy of the centroids after Hungarian matching, void left out."""
    scores = probes.own(head.eval()(tokens)).mT.unflatten(2, (SIDE, SIDE))
    head.train()
    found = F.interpolate(scores, labels.shape[1:], mode="bilinear").argmax(dim=1)[labels >= 0]
    counts = torch.bincount(found * C + labels[labels >= 0], minlength=C * C).reshape(C, C).numpy()
    return counts[linear_sum_assignment(-counts)].sum() / counts.sum()


# --- HP ---

def hp(labels: Tensor, *, detach: bool = True, updates: int = 20):
    """HP on drawn tokens: AdamW with decay 0.1 for the head, whose gradient alone is clipped at 10; probes apart."""
    tokens = drawn()[0].flatten(2).mT  # (B, n, D)
    torch.manual_seed(0)
    head, project, probes = ChannelHead(D, R), nn.Linear(R, R), Probes()
    teacher = copy.deepcopy(head).requires_grad_(False)
    start = named(head=head, probe=probes)
    rates = (head, 5e-4, 0.1), (project, 5e-4, 0.0), (probes.linear, 1e-3, 0.0), (probes.own, 5e-3, 0.0)
    adam = torch.optim.AdamW([{"params": [*part.parameters()], "lr": lr, "weight_decay": decay}
                              for part, lr, decay in rates])
    n = SIDE * SIDE

    def flat(x: Tensor) -> Tensor:
        return F.normalize(x.flatten(0, 1), dim=1)

    pool = flat(tokens)[torch.randperm(B * n)[:B]]
    for step in range(updates):
        batch = torch.randperm(B)[:BATCH]
        x = tokens[batch]
        if step % 10 == 0:
            pool_codes = flat(teacher(tokens))[torch.randperm(B * n)[:B]]
        codes, averaged = head(x), teacher(x)
        ema_update(teacher, head, 0.99)
        mixed = neighbour_weights(x @ x.mT / D**0.5, (SIDE, SIDE)) @ codes
        z = F.normalize(project(torch.stack([codes, mixed]).flatten(1, 2)), dim=-1)
        keep = torch.rand(n, BATCH * n) < 0.02
        loss = hidden_positives_loss(z, flat(drop_channels(x, 0.1)), flat(averaged), pool, pool_codes, keep,
                                     step / updates)
        descend(adam, loss + probes.losses(codes, labels[batch], detach), clip=10)
    return start, named(head=head, probe=probes)


# --- IIC ---

def iic(labels: Tensor, *, masked: bool = True, updates: int = 20):
    """IIC's objective on drawn tokens, the second view with noise; `masked`: pixels without a class are left out."""
    tokens, _ = drawn()
    torch.manual_seed(0)
    head = nn.Conv2d(D, C, 1)
    start = named(head=head)
    adam = torch.optim.Adam(head.parameters(), lr=1e-4)
    mask = (labels[:, ::2, ::2] >= 0).float() if masked else torch.ones(B, SIDE, SIDE)
    for _ in range(updates):
        batch = torch.randperm(B)[:BATCH]
        x = tokens[batch]
        views = x, x + 0.2 * torch.randn(x.shape)
        loss = iic_loss(*(head(view).softmax(dim=1) for view in views), mask[batch], reach=1)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return start, named(head=head)


# --- the table ---

RIVALS = {
    ("STEGO", "as released: probes on detached codes"): stego,
    ("STEGO", "control: detach removed"): partial(stego, detach=False),
    ("STEGO", "checkpoint chosen by accuracy on labels"): partial(stego, choose=True),
    ("HP", "as released: probes on detached codes, head clipped alone"): hp,
    ("HP", "control: detach removed"): partial(hp, detach=False),
    ("IIC objective", "as released: mask made of labels"): iic,
    ("IIC objective", "no mask"): partial(iic, masked=False),
}


PARTS = {"head": "student head", "head_ema": "teacher head", "cluster_probe": "centroids"}


def of_authors() -> list[dict]:
    """The authors' own code, 5 updates with labels and with zeros in their place: tests/data/vectors."""
    lines = []
    for step, file in (("2", "mlp"), ("2", "tr_cocostuff27"), ("2", "tr_cityscapes"), ("3", "mlp"), ("3", "tr")):
        arrays = vectors.load(f"step{step}_{file}")
        for dataset in ("cocostuff27", "cityscapes"):
            keys = f"{dataset}/labels/after5", f"{dataset}/zeros/after5", "init"
            if keys[1] in arrays:
                found = compare(*(vectors.unpack(arrays[key], arrays["names"], arrays["shapes"]) for key in keys))
                training = f"step {step} as released, {file.split('_')[0].upper()}, settings of {dataset}"
                lines += [line("CAUSE", training, PARTS[part], 5, found[part], "tests/data/vectors")
                          for part in PARTS if part in found]
    return lines


def of_rivals(updates: int = 10) -> list[dict]:
    """STEGO, HP and IIC on drawn tokens, the labels replaced by zeros."""
    return [line(method, training, "head", updates,
                 label_share(partial(train, updates=updates), drawn()[1])["head"], "tests/rival_steps.py")
            for (method, training), train in RIVALS.items()]


def line(method: str, training: str, part: str, updates: int, found, source: str) -> dict:
    return {"method": method, "training": training, "part": part, "updates": updates,
            "largest": f"{found.largest:.2g}", "percent": f"{100 * found.share:.3g}", "source": source}


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = pd.DataFrame([*of_authors(), *of_rivals()], columns=COLUMNS)
    table.to_csv(sys.argv[1], index=False)
