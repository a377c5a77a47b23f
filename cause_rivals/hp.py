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
from cause_rivals.heads import Centroids, ChannelHead, drop_channels
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
    pool: int = setting(2048, "patches in each pool, from as many views where there are", "it is a number", 1, 1_000_000)
    pool_every: int = setting(100, "updates between two pools of codes", "it is a number of updates", 1)
    ema_decay: float = setting(0.99, "share of its past that s* keeps", "it is a share", 0.0, 1.0)
    consistency: float = setting(0.05, "alpha (0: no other colours)", "it weighs a term of the loss", 0.0)
    lr: float = setting(5e-4, "AdamW's rate of the head, Adam's of the linear map", "it is the length of a step", 0.0)
    weight_decay: float = setting(0.1, "AdamW's decay of the head", "below 0 it would enlarge weights", 0.0)
    probe_lr: float = setting(5e-3, "Adam's rate of the centroids", "it is the length of a step", 0.0)
    clip_norm: float = setting(10.0, "bound of the norm of the head's gradient", "without any nothing moves", 1e-12)
    dropout: float = setting(0.1, "share of channels that each branch of a head drops", "some have to stay", 0.0, 0.9)
    target_dropout: float = setting(0.1, "share of channels dropped of what is compared", "some have to stay", 0.0, 0.9)


class _HiddenPositives(torch.autograd.Function):
    """The loss with its gradient, picture by picture: no more than 2 n N numbers of either are there at once."""

    @staticmethod
    def forward(ctx, z, spaces, keep, temperature, reweight):
        kinds, count, n = len(z), z.shape[1], len(keep)
        bounds = [(x @ pool.T).amax(dim=1) for x, pool, _ in spaces]  # R, (N,) each
        loss, gradient, scale = z.new_zeros(()), torch.zeros_like(z), temperature / 0.07 / (kinds * count // n)
        for first in range(0, count, n):
            mine = slice(first, first + n)
            found = [x[mine] @ x.T > torch.minimum(bound[mine, None], bound) for (x, *_), bound in zip(spaces, bounds)]
            for positive in found:  # (n, N) each
                positive.diagonal(first).fill_(False)
            rows = found[0].any(dim=1, keepdim=True)  # (n, 1)
            weights = sum(share * positive for (*_, share), positive in zip(spaces, found)).to(z.dtype) * rows
            size = weights.sum() if reweight else weights.sum(dim=1, keepdim=True) * rows.sum()
            weights = weights / size.clamp(min=torch.finfo(z.dtype).tiny) * scale
            among = found[0] | keep | ~rows  # D; of a row without loss all, so that it is finite
            among.diagonal(first).fill_(False)
            logits = z[:, mine] @ z.mT / temperature  # (kinds, n, N)
            logits_among = logits.masked_fill(~among, -torch.inf)
            log_sum = logits_among.logsumexp(dim=2, keepdim=True)
            loss -= (weights * (logits - log_sum)).sum()
            slope = (weights.sum(dim=1, keepdim=True) * (logits_among - log_sum).exp() - weights) / temperature
            gradient[:, mine] += slope @ z
            gradient += slope.mT @ z[:, mine]
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, above):
        return above * ctx.saved_tensors[0], None, None, None, None


def hidden_positives_loss(z: Tensor, tokens: Tensor, codes: Tensor, pool: Tensor, pool_codes: Tensor, keep: Tensor,
                          share: float, temperature: float = 0.8, reweight: bool = True) -> Tensor:
    """The mean of l_i over pictures and kinds of projections; all vectors have length one.

    Args:
        z: (kinds, N, r), picture by picture. tokens, codes: t (N, d) and s* (N, r); pool, pool_codes: (p, d), (p, r).
        keep: bool (n, N), the patches in every denominator, the same for each picture. share: lambda.
        reweight: False: divide by sum_j w_ij of each patch in place of their mean.
    """
    spaces = [(tokens, pool, 1.0)] + ([(codes, pool_codes, share)] if share else [])
    return _HiddenPositives.apply(z, spaces, keep, temperature, reweight)


def neighbour_weights(logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """a_ij / neighbours of i, of attention logits (b, n, n): (b, n, n), 0 but for the 3 x 3 patches around i."""
    weights = logits.clamp(*(logits.quantile(q, dim=-1, keepdim=True) for q in (0.1, 0.9))).softmax(dim=-1) * 28
    weights = weights * (weights >= weights.mean(dim=-1, keepdim=True))
    place = torch.arange(logits.shape[-1], device=logits.device)
    near = [(x[:, None] - x).abs() <= 1 for x in (place // grid[1], place % grid[1])]
    near = (near[0] & near[1]).to(logits)  # (n, n)
    return weights * near / near.sum(dim=1, keepdim=True)


def build(rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A new head, and its centroids."""
    settings = rival.settings
    return ChannelHead(dim, settings.rank, settings.dropout), {"own": Centroids(num_classes, settings.rank)}


def random_tokens(fitting, step: int) -> Tensor:
    """Tokens of random patches of random views, one each if there are enough: (p, d), channels dropped."""
    features, count, generator = fitting.features, fitting.rival.settings.pool, fitting.generator("pool", step)
    views = torch.randperm(len(features), generator=generator)[:count]
    batches, n = views.split(fitting.rival.experiment.batch_size), features.grid[0] * features.grid[1]
    places = [torch.randint(n, (len(some), -(-count // len(views))), generator=generator) for some in batches]
    tokens = torch.cat(list(features.stream(batches, places)))  # (views, patches each, d)
    return drop_channels(tokens, fitting.rival.settings.target_dropout).flatten(0, 1)[:count]


def others_of(fitting):
    """A function of views (b,): their 3 x 3 weights (b, n, n), and their tokens in other colours (b, n, d) or None."""
    experiment, grid, alpha = fitting.rival.experiment, fitting.features.grid, fitting.rival.settings.consistency
    looks = fitting.other(facets=("query", "key"))
    colours = fitting.other(view=partial(photometric, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, grey=0.2,
                                         blur=0.5)) if alpha else None
    vit = looks.parts[0].backbone.vit
    index = block_of(experiment.backbone, vit, experiment.layer, "key")
    rotary = None if getattr(vit, "rope", None) is None else vit.rope.get_embed(shape=list(grid))

    def others(views: Tensor) -> tuple[Tensor, Tensor | None]:
        pairs = (look.split([part.dim for part in looks.parts], dim=-1) for look in fitting.tokens(views, looks).split(1))
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
    others, pool = others_of(fitting), F.normalize(random_tokens(fitting, -1), dim=-1)
    batches = batches_for(experiment, "rival", len(features), s.steps)
    adam = [{"params": [*part.parameters()], "lr": lr, "weight_decay": 0.0}
            for part, lr in ((project, s.lr), (own, s.probe_lr))]
    optimizer = torch.optim.AdamW([{"params": [*head.parameters()], "lr": s.lr, "weight_decay": s.weight_decay}, *adam])

    def compared(x: Tensor) -> Tensor:
        return F.normalize(drop_channels(x, s.target_dropout), dim=-1).flatten(0, 1)  # (N, .)

    def update(tokens: Tensor, step: int, _) -> Tensor:
        weights, coloured = others(batches[step])
        if step % s.pool_every == 0:
            made = teacher(random_tokens(fitting, step)[:, None])  # (p, 1, r)
            memory["codes"].copy_(F.normalize(drop_channels(made, s.target_dropout)[:, 0], dim=-1))
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
