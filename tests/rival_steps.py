"""Short trainings of STEGO, HP and IIC on drawn tokens, and the table of book/labels.md that they fill.

    PYTHONPATH=. python tests/rival_steps.py book/results/labels.csv

Written from the equations of the papers and the settings of the released code (mhamilton723/STEGO eb4d6b521740,
hynnsk/HP 8913644608c0, xu-ji/IIC b7602b743552); the losses are held against values of that code in tests/data/rivals.
Where training uses labels, and where it detaches, is as released unless a parameter says otherwise. Left out, since no
label is near them: STEGO's and IIC's photometric views, HP's consistency term, half precision.

Axes: b pictures, d width of tokens, r of codes, h w the grid, N = b h w patches, c classes.
"""

from __future__ import annotations

import sys
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
import vectors
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cause_rivals.iic import iic_loss
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


class Head(nn.Module):
    """STEGO's and HP's: a linear map beside a small network, whole channels dropped; (b, d, h, w) -> (b, r, h, w)."""

    def __init__(self, dim: int = D, reduced: int = R) -> None:
        super().__init__()
        self.linear = nn.Conv2d(dim, reduced, 1)
        self.mlp = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, reduced, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(F.dropout2d(tokens, 0.1)) + self.mlp(F.dropout2d(tokens, 0.1))


class Probes(nn.Module):
    """The linear probe and the centroids that STEGO and HP train beside the head, on its codes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.centroids = nn.Conv2d(R, C, 1), nn.Parameter(torch.randn(C, R))

    def losses(self, codes: Tensor, labels: Tensor, detach: bool) -> Tensor:
        """Cross-entropy of the linear probe, and minus the cosine to the nearest centroid."""
        fixed = codes.detach()
        cosines = torch.einsum("brhw,cr->bchw", F.normalize(fixed, dim=1), F.normalize(self.centroids, dim=1))
        logits = F.interpolate(self.linear(fixed if detach else codes), labels.shape[1:], mode="bilinear")
        return F.cross_entropy(logits, labels, ignore_index=-1) - cosines.amax(dim=1).mean()


def named(**modules: nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{key}": value.detach().clone() for part, module in modules.items()
            for key, value in module.state_dict().items()}


# --- STEGO ---

def sample(x: Tensor, coordinates: Tensor) -> Tensor:
    """x (b, d, h, w) at coordinates (b, S, S, 2) in [-1, 1] -> (b, d, S, S)."""
    return F.grid_sample(x, coordinates.permute(0, 2, 1, 3), padding_mode="border", align_corners=True)


def correlation_loss(f: Tensor, f2: Tensor, s: Tensor, s2: Tensor, shift: float, pointwise: bool = True) -> Tensor:
    """STEGO's loss of tokens f, f2 (b, d, S, S) and codes s, s2 (b, r, S, S), by pairs of places."""
    of_tokens, of_codes = (torch.einsum("bchw,bcij->bhwij", F.normalize(x, dim=1), F.normalize(y, dim=1))
                           for x, y in ((f, f2), (s, s2)))
    if pointwise:
        centred = of_tokens - of_tokens.mean(dim=(3, 4), keepdim=True)
        of_tokens = centred - centred.mean() + of_tokens.mean()
    return -of_codes.clamp(min=0) * (of_tokens.detach() - shift)


def stego_loss(f: Tensor, f_near: Tensor, s: Tensor, s_near: Tensor, at: Tensor, at2: Tensor, others: list[Tensor],
               pointwise: bool = True) -> Tensor:
    """Of tokens and codes (b, ., h, w), those of a neighbour, coordinates and permutations; ViT-S's weights, shifts."""
    here = sample(f, at), sample(s, at)
    own = correlation_loss(here[0], here[0], here[1], here[1], 0.08, pointwise).mean()
    near = correlation_loss(here[0], sample(f_near, at2), here[1], sample(s_near, at2), 0.02, pointwise).mean()
    far = [correlation_loss(here[0], sample(f[p], at2), here[1], sample(s[p], at2), 0.66, pointwise).mean()
           for p in others]
    return 0.67 * own + 0.25 * near + 0.63 * sum(far) / len(far)


def stego(labels: Tensor, *, detach: bool = True, updates: int = 20, choose: bool = False):
    """STEGO on drawn tokens: three Adams, nothing clipped. `choose`: keep the checkpoint with the best accuracy."""
    tokens, _ = drawn()
    torch.manual_seed(0)
    head, probes = Head(), Probes()
    start = named(head=head, probe=probes)
    adams = [torch.optim.Adam(head.parameters(), lr=5e-4), torch.optim.Adam(probes.linear.parameters(), lr=5e-3),
             torch.optim.Adam([probes.centroids], lr=5e-3)]
    means = F.normalize(tokens.mean(dim=(2, 3)), dim=1)
    near = (means @ means.T).topk(8, dim=1).indices[:, 1:]  # (b, 7)
    best, kept = -1.0, start
    for step in range(updates):
        batch = torch.randperm(B)[:BATCH]
        beside = near[batch, torch.randint(0, 7, (BATCH,))]
        at, at2 = (torch.rand(BATCH, 5, 5, 2) * 2 - 1 for _ in range(2))
        others = [torch.randperm(BATCH) for _ in range(5)]
        others = [torch.where(p == torch.arange(BATCH), (p + 1) % BATCH, p) for p in others]
        codes = head(tokens[batch])
        loss = stego_loss(F.dropout2d(tokens[batch], 0.1), F.dropout2d(tokens[beside], 0.1), codes,
                          head(tokens[beside]), at, at2, others) + probes.losses(codes, labels[batch], detach)
        for adam in adams:
            adam.zero_grad()
        loss.backward()
        for adam in adams:
            adam.step()
        if choose and step % 2 and (found := accuracy(head, probes, tokens, labels)) > best:
            best, kept = found, named(head=head, probe=probes)
    return start, kept if choose else named(head=head, probe=probes)


@torch.no_grad()
def accuracy(head: Head, probes: Probes, tokens: Tensor, labels: Tensor) -> float:
    """Pixel accuracy of the centroids after Hungarian matching, void left out."""
    codes = F.normalize(head.linear(tokens) + head.mlp(tokens), dim=1)
    scores = torch.einsum("brhw,cr->bchw", codes, F.normalize(probes.centroids, dim=1))
    found = F.interpolate(scores, labels.shape[1:], mode="bilinear").argmax(dim=1)[labels >= 0]
    counts = torch.bincount(found * C + labels[labels >= 0], minlength=C * C).reshape(C, C).numpy()
    return counts[linear_sum_assignment(-counts)].sum() / counts.sum()


# --- HP ---

def hidden_positives_loss(z: Tensor, tokens: Tensor, codes: Tensor, pool: Tensor, pool_codes: Tensor, keep: Tensor,
                          share: float, temperature: float = 0.8, reweight: bool = True) -> Tensor:
    """HP's loss of projections z (N, r), from unit tokens (N, d), unit teacher codes (N, r) and pools of both.

    keep: (n, N) bool, the patches that count as negatives, the same for each picture; share: lambda in [0, 1].
    """
    apart = ~torch.eye(len(z), dtype=torch.bool)

    def positives(x: Tensor, of_pool: Tensor) -> Tensor:
        bound = (x @ of_pool.T).amax(dim=1)
        cosines = x @ x.T
        return ((cosines > bound[:, None]) | (cosines > bound[None])) & apart

    by_tokens = positives(tokens, pool)
    weights = by_tokens.to(z.dtype) + share * positives(codes, pool_codes).to(z.dtype)
    denominator = (by_tokens | keep.repeat(len(z) // len(keep), 1)) & apart
    logits = z @ z.T / temperature
    log_sum = logits.masked_fill(~denominator, -torch.inf).logsumexp(dim=1, keepdim=True)
    rows = by_tokens.any(dim=1)
    total, picture = z.new_zeros(()), len(keep)
    for first in range(0, len(z), picture):
        mine = torch.arange(first, first + picture)[rows[first:first + picture]]
        if len(mine) == 0:
            continue
        w = weights[mine]
        each = -(temperature / 0.07) * (w * (logits[mine] - log_sum[mine])).sum(dim=1) / w.sum(dim=1)
        total = total + (each * (w.sum(dim=1) / w.sum(dim=1).mean() if reweight else 1)).mean()
    return total / (len(z) // picture)


def mixed(codes: Tensor, attention: Tensor) -> Tensor:
    """HP's mean of each code (b, r, h, w) with its 3 x 3 neighbours; attention logits (b, n, n), a mean over heads."""
    low, high = (attention.quantile(q, dim=-1, keepdim=True) for q in (0.1, 0.9))
    weights = attention.clamp(low, high).softmax(dim=-1) * 28
    weights = weights * (weights >= weights.mean(dim=-1, keepdim=True))
    h, w = codes.shape[2:]
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    mean = (weights * near) @ codes.flatten(2).transpose(1, 2) / near.sum(dim=1, keepdim=True)
    return mean.transpose(1, 2).unflatten(2, (h, w))


def hp(labels: Tensor, *, detach: bool = True, updates: int = 20):
    """HP on drawn tokens: AdamW with decay 0.1 for the head, whose gradient alone is clipped at 10; probes apart."""
    tokens, _ = drawn()
    torch.manual_seed(0)
    head, teacher, projection, probes = Head(), Head(), nn.Linear(R, R), Probes()
    teacher.load_state_dict(head.state_dict())
    teacher.requires_grad_(False)
    start = named(head=head, probe=probes)
    optimizers = [torch.optim.AdamW(head.parameters(), lr=5e-4, weight_decay=0.1),
                  torch.optim.Adam(projection.parameters(), lr=5e-4),
                  torch.optim.Adam(probes.linear.parameters(), lr=1e-3),
                  torch.optim.Adam([probes.centroids], lr=5e-3)]
    n = SIDE * SIDE

    def flat(x: Tensor) -> Tensor:
        return F.normalize(x.permute(0, 2, 3, 1).flatten(0, 2), dim=1)

    pool = flat(tokens)[torch.randperm(B * n)[:B]]
    for step in range(updates):
        batch = torch.randperm(B)[:BATCH]
        x = tokens[batch]
        if step % 10 == 0:
            pool_codes = flat(teacher(tokens))[torch.randperm(B * n)[:B]]
        codes, codes_ema = head(x), teacher(x)
        attention = x.flatten(2).transpose(1, 2) @ x.flatten(2) / D**0.5
        keep = torch.rand(n, BATCH * n) < 0.02
        loss = sum(hidden_positives_loss(
            F.normalize(projection(c.permute(0, 2, 3, 1).flatten(0, 2)), dim=1), flat(F.dropout2d(x, 0.1)),
            flat(codes_ema), pool, pool_codes, keep, step / updates) for c in (codes, mixed(codes, attention))) / 2
        loss = loss + probes.losses(codes, labels[batch], detach)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 10)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), head.parameters(), strict=True):
                old.lerp_(new, 0.01)
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
