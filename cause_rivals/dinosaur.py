"""DINOSAUR: slots of a picture that together reconstruct its tokens, and clusters of slots.

Seitzer et al.: Bridging the Gap to Real-World Object-Centric Learning, ICLR 2023. Tokens t (b, n, d) before the final
norm; k slots s of width o that start as mu + exp(logsigma) noise, mu and logsigma shared by all; three rounds of

    x = MLP(LN t);  a = softmax over slots of q(LN s) . k(LN x) / sqrt(o);  w = (a + 1e-8) / sum over patches
    s <- GRU(w v(LN x), s);   s <- s + MLP(LN s)
    decoder `mlp`: (y, alpha) = MLP(s + position);  a_s = softmax over slots of alpha;  reconstruction sum_s a_s y_s
    decoder `transformer`: t_1 .. t_i and the slots -> t_{i+1};  a_s = the last layer's attention to slots
    loss = mean squared error of the reconstruction;  segments = argmax_s a_s;  v_s = sum_i a_si t_i, of length one

Released code, amazon-science/object-centric-learning-framework 0a97292cb0db:
    followed      tokens not normed, nor is the loss; layers of the transformer start alike; no positions there
    not followed  clusters of training slots, where the code clusters those of the validation set; no random crops
    changed here  one noise for all pictures when judged; positions are resized to another grid; `share` of the patches
                  decoded at an update (mlp); `scale=normed`, for backbones with a few tokens of twenty times the norm,
                  which are all that a raw loss sees; `descriptor=segment`, since after few updates masks are nearly
                  even and such sums nearly the same; many fewer updates of a narrower decoder, see the presets
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import take_patches
from cause_lib.errors import InputError
from cause_lib.runs.loop import Run, batches_for, descend
from cause_lib.runs.parallel import Part
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.segments import SegmentHead, cluster_segments, readout, segment_vectors
from cause_rivals.slots import MLPDecoder, SlotAttention, TransformerDecoder

if TYPE_CHECKING:
    from cause_rivals.run import Fitting

FACETS, SIZE = ("output",), "train_size"


@dataclasses.dataclass(frozen=True)
class Settings(MethodSettings):
    """Settings of DINOSAUR."""

    slots: int = setting(7, "slots of a picture, k (7; VOC 6)", "a picture has at most so many segments", 1, 4096)
    width: int = setting(256, "width of slots, o (256)", "it is a width", 1, 65_536)
    rounds: int = setting(3, "rounds of slot attention (3)", "slots look at tokens at least once", 1, 100)
    decoder: str = setting("mlp", "`mlp`, or the autoregressive `transformer`", "there are these two",
                           choices=("mlp", "transformer"))
    hidden: int = setting(2048, "width of the decoder `mlp` (2048)", "it is a width", 1, 65_536)
    layers: int = setting(4, "layers of the `transformer` (4)", "there is a last one", 1, 100)
    heads: int = setting(8, "its attention heads (8; VOC 4)", "they share the width of the tokens", 1, 1024)
    share: float = setting(1.0, "share of the patches that the `mlp` decodes at an update (1)", "it is a share",
                           1e-4, 1.0)
    scale: str = setting("raw", "tokens are as they come, `raw`, or each `normed` to mean 0 and variance 1 (raw)",
                         "there are these two", choices=("raw", "normed"))
    descriptor: str = setting("masks", "a segment is the sum of tokens weighted by its slot's `masks`, or the mean "
                              "token of the patches that it wins, `segment` (masks)", "there are these two",
                              choices=("masks", "segment"))
    flip: bool = setting(True, "half of the training pictures are mirrored", "they are, or they are not")
    steps: int = setting(500_000, "updates (500,000)", "it is a number of updates", 0)
    rate: float = setting(4e-4, "Adam's rate (4e-4)", "it is the length of a step down the loss", 0.0)
    warmup_steps: int = setting(10_000, "updates until the rate is reached (10,000)", "it is a number of updates", 0)
    decay_steps: int = setting(100_000, "updates in which the rate halves (100,000)", "it is a number of updates", 1)
    clip_norm: float = setting(1.0, "bound of the gradient norm (1)", "gradients are scaled down to it", 1e-12)


def rate_factor(step: int, warmup_steps: int, decay_steps: int) -> float:
    """What the rate is multiplied by at an update, counted from 0: it rises linearly to 1, then halves and halves."""
    return step / warmup_steps if step < warmup_steps else 0.5 ** ((step - warmup_steps) / decay_steps)


class SlotHead(SegmentHead):
    """Slots and their decoder; segments are the decoder's masks."""

    def __init__(self, dim: int, settings: Settings, grid: tuple[int, int]) -> None:
        super().__init__("none")
        self.settings, o = settings, settings.width
        self.mu, self.logsigma = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, o))) for _ in range(2))
        self.register_buffer("noise", torch.randn(1, settings.slots, o))  # of every picture that is judged
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, o))
        self.attention = SlotAttention(o)
        self.decoder = (MLPDecoder(dim, o, settings.hidden, grid) if settings.decoder == "mlp"
                        else TransformerDecoder(dim, o, settings.layers, settings.heads))

    def scaled(self, tokens: Tensor) -> Tensor:
        """What slots see, reconstruct and are described by: (b, n, d)."""
        return tokens if self.settings.scale == "raw" else F.layer_norm(tokens, tokens.shape[-1:])

    def reconstruct(self, tokens: Tensor, noise: Tensor, grid: tuple[int, int],
                    kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (b, n, d), noise (b, k, o) -> reconstruction (b, n, d) and masks (b, n, k), of patches `kept`."""
        slots = self.attention(self.mu + self.logsigma.exp() * noise, self.enter(tokens), self.settings.rounds)
        return self.decoder(slots, tokens, grid, kept)

    @torch.no_grad()
    def segments(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See SegmentHead."""
        tokens = self.scaled(tokens)
        masks = self.reconstruct(tokens, self.noise.expand(len(tokens), -1, -1), grid)[1]
        own = masks.argmax(dim=2)  # (b, n)
        soft = self.settings.descriptor == "masks"
        return segment_vectors(tokens, masks if soft else F.one_hot(own, masks.shape[2])), own


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Slots and decoder, and the read-out `own`. Raises ValueError where the heads do not divide the width."""
    settings: Settings = rival.settings
    if settings.decoder == "transformer" and dim % settings.heads:
        raise InputError(f"Setting heads must divide the width of the tokens, {dim}, and {settings.heads} does not.")
    return SlotHead(dim, settings, grid), {"own": readout(dim, num_classes, "none")}


def fit(fitting: Fitting) -> Run:
    """Train slots and decoder, then cluster the slots of training pictures."""
    rival, head, features = fitting.rival, fitting.head.train(), fitting.features
    settings: Settings = rival.settings
    mirrored = fitting.other(mirrored=True) if settings.flip else None
    batches = batches_for(rival.experiment, "rival", len(features), settings.steps)
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.rate)
    n = math.prod(features.grid)

    def update(tokens: Tensor, step: int, part: Part) -> Tensor:
        generator, kept = fitting.generator("update", step), None
        if mirrored is not None:
            turned = (torch.rand(len(tokens), 1, 1, generator=generator) < 0.5).to(tokens.device)
            tokens = torch.where(turned, fitting.tokens(batches[step], mirrored), tokens)
        tokens = head.scaled(tokens)
        if settings.decoder == "mlp" and settings.share < 1:
            kept = torch.randperm(n, generator=generator)[:max(1, round(settings.share * n))].to(tokens.device)
        noise = torch.randn(len(tokens), *head.noise.shape[1:], generator=generator).to(tokens.device)
        made, _ = head.reconstruct(tokens, noise, features.grid, kept)
        loss = F.mse_loss(made, tokens if kept is None else take_patches(tokens, kept))
        optimizer.param_groups[0]["lr"] = settings.rate * rate_factor(step, settings.warmup_steps, settings.decay_steps)
        descend(optimizer, loss, clip=settings.clip_norm)
        return loss.detach()

    run = fitting.train(Run(rival.experiment, fitting.folder, settings.steps, {"head": head}, optimizer, update))
    cluster_segments(fitting, restarts=20)
    return run
