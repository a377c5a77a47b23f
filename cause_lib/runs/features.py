"""Frozen features: the tokens T of every view of a data set, computed once where they fit.

The backbone never learns: with room for its tokens on disk (`cache_gb`), one forward pass serves every epoch, head and
seed. Without, they are computed batch by batch as they are asked for. Pictures and cached tokens are read ahead.
"""

import math
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore, Thread

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from cause_lib.backbones import Backbone, weights_fingerprint
from cause_lib.clusterbook import take_patches
from cause_lib.config import Experiment
from cause_lib.data import SegmentationDataset, load_dataset
from cause_lib.data.noted import once, stamps_of
from cause_lib.errors import InputError, WriteError
from cause_lib.kernels.bfloat16 import quicken
from cause_lib.runs.loop import generator_for, settled
from cause_lib.runs.saved import open_backbone, refused
from cause_lib.runs.store import (ROOM, artefact_folder, checkpoint_path, is_complete, is_made, locked, new_artefact,
                                  read_record, write_record)

RUNS = 8  # that would have to share a cache of all views before it was cheaper than the blocks that each asks for
PATIENCE, SAMPLE_POINTS, SAMPLE_VIEWS = 5.0, 100_000, 512  # seconds; tokens and views that k-means sees at most


def ahead(items: Iterable, depth: int = 2) -> Iterator:
    """The same items, each fetched by a thread while the `depth` before it are used; its errors are raised here. An
    end or a stop waits PATIENCE for the thread: what it reads may be a pipe into which nobody writes."""
    items, end, ready, wanted, ended = iter(items), object(), SimpleQueue(), Semaphore(depth), Event()

    def fetch() -> None:
        torch.set_num_threads(1)  # of this thread: with more threads than cores small operations take longer
        item = None
        while item is not end and wanted.acquire() and not ended.is_set():
            try:
                ready.put((item := next(items, end), None))
            except BaseException as error:
                ready.put((item := end, error))

    thread = Thread(target=fetch, name="ahead", daemon=True)  # a pool's would be waited for by the interpreter, too
    thread.start()
    try:
        while (got := ready.get())[0] is not end:
            wanted.release()
            yield got[0]
        if got[1] is not None:
            raise got[1]
    finally:
        ended.set()
        wanted.release()
        thread.join(PATIENCE)
        torch.set_num_threads(torch.get_num_threads())  # for threads that start later


def read_batches(dataset: Dataset, batches: Sequence[Tensor], accelerator: Accelerator,
                 num_workers: int = 0) -> Iterator[dict[str, Tensor]]:
    """The items of batches (b,) int64 of a `load_dataset`, read ahead by a thread or by `num_workers` processes.

    Yields:
        {"image": (b, 3, h, w) float32 in [0, 1], "label": (b, h, w) int64, "index": (b,)} on the accelerator's device.
    """
    # A generator of its own: a loader draws a seed, and the global random numbers belong to the training loop.
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers, collate_fn=partial(_items_of, dataset),
                        pin_memory=accelerator.device.type == "cuda", generator=torch.Generator())
    for items in ahead(loader):
        if isinstance(items, Exception):
            raise items
        yield {name: value.to(accelerator.device, non_blocking=True) for name, value in items.items()}


def _items_of(dataset: Dataset, views: Tensor) -> dict[str, Tensor] | Exception:
    """A batch, or what is wrong with it: raised in a worker process, that would come out under two tracebacks."""
    try:
        return default_collate([dataset[view] for view in views.tolist()])
    except (ValueError, FileNotFoundError) as error:
        return error


def open_dataset(experiment: Experiment, role: str, image_size: int, download: bool = True) -> SegmentationDataset:
    """The pictures of a run: role `train` gives its training views, `test` the whole pictures it is judged on."""
    split, crops, limit = {"train": (experiment.train_split, experiment.crops, experiment.train_images),
                           "test": (experiment.test_split, "none", experiment.test_images)}[role]
    return load_dataset(experiment.dataset, split, image_size=image_size, folder=experiment.folder, crops=crops,
                        crop_ratio=experiment.crop_ratio, limit=limit, num_classes=experiment.num_classes,
                        resize=experiment.resize, allow_corrupt=experiment.allow_corrupt, download=download,
                        judged=role == "test", view=experiment.test_view if role == "test" else None)


def refuse_unlabelled(experiment: Experiment, dataset: SegmentationDataset | None = None) -> None:
    """Before any work: raises ValueError where labels are to act on training and the pictures have none."""
    if not (experiment.label_free or experiment.release
            or (dataset or open_dataset(experiment, "train", experiment.image_size)).has_labels):
        raise InputError(f"label_free=False needs labels, and {experiment.dataset} {experiment.folder} has none: "
                         "set label_free to True.")


def refuse_changed(experiment: Experiment, dataset: SegmentationDataset, folder: Path, named: object = None) -> None:
    """Before an artefact is written: raises ValueError, and removes its checkpoint, where files of the data set changed
    since it was opened, or where `named`, the facts that the artefact is named by, are others."""
    same = (np.array_equal(getattr(dataset, of), getattr(named or dataset, of))
            for of in ("fingerprint", "classes", "colors"))
    if stamps_of(dataset.source.stamps) != dataset.source.stamps or not all(same):
        checkpoint_path(folder).unlink(missing_ok=True)
        raise InputError(f"Pictures or labels in {experiment.folder} changed while they were read: run again.")


class Some:
    """Tokens of some views, in whole blocks, in a file that is gone when the run ends: where few are asked for."""

    def __init__(self, folder: Path, shape: tuple[int, int, int], block: int) -> None:
        """No tokens yet, of `shape` (views, n, d). Raises OSError where the file cannot be made."""
        self.made: set[int] = set()
        self.bytes = 4 * block * shape[1] * shape[2]
        with said_whole(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder.parent, prefix=f".{folder.name}.")
            self.file.truncate(4 * math.prod(shape))  # a hole, which takes no room
            self.folder, self.tokens = folder, np.memmap(self.file, np.float32, "r", shape=shape)

    def put(self, i: int, tokens: Tensor) -> None:
        """Keep the tokens (b, n, d) of block i. Raises OSError where there is no room."""
        with said_whole(self.folder):  # not through the map: a full disk must be an error, not a crash
            self.file.seek(i * self.bytes)
            self.file.write(tokens.numpy().tobytes())
            self.file.flush()
        self.made.add(i)


@contextmanager
def said_whole(folder: Path) -> Iterator[None]:
    """A system's error about the features at `folder`, in one sentence with the way out."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise WriteError(f"Cannot write the features {folder} ({why}): {ROOM}, or set cache_gb to 0.") from error


class FrozenFeatures:
    """Tokens of the views of a data set, from disk or straight from the backbone.

    Attributes: `grid` rows and columns of patches, `dim` d, `weights` {"name", "sha256", "description"}, whether they
    are `cached` on disk; `len()` views.
    """

    def __init__(self, experiment: Experiment, role: str, image_size: int, accelerator: Accelerator, *,
                 mirrored: bool = False, view: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        """Find the tokens in the run's cache, or compute them, or make ready to compute them on the way.

        Args:
            role: `train` (views of the training split) or `test`. image_size: side in pixels.
            mirrored: the tokens of the mirrored pictures instead.
            view: (images (b, 3, h, w), their indices (b,)) -> images: the tokens of these instead. A function of the
                two alone, whose `__qualname__`, with what `repr` says of its arguments where it is a partial, names it.
        """
        self.experiment = experiment = settled(experiment)
        self.accelerator, self.mirrored, self.view = accelerator, mirrored, view
        self.dataset, self.image_size = open_dataset(experiment, role, image_size), image_size
        self.cached, self._some = False, None
        if role == "test":  # seen in both directions, and by two evaluations
            self.dataset.keep(Path(experiment.run_dir) / "features", experiment.cache_gb * 1e9 / 2)
        key = experiment.key("features") | {
            "role": role, "size": image_size, "mirrored": mirrored, "views": self.dataset.names,
            "data": self.dataset.fingerprint, "crop_ratio": experiment.crop_ratio,
            "weights": weights_fingerprint(experiment.backbone)}
        if view is not None:
            of = view if isinstance(view, partial) else partial(view)
            key["view"] = [of.func.__qualname__, repr(of.args), repr(of.keywords)]
        if self.dataset.squash != self.dataset.source.squash:
            key["squash"] = self.dataset.squash
        label = f"{experiment.dataset}-{self.dataset.split}-{experiment.backbone}-{image_size}{'-mirrored' * mirrored}"
        folder = artefact_folder(experiment.run_dir, "features", label, key)
        with accelerator.main_process_first():  # the others find it done
            if not is_made(folder):
                vit = self.backbone
                self.grid, self.dim = (image_size // vit.patch_size,) * 2, vit.dim
                self.weights = {"name": vit.name, "sha256": vit.weights_sha256, "description": vit.description}
                # Both directions of the test pictures, and the training views at up to two sizes, share the budget.
                if (needed := math.prod(self._shape) * 8e-9) > experiment.cache_gb:
                    if experiment.cache_gb:
                        warnings.warn(f"{len(self)} views need cache_gb={math.ceil(10 * needed) / 10}: with less, the "
                                      "backbone is run again for every batch, which takes longer.", stacklevel=2)
                    return
                few = role == "train" and RUNS * self._asked() <= len(self) // self._block
                if few and accelerator.num_processes == 1:
                    self._some = once(("tokens", folder, self._block), lambda: Some(folder, self._shape, self._block))
                    self._tokens, self.cached = self._some.tokens, True
                    self._checked = np.ones(len(self), dtype=bool)  # made by this process
                    return
                with locked(folder):
                    if not is_complete(folder):  # another process may have made it meanwhile
                        self._fill(folder)
        with refused(f"The features {folder / 'tokens.npy'} are damaged", f"remove {folder} and run again.",
                     (ValueError, OSError, EOFError, LookupError, TypeError)):
            notes = read_record(folder)["notes"]
            self.grid, self.dim, self.weights = tuple(notes["grid"]), notes["dim"], notes["weights"]
            self._tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)  # (views, n, d)
            if self._tokens.shape != self._shape or self._tokens.dtype != np.float32:
                raise InputError(f"{self._tokens.shape} of {self._tokens.dtype} instead of {self._shape} of float32")
            written = read_record(folder).get("crc32")  # of each view, 8 hexadecimal digits; None: of before
            self._crc32 = None if written is None else np.frombuffer(bytes.fromhex(written), ">u4", len(self))
        self.folder, self._checked = folder, np.full(len(self), written is None)
        self.cached = True

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def _block(self) -> int:
        """Views whose tokens are computed together, whoever asks for one of them: so their bits are always the same."""
        return self.experiment.batch_size

    def _asked(self) -> int:
        """About how many views a run asks for."""
        e = self.experiment
        return (e.concept_steps + e.head_steps + e.probe_steps) * e.batch_size + SAMPLE_VIEWS

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Of all tokens: (views, n, d)."""
        return len(self), self.grid[0] * self.grid[1], self.dim

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, loaded when first needed, on the run's device."""
        backbone = open_backbone(self.experiment, self.image_size).to(self.accelerator.device)
        return in_bfloat16(backbone) if self.experiment.precision == "bf16_backbone" else backbone

    def stream(self, batches: Sequence[Tensor], patches: Iterable[Tensor] | None = None) -> Iterator[Tensor]:
        """The tokens of batch after batch, on the run's device: (b, n or n', d) float32.

        Args:
            batches: of each its views, (b,) int64.
            patches: of each those that are wanted, (n',) or (b, n') int64; None: all.
        """
        wanted = [None] * len(batches) if patches is None else patches
        if self._some is not None:
            for views, kept, _ in zip(batches, wanted, self._grow(batches)):
                yield self._read(views, kept).to(self.accelerator.device, non_blocking=True)
            return
        if self.cached:
            for tokens in ahead(map(self._read, batches, wanted)):
                yield tokens.to(self.accelerator.device, non_blocking=True)
            return
        for items, kept in zip(self.pictures(batches), wanted):
            tokens = self.see(items["image"])
            yield tokens if kept is None else take_patches(tokens, kept.to(tokens.device, non_blocking=True))

    def pictures(self, batches: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """The items of batch after batch, see `read_batches`."""
        for items in read_batches(self.dataset, batches, self.accelerator, self.experiment.num_workers):
            yield items if self.view is None else items | {"image": self.view(items["image"], items["index"])}

    def see(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w) in [0, 1] on the run's device -> tokens (b, n, d) float32; turns them if `mirrored`."""
        with self.accelerator.autocast():
            return self.backbone(images.flip(-1) if self.mirrored else images).float()

    @torch.no_grad()
    def sample(self, head: nn.Module | None = None) -> Tensor:
        """Tokens, or a head's features, of random patches of random views, in each process: (m, d or r) float32."""
        generator = generator_for(self.experiment, "sample")
        views = torch.randperm(len(self), generator=generator)[:SAMPLE_VIEWS].sort().values
        n, points, batches = self._shape[1], [], views.split(self.experiment.batch_size)
        each = min(n, -(-SAMPLE_POINTS // len(views)))
        for tokens in tqdm(self.stream(batches), total=len(batches), desc="sample", leave=False,
                           disable=not self.accelerator.is_main_process):
            x = tokens if head is None else head(tokens, self.grid).float()  # (b, n, d or r)
            kept = torch.stack([torch.randperm(n, generator=generator)[:each] for _ in range(len(x))])
            points.append(take_patches(x, kept.to(x.device, non_blocking=True)).flatten(0, 1))
        return torch.cat(points)

    def _grow(self, batches: Sequence[Tensor]) -> Iterator[None]:
        """Makes, before each of these batches, the blocks of its views that are not made yet."""
        there, new = set(self._some.made), []
        for views in batches:
            new.append([i for i in (views // self._block).unique().tolist() if i not in there])
            there.update(new[-1])
        blocks = [torch.arange(i * self._block, min((i + 1) * self._block, len(self))) for row in new for i in row]
        items = self.pictures(blocks)
        for row in new:
            for i in row:
                self._some.put(i, self.see(next(items)["image"]).cpu())
            yield

    def _read(self, views: Tensor, patches: Tensor | None = None) -> Tensor:
        """Cached tokens of views (b,), all or those of patches (n',) or (b, n'): (b, n or n', d) on the CPU."""
        source, rows = self._tokens, views
        for view in views[~self._checked[views.numpy()]].tolist():
            if zlib.crc32(source[view]) != self._crc32[view]:
                raise InputError(f"The features {self.folder / 'tokens.npy'} are damaged (view {view} is not what was "
                                 f"written): remove {self.folder} and run again.")
            self._checked[view] = True
        if patches is not None:
            rows = views[:, None] * source.shape[1] + patches  # (b, n')
            source = source.reshape(-1, self.dim)  # (views n, d)
        tokens = torch.empty(*rows.shape, *source.shape[1:], pin_memory=self.accelerator.device.type == "cuda")
        np.take(source, rows.numpy(), axis=0, out=tokens.numpy(), mode="clip")
        return tokens

    def _fill(self, folder: Path) -> None:
        """One pass over all views; straight to disk, so that memory holds one batch."""
        started, crc32 = time.monotonic(), bytearray()
        batches = torch.arange(len(self)).split(self.experiment.batch_size)
        with new_artefact(folder, f"{ROOM}, or set cache_gb to 0") as beside:
            with (beside / "tokens.npy").open("wb") as file:  # not mapped: a full disk must be an error, not a crash
                np.lib.format.write_array_header_1_0(file, dict(descr="<f4", fortran_order=False, shape=self._shape))
                for batch in tqdm(self.stream(batches), total=len(batches), desc="backbone", leave=False):
                    tokens = batch.cpu().numpy().astype("<f4", copy=False)
                    file.write(tokens.tobytes())
                    for view in tokens:
                        crc32 += zlib.crc32(view.tobytes()).to_bytes(4, "big")
            refuse_changed(self.experiment, self.dataset, folder)
            write_record(beside, {
                "stage": "features", "experiment": self.experiment.to_dict(), "weights": self.weights,
                "device": device_name(self.accelerator), "seconds": round(time.monotonic() - started, 2),
                "notes": {"grid": self.grid, "dim": self.dim, "weights": self.weights, "views": len(self)},
                "crc32": crc32.hex()}, unhashed=("tokens.npy",))


def in_bfloat16(backbone: Backbone) -> Backbone:
    """The backbone with its blocks in bfloat16, weights too; patches, positions and the last norm stay in float32."""
    blocks, norm = backbone.vit.blocks, backbone.vit.norm
    blocks.to(torch.bfloat16)
    for module, dtype in ((blocks[0], torch.bfloat16), (blocks[0].norm1, torch.bfloat16), (norm, torch.float32)):
        module.register_forward_pre_hook(lambda _, inputs, dtype=dtype: (inputs[0].to(dtype), *inputs[1:]))
    if backbone.mean.device.type == "cpu":
        quicken(blocks)
    return backbone


def device_name(accelerator: Accelerator) -> str:
    """The device in words: `cpu, 2 threads`, or the GPU's name; `4 x cuda, ...` for four processes."""
    device, threads, several = accelerator.device, torch.get_num_threads(), accelerator.num_processes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
    return f"{several} x " * (several > 1) + f"{device.type}, {name}"
