"""HP: patches that hide among the others as positives, of the whole batch and next door.

Seong, Moon, Lee, Choi and Heo 2023, "Leveraging hidden positives for unsupervised semantic segmentation". A head gives
codes s of tokens t, its average over updates codes s*, a linear map unit projections z; N = b n patches of a batch.

    R_i = max over a pool of random tokens of cos(t_i, .)        i, j positive, i != j: cos(t_i, t_j) > min(R_i, R_j)
    w_ij = 1[positive by t] + lambda 1[positive by s*, pool of s*]          lambda: 0 at first, then linear to 1
    D_i = positives by t, and a random share of all others
    l_i = -(tau / 0.07) sum_j w_ij (z_i z_j / tau - log sum_{D_i} exp(z_i z_j / tau)) / (mean_i sum_j w_ij)

averaged over the patches i of a picture that have a positive by t, then over pictures; once for z, once for z of mixed
codes, sum_j a_ij s_j / (neighbours) over the 3 x 3 patches around i, halved. With attention logits of the last block,
the mean of its heads, row by row: a = 28 softmax of them clipped to their 10 % and 90 % quantiles; below its mean 0.

    loss = mean l + alpha mean |z - z of the picture in other colours|

As released (hynnsk/HP 8913644608c0): the factor tau / 0.07; rows by t alone; tokens, codes s* and mixed codes lose
whole channels before they are compared or pooled (`target_dropout`; 0: as in the paper); a pool of codes that is drawn
anew every so many updates; optimisers, and a bound on the head's gradient alone.
Not: colours change in [0, 1] (there after normalising, where jitter cuts off at 0 and 1), in one way for each view, so
that its tokens can be kept; s* starts as s; float32 (there half precision, which rounds counts above 2048); the linear
probe, which needs labels, is left out; the last weights are kept, not those with the best scores on labels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.heads import ema_update
from cause_lib.runs.loop import Run, batches_for, descend, seed_for
from cause_lib.tokens import attention_logits, block_of
from cause_rivals.heads import build, drop_channels  # noqa: F401
from cause_rivals.positives import hidden_positives_loss, neighbour_weights
from cause_rivals.rival import MethodSettings, setting
from cause_rivals.views import photometric

FACETS, SIZE = ("token",), "train_size"


@dataclass(frozen=True)
class Settings(MethodSettings):
    """Defaults: COCO-Stuff-27, as in the released settings, but for `steps`."""

    steps: int = setting(500, "updates", "it is a number of updates", 0)
    rank: int = setting(512, "width r of codes and projections", "it is a width", 1, 65_536)
    temperature: float = setting(0.8, "tau", "products are divided by it", 1e-3)
    keep: float = setting(0.02, "share of all patches in every denominator", "it is a share", 0.0, 1.0)
    warmup: int = setting(1000, "updates before positives by codes count", "it is a number of updates", 0)
    pool: int = setting(2048, "patches in each pool, of as many views if there are", "it is a number", 1, 10**6)
    pool_every: int = setting(100, "updates between two pools of codes", "it is a number of updates", 1)
    ema_decay: float = setting(0.99, "share of its past that s* keeps", "it is a share", 0.0, 1.0)
    consistency: float = setting(0.05, "alpha (0: no other colours)", "it weighs a term of the loss", 0.0)
    lr: float = setting(5e-4, "AdamW's rate of the head, Adam's of the linear map", "it is the length of a step", 0.0)
    weight_decay: float = setting(0.1, "AdamW's decay of the head", "below 0 it would enlarge weights", 0.0)
    probe_lr: float = setting(5e-3, "Adam's rate of the centroids", "it is the length of a step", 0.0)
    clip_norm: float = setting(10.0, "bound of the norm of the head's gradient", "without any nothing moves", 1e-12)
    dropout: float = setting(0.1, "share of channels that each branch of a head drops", "some have to stay", 0.0, 0.9)
    target_dropout: float = setting(0.1, "share of channels dropped of what is compared", "some have to stay", 0.0, 0.9)


def random_tokens(fitting, step: int) -> Tensor:
    """Tokens of random patches of random views, one each if there are enough: (views, patches each, d)."""
    features, count, generator = fitting.features, fitting.rival.settings.pool, fitting.generator("pool", step)
    views = torch.randperm(len(features), generator=generator)[:count]
    batches, n = views.split(fitting.rival.experiment.batch_size), features.grid[0] * features.grid[1]
    places = [torch.randint(n, (len(some), -(-count // len(views))), generator=generator) for some in batches]
    return torch.cat(list(features.stream(batches, places)))


def neighbours_and_colours(fitting):
    """A function of views (b,): their 3 x 3 weights (b, n, n), and their tokens in other colours (b, n, d) or None."""
    experiment, grid, alpha = fitting.rival.experiment, fitting.features.grid, fitting.rival.settings.consistency
    looks = fitting.other(facets=("query", "key"))
    colours = fitting.other(view=partial(photometric, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, grey=0.2,
                                         blur=0.5)) if alpha else None
    vit = looks.parts[0].backbone.vit
    index = block_of(experiment.backbone, vit, experiment.layer, "key")
    rotary = None if getattr(vit, "rope", None) is None else vit.rope.get_embed(shape=list(grid))

    def others(views: Tensor) -> tuple[Tensor, Tensor | None]:
        pairs = (look.tensor_split([looks.parts[0].dim], dim=-1) for look in fitting.tokens(views, looks).split(1))
        logits = torch.cat([attention_logits(vit, index, *pair, rotary).mean(dim=1) for pair in pairs])
        return neighbour_weights(logits, grid), None if colours is None else fitting.tokens(views, colours)

    return others


def fit(fitting) -> Run:
    """Train head, its average, projection and centroids."""
    s, experiment, device = fitting.rival.settings, fitting.rival.experiment, fitting.accelerator.device
    features, head, own = fitting.features, fitting.head.train(), fitting.readouts["own"]
    torch.manual_seed(seed_for(experiment, "projection"))
    project, teacher = nn.Linear(s.rank, s.rank).to(device), copy.deepcopy(head).requires_grad_(False)
    memory = nn.ParameterDict({"codes": nn.Parameter(torch.zeros(s.pool, s.rank, device=device), requires_grad=False)})

    def compared(x: Tensor) -> Tensor:
        return F.normalize(drop_channels(x, s.target_dropout), dim=-1).flatten(0, 1)  # (N, .)

    pool, others = compared(random_tokens(fitting, -1))[:s.pool], neighbours_and_colours(fitting)
    batches = batches_for(experiment, "rival", len(features), s.steps)
    adam = [{"params": [*part.parameters()], "lr": lr, "weight_decay": 0.0}
            for part, lr in ((project, s.lr), (own, s.probe_lr))]
    optimizer = torch.optim.AdamW([{"params": [*head.parameters()], "lr": s.lr, "weight_decay": s.weight_decay}, *adam])

    def update(tokens: Tensor, step: int, _) -> Tensor:
        weights, coloured = others(batches[step])
        if step % s.pool_every == 0:
            memory["codes"].copy_(compared(teacher(random_tokens(fitting, step)))[:s.pool])
        codes, averaged = head(tokens), teacher(tokens)  # (b, n, r)
        ema_update(teacher, head, s.ema_decay)
        mixed = drop_channels(weights @ codes, s.target_dropout)
        z = F.normalize(project(torch.stack([codes, mixed]).flatten(1, 2)), dim=-1)  # (2, N, r)
        keep = torch.rand(tokens.shape[1], z.shape[1], device=device) < s.keep
        share = max(0.0, (step + 1 - s.warmup) / max(1, s.steps - s.warmup))
        loss = hidden_positives_loss(z, compared(tokens), compared(averaged), pool, memory["codes"], keep, share,
                                     s.temperature)
        if coloured is not None:
            loss = loss + s.consistency * F.pairwise_distance(z[0], F.normalize(
                project(head(coloured)), dim=-1).flatten(0, 1)).mean()
        descend(optimizer, loss + own.loss(codes), clip=s.clip_norm)
        return loss.detach()

    state = {"head": head, "own": own, "projection": project, "teacher": teacher, "memory": memory}
    return fitting.train(Run(experiment, fitting.folder, s.steps, state, optimizer, update))
