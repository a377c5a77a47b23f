"""STEGO: codes that correlate where tokens do.

Hamilton, Zhang, Hariharan, Snavely and Freeman 2022, "Unsupervised semantic segmentation by distilling feature
correspondences". Of a pair of pictures with tokens t, t' and codes s, s', all (b, m, .) at m = S S random places:

    F_ij = cos(t_i, t'_j);  pointwise: F_ij - mean_j F_ij, then shifted to the mean it had over the whole batch
    S_ij = cos(s_i, s'_j);  L(b) = - mean_ij max(S_ij, 0) (F_ij - b)                 gradient through S alone
    loss = w_self L(x, x; b_self) + w_knn L(x, neighbour; b_knn) + w_rand mean over 5 of L(x, other; b_rand)

A neighbour is one of the 7 views with the nearest mean token, others are random orders of the batch where none stays.
Places U1 are those of x and, against itself, of its partner; U2 those of every other partner. As released
(mhamilton723/STEGO eb4d6b521740): head, centroids, rates; tokens lose whole channels before F is made of them
(`target_dropout`; paper: 0); orders that may name a view twice; weights, shifts, `pointwise` of each set. Not:
neighbours come from whole tokens; no linear probe; the last weights, not the best on labels; shifts may be shares of
pairs (`shifts`): the published cosines are DINO's, and with tokens that are more alike all patches get one code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.errors import InputError
from cause_lib.runs.loop import Run, batches_for, descend
from cause_rivals.heads import build, drop_channels  # noqa: F401
from cause_rivals.rival import MethodSettings, setting
from cause_rivals.views import nearest_views, others_of

FACETS, SIZE = ("token",), "train_size"


@dataclass(frozen=True)
class Settings(MethodSettings):
    """Defaults: COCO-Stuff-27 with ViT-S/8, as in the released settings."""

    steps: int = setting(5000, "updates", "it is a number of updates", 0)
    rank: int = setting(70, "width r of the codes", "it is a width", 1, 65_536)
    weight_self: float = setting(0.67, "w_self", "it weighs a term of the loss", 0.0)
    weight_knn: float = setting(0.25, "w_knn", "it weighs a term of the loss", 0.0)
    weight_rand: float = setting(0.63, "w_rand", "it weighs a term of the loss", 0.0)
    shift_self: float = setting(0.08, "b_self", "it is compared with cosines", -1.0, 1.0)
    shift_knn: float = setting(0.02, "b_knn", "it is compared with cosines", -1.0, 1.0)
    shift_rand: float = setting(0.66, "b_rand", "it is compared with cosines", -1.0, 1.0)
    shifts: str = setting("cosines", "shifts are `cosines`, as published, or `shares` of the tokens' F that lie below",
                          "shifts are given in these ways", choices=("cosines", "shares"))
    pointwise: bool = setting(True, "centre the tokens' cosines of each patch", "they are centred, or they are not")
    knn: int = setting(7, "nearest views that a neighbour is drawn from", "a neighbour comes from these", 1, 1000)
    samples: int = setting(11, "S: places along a side", "pairs are S^4 a picture", 1, 100)
    negatives: int = setting(5, "other views that a view is held against", "the mean is over these", 1, 100)
    lr: float = setting(5e-4, "Adam's rate of the head", "it is the length of a step", 0.0)
    probe_lr: float = setting(5e-3, "Adam's rate of the centroids", "it is the length of a step", 0.0)
    dropout: float = setting(0.1, "share of channels that each branch of the head drops", "some have to stay", 0.0, 0.9)
    target_dropout: float = setting(0.1, "share of channels that tokens lose before they are compared",
                                    "some have to stay", 0.0, 0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shifts == "shares" and (least := min(self.shift_self, self.shift_knn, self.shift_rand)) < 0:
            raise InputError(f'With shifts "shares" each shift_ is a share of pairs, from 0 to 1, not {least}.')


def sample(x: Tensor, grid: tuple[int, int], at: Tensor) -> Tensor:
    """Bilinear values of x (b, n, d) at (b, m, 2), x and y from -1 to 1, the outermost patches' centres: (b, m, d)."""
    image = x.mT.unflatten(2, grid)  # (b, d, rows, columns)
    return F.grid_sample(image, at[:, None], padding_mode="border", align_corners=True)[:, :, 0].mT


def correlation(t: Tensor, t2: Tensor, pointwise: bool) -> Tensor:
    """F of tokens t, t2 (b, m, d) of length one: (b, m, m)."""
    cosines = t @ t2.mT
    if not pointwise:
        return cosines
    centred = cosines - cosines.mean(dim=2, keepdim=True)
    return centred - centred.mean() + cosines.mean()


def correlation_loss(t: Tensor, t2: Tensor, s: Tensor, s2: Tensor, shift: float, pointwise: bool = True) -> Tensor:
    """L of tokens t, t2 (b, m, d) and codes s, s2 (b, m, r), all of length one: a scalar."""
    return -((s @ s2.mT).clamp(min=0) * (correlation(t, t2, pointwise).detach() - shift)).mean()


def stego_loss(tokens: Sequence[Tensor], codes: Sequence[Tensor], at: Sequence[Tensor], others: Sequence[Tensor],
               grid: tuple[int, int], settings: Settings) -> Tensor:
    """The whole loss of a batch and its neighbours.

    Args:
        tokens, codes: of the batch, and of a neighbour of each: (b, n, d) and (b, n, r), two each.
        at: U1 and U2, (b, m, 2). others: for each negative (b,) int64, whose place in the batch the partner has.
    """
    def unit(t: Tensor, s: Tensor, places: Tensor) -> list[Tensor]:
        return [F.normalize(sample(x, grid, places), dim=-1) for x in (t, s)]

    def against(t: Tensor, s: Tensor, shift: float) -> Tensor:
        return correlation_loss(here[0], t, here[1], s, shift, settings.pointwise)

    here, near = unit(tokens[0], codes[0], at[0]), unit(tokens[1], codes[1], at[1])
    far = [against(*unit(tokens[0][i], codes[0][i], at[1]), settings.shift_rand) for i in others]
    return (settings.weight_self * against(*here, settings.shift_self)
            + settings.weight_knn * against(*near, settings.shift_knn) + settings.weight_rand * torch.stack(far).mean())


def measured(fitting, near: Tensor) -> Settings:
    """The settings, with shifts that are shares of the cosines as the cosines they stand for, found on 64 views."""
    s, features = fitting.rival.settings, fitting.features
    if s.shifts == "cosines":
        return s
    generator = fitting.generator("shifts")
    torch.manual_seed(generator.initial_seed())  # dropout
    views = torch.randperm(len(features), generator=generator)[:64]
    batch, nearest = (fitting.tokens(some) for some in (views, near[views, 0]))
    at = torch.rand(2, len(views), s.samples**2, 2, generator=generator).to(batch) * 2 - 1
    here, far, beside = (F.normalize(sample(drop_channels(x, s.target_dropout), features.grid, places), dim=-1)
                         for x, places in ((batch, at[0]), (batch.roll(1, 0), at[1]), (nearest, at[1])))
    pairs = {"shift_self": here, "shift_knn": beside, "shift_rand": far}
    found = {name: float(correlation(here, other, s.pointwise).flatten().quantile(getattr(s, name)))
             for name, other in pairs.items()}
    fitting.notes["shifts"] = found
    return replace(s, shifts="cosines", **found)


def fit(fitting) -> Run:
    """Train both."""
    s, experiment, device = fitting.rival.settings, fitting.rival.experiment, fitting.accelerator.device
    features, head, own = fitting.features, fitting.head.train(), fitting.readouts["own"]
    if len(features) < 2:
        raise InputError("STEGO compares views of training pictures, and there is one alone: add pictures or crops.")
    looks = features.stream(torch.arange(len(features)).split(experiment.batch_size))
    near = nearest_views(torch.cat([tokens.mean(dim=1) for tokens in looks]), s.knn).cpu()
    s = measured(fitting, near)
    batches = batches_for(experiment, "rival", len(features), s.steps)
    optimizer = torch.optim.Adam([{"params": [*head.parameters()], "lr": s.lr},
                                  {"params": [*own.parameters()], "lr": s.probe_lr}])

    def update(tokens: Tensor, step: int, _) -> Tensor:
        generator, b = fitting.generator("pairs", step), len(tokens)
        which = torch.randint(near.shape[1], (b, 1), generator=generator)
        pair = tokens, fitting.tokens(near[batches[step]].gather(1, which)[:, 0])
        at = (torch.rand(2, b, s.samples**2, 2, generator=generator) * 2 - 1).to(device)
        others = [others_of(b, generator).to(device) for _ in range(s.negatives)]
        codes = [head(x) for x in pair]
        targets = [drop_channels(x, s.target_dropout) for x in pair]
        loss = stego_loss(targets, codes, at, others, features.grid, s)
        descend(optimizer, loss + own.loss(codes[0]))
        return loss.detach()

    return fitting.train(Run(experiment, fitting.folder, s.steps, {"head": head, "own": own}, optimizer, update))
