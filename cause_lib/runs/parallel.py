"""Several processes, one run: each has a part of every batch, and sums put the parts together.

`accelerate launch` starts P processes, one a GPU. Of every batch of b pictures process i has those from  i b // P  on,
up to, not with,  (i + 1) b // P.  With L_x the term of picture x in the loss, over what the whole batch counts,

    L = sum_x L_x = sum_i (sum of L_x over the pictures of process i),    and the gradient likewise

so losses and gradients are added, by one all-reduce an update before the gradient's norm is bounded, and not averaged,
as DistributedDataParallel would. A picture is held against the whole batch: teacher projections and concepts come from
all processes (`gather`), and the bank is filled alike in each. Random numbers are drawn for the whole batch, and each
process uses those of its pictures (`heads.ROWS`). All have the same parameters, up to rounding those of one process.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor, nn

from cause_lib.errors import InputError
from cause_lib.heads import ROWS


@dataclass(frozen=True)
class Part:
    """The pictures of a batch that this process has: `first` up to, not with, `last`, of `size`; None: all of them."""

    first: int = 0
    last: int | None = None
    size: int | None = None

    @property
    def share(self) -> float:
        """Its pictures, as a fraction of the batch's."""
        return 1.0 if self.size is None else (self.last - self.first) / self.size

    def cut(self, batch: Tensor) -> Tensor:
        """The whole batch (b, ...) -> this process's pictures (b', ...)."""
        return batch[self.first:self.last]

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over all processes, the same in each; no gradient passes."""
        return x if self.size is None else reduce(x.detach(), "sum")

    def gather(self, x: Tensor) -> Tensor:
        """This process's pictures (b', ...) -> the whole batch (b, ...), the same in all; no gradient passes."""
        if self.size is None:
            return x
        whole = x.new_zeros(self.size, *x.shape[1:])  # for a sum: an all-gather wants parts of one size
        whole[self.first:self.last] = x.detach()
        return self.total(whole)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Until this ends, dropout is that of its pictures."""
        before = ROWS.set(None if self.size is None else (self.first, self.size))
        try:
            yield
        finally:
            ROWS.reset(before)

    def total_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every parameter's gradient becomes its sum over all processes, in one all-reduce."""
        if self.size is not None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            nn.utils.vector_to_parameters(self.total(nn.utils.parameters_to_vector(gradients)), gradients)


WHOLE = Part()


def part_of(accelerator: Accelerator, size: int) -> Part:
    """What this process has of batches of `size` pictures; ValueError where there are more processes than pictures."""
    count, i = accelerator.num_processes, accelerator.process_index
    if size < count:
        raise InputError(f"Batches of {size} pictures cannot be shared out between {count} processes: "
                         f"start at most {size} of them, or train on larger batches (batch_size, train_images).")
    return WHOLE if count == 1 else Part(i * size // count, (i + 1) * size // count, size)


def total_counts(accelerator: Accelerator, counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of whole numbers, each summed over all processes, with the dtype and on the device that it came with."""
    # as int64: neither gloo nor NCCL can add int16
    return {name: reduce(x.to(accelerator.device).long(), "sum").to(x) for name, x in counts.items()}
