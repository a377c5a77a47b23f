"""The authors' files, written: a naive twin of their modules, convolutions on maps and torch's own attention as published."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

D, R, P, K, C, SIDE = 24, 6, 10, 9, 4, 5


class Layer(nn.Module):
    """What the files call `linear.f` and `projection_head.f`."""

    def __init__(self, dim, out):
        super().__init__()
        self.f = nn.Conv2d(dim, out, 1)


class MLP(nn.Module):
    def __init__(self, dim, reduced, side):
        super().__init__()
        self.f1 = nn.Conv2d(dim, reduced, 1)
        self.f2 = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, reduced, 1))

    def forward(self, tokens, book=None):
        side = int(tokens.shape[1] ** 0.5)
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        return (self.f1(maps) + self.f2(maps)).flatten(2).transpose(1, 2)


class Decoder(MLP):
    def __init__(self, dim, reduced, side):
        super().__init__(dim, reduced, side)
        self.self_attn, self.multihead_attn = nn.MultiheadAttention(dim, 1), nn.MultiheadAttention(dim, 1)
        self.linear1, self.linear2 = nn.Linear(dim, 2048), nn.Linear(2048, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)


class TR(nn.Module):
    def __init__(self, dim, reduced, side):
        super().__init__()
        self.query_pos = nn.Parameter(torch.randn(side**2, dim))
        self.tr = Decoder(dim, reduced, side)

    def forward(self, tokens, book):
        tr, position = self.tr, self.query_pos[:, None]  # torch's attention takes (n, b, d) here
        memory = tokens.transpose(0, 1)
        nearest = (F.normalize(memory, dim=-1) @ F.normalize(book, dim=-1).T).argmax(dim=-1)
        x = book[nearest]
        x = tr.norm1(x + tr.self_attn(x + position, x + position, x)[0])
        x = tr.norm2(x + tr.multihead_attn(x + position, memory, memory)[0])
        x = tr.norm3(x + tr.linear2(F.relu(tr.linear1(x))))
        return MLP.forward(tr, (memory + x).transpose(0, 1))


class Twin(nn.Module):
    def __init__(self, head, dim, reduced, classes, side):
        super().__init__()
        kind = TR if head == "tr" else MLP
        self.head, self.head_ema = kind(dim, reduced, side), kind(dim, reduced, side)
        self.projection_head, self.projection_head_ema = Layer(reduced, P), Layer(reduced, P)
        self.linear = Layer(reduced, classes)


def write(folder, head, prefix="", change=lambda segment, cluster: None, *, dim=D, reduced=R, concepts=K, classes=C,
          side=SIDE):
    """A release folder; returns the twin and the clusterbook and centroids that it was written from."""
    folder.mkdir(exist_ok=True, parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        twin = Twin(head, dim, reduced, classes, side).eval().requires_grad_(False)
        book, probe = torch.randn(concepts, dim), torch.randn(classes, reduced)
    segment = {prefix + key: value for key, value in twin.state_dict().items()}
    cluster = {prefix + "codebook": book.clone(), prefix + "cluster_probe": probe}
    change(segment, cluster)
    np.save(folder / "modular.npy", book.numpy())
    torch.save(segment, folder / f"segment_{head}.pth")
    torch.save(cluster, folder / f"cluster_{head}.pth")
    return twin, book, probe
