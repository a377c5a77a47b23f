"""The run: pictures, views, student and teacher, schedules, and what is kept of it.

AdamW (Loshchilov and Hutter 2019) with linear warm-up and a cosine down; the teacher's decay rises by a cosine, as in
DINO. Every random choice is drawn from (seed, what it is for): a run that was killed ends with the same bits, on the
CPU, as one that was not. Labels are read by `judge` alone, and nothing of what it finds comes back.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.backbones import Backbone, small_vit
from cause_lib.data import load_dataset
from cause_lib.heads import ema_update
from cause_lib.runs.features import device_name
from cause_lib.runs.loop import seed_for, session
from cause_lib.runs.store import (artefact_folder, is_complete, library_version, load_checkpoint, new_artefact,
                                  save_checkpoint, write_record)
from pretraining.judge import judge_tokens, rgb_statistics
from pretraining.objective import Distilled, at_places, balance, distillation
from pretraining.views import draw_pictures, views_for


@dataclass(frozen=True)
class Settings:
    """Everything that makes a run; each is an argument of the command, `--steps 2000`.

    split, pictures: scenes learned from, and how many. image_size, patch_size: side in pixels of the pictures, and of
        the patches that the ViT cuts them into. dim, depth, num_heads: of the ViT.
    wide_size, wide_share: the teacher's view, its side in pixels and how much of the picture's side it shows at least.
    narrow_size, narrow_share, narrow_views: the student's, from which share of the side to which, and how many.
    recolour: how strongly the student's colours are changed, 0 to 1. hidden_share: of its patches, about.
    prototypes, hidden_dim, bottleneck_dim: the head, see `Distilled`.
    student_temperature, teacher_temperature: of the softmax, of the balancing.
    steps, batch_size, lr, final_lr, warmup, clip_norm: updates, pictures an update, AdamW's rate, updates in which it
        rises, bound of the gradient's norm. weight_decay; ema_decay: from, to.
    judge_steps, judge_pictures: how often tokens are judged on the way; on how many pictures, then and at the end.
    standardise_pictures: how many pictures set the last norm at the end.
    """

    seed: int = 0
    split: str = "pretrain"
    pictures: int = 8000
    image_size: int = 160
    patch_size: int = 8
    dim: int = 192
    depth: int = 6
    num_heads: int = 3
    wide_size: int = 128
    wide_share: float = 0.7
    narrow_size: int = 96
    narrow_share: tuple = (0.5, 1.0)
    narrow_views: int = 2
    recolour: float = 0.5
    hidden_share: float = 0.5
    prototypes: int = 128
    hidden_dim: int = 512
    bottleneck_dim: int = 96
    student_temperature: float = 0.1
    teacher_temperature: float = 0.03
    steps: int = 9000
    batch_size: int = 8
    lr: float = 1e-3
    final_lr: float = 2e-5
    warmup: int = 60
    clip_norm: float = 1.0
    weight_decay: float = 0.05
    ema_decay: tuple = (0.99, 0.999)
    judge_steps: int = 500
    judge_pictures: tuple = (32, 96)
    standardise_pictures: int = 500
    checkpoint_steps: int = 100
    num_workers: int = 2
    device: str = "auto"
    precision: str = "bf16"
    run_dir: str = "runs"


# What a run's weights do not depend on.
ASIDE = ("judge_steps", "judge_pictures", "checkpoint_steps", "num_workers", "device", "run_dir")
QUICK = dict(split="train", pictures=12, image_size=48, dim=64, depth=1, num_heads=2, wide_size=40, narrow_size=32,
             hidden_dim=16, bottleneck_dim=8, prototypes=8, steps=6, batch_size=4, warmup=2, judge_steps=4,
             judge_pictures=(4, 6), checkpoint_steps=2, num_workers=0, precision="no")


def pretrain(settings: Settings) -> Path:
    """Train and judge a backbone; the folder holds `bundled.safetensors` and `card.json`.

    The same settings again cost nothing; after a kill they go on.
    """
    pictures = draw_pictures(settings)
    data = load_dataset("scenes", settings.split, image_size=settings.image_size, limit=settings.pictures).fingerprint
    depends = {key: value for key, value in dataclasses.asdict(settings).items() if key not in ASIDE} | {"data": data}
    folder = artefact_folder(settings.run_dir, "pretraining", f"bundled-s{settings.seed}", depends)
    if is_complete(folder):
        return folder
    with session(settings) as accelerator:
        torch.manual_seed(seed_for(settings, "weights"))
        student = Distilled(new_vit(settings), settings.prototypes, settings.hidden_dim, settings.bottleneck_dim)
        random_vit = copy.deepcopy(student.vit)
        student = student.to(accelerator.device).train()
        teacher = copy.deepcopy(student).requires_grad_(False).eval()
        if accelerator.device.type == "cpu":
            for block in student.vit.blocks:
                block.attn.fused_attn = False  # its backward pass is slow there: a third of the time of an update
        optimizer = torch.optim.AdamW(groups(student, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.98))
        log = Log(folder, settings)

        losses, done, before, started = torch.zeros(settings.steps), 0, 0.0, time.time()
        if (saved := load_checkpoint(folder)) is not None:
            done, before = saved[0]["done"], saved[0]["seconds"]
            restore(saved[1], {"student": student, "teacher": teacher}, optimizer)
            losses.copy_(saved[1]["losses"])
        bar = tqdm(total=settings.steps, initial=done, desc="pretraining")
        for step in range(done, settings.steps):
            views = views_for(pictures, settings, step, accelerator.device)
            loss = objective(accelerator, student, teacher, views, settings)
            schedule(optimizer, settings, step)
            optimizer.zero_grad()
            accelerator.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
            optimizer.step()
            ema_update(teacher, student, cosine(settings.ema_decay, (step + 1) / settings.steps))
            losses[step] = loss.detach()
            bar.update()
            done = step + 1
            if done % settings.judge_steps == 0:
                log.write(done, before + time.time() - started, losses[:done], teacher.vit)
            if done % settings.checkpoint_steps == 0 and done < settings.steps:
                if not bool(losses.isfinite().all()):
                    raise RuntimeError(f"The loss is not finite by update {done}: lower lr ({settings.lr}).")
                save_checkpoint(folder, {"done": done, "seconds": before + time.time() - started},
                                {"losses": losses} | kept({"student": student, "teacher": teacher}, optimizer))
        bar.close()
        standardise(teacher.vit, pictures, settings)
        return finish(folder, settings, accelerator, teacher.vit, random_vit, log, data,
                      seconds=before + time.time() - started, losses=losses.tolist())


def new_vit(settings: Settings) -> VisionTransformer:
    """An untrained ViT, as `cause_lib.backbones` builds the shipped one."""
    return small_vit(**architecture(settings))


def architecture(settings: Settings) -> dict[str, int]:
    """The arguments of `small_vit`."""
    return {name: getattr(settings, name) for name in ("image_size", "patch_size", "dim", "depth", "num_heads")}


def objective(accelerator: Accelerator, student: Distilled, teacher: Distilled, views: dict[str, Tensor],
              settings: Settings) -> Tensor:
    """The loss of objective.py for a batch of views."""
    places = views["places"]  # (s b, n, 2)
    shared = ((places >= 0) & (places < 1)).all(dim=-1)  # (s b, n): what the teacher does not see has no target
    with accelerator.autocast():
        with torch.no_grad():
            said = teacher.cosines(teacher(views["wide"], views["wide_at"]))  # (b, n', K)
            said = at_places(said.repeat(settings.narrow_views, 1, 1), places)  # (s b, n, K)
        cosines = student.cosines(student(views["narrow"], views["narrow_at"], views["hidden"]))  # (s b, n, K)
    q = balance(said[shared], settings.teacher_temperature)
    return distillation(q, cosines[shared], settings.student_temperature)


def groups(student: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, tokens, positions and prototypes do not."""
    decay = {True: [], False: []}
    for name, parameter in student.named_parameters():
        kept = parameter.ndim < 2 or name.split(".")[-1] in ("cls_token", "pos_embed", "mask_token", "prototypes")
        decay[not kept].append(parameter)
    return [{"params": decay[True], "weight_decay": weight_decay}, {"params": decay[False], "weight_decay": 0.0}]


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, step: int) -> None:
    """AdamW's rate at this update."""
    lr = cosine((settings.lr, settings.final_lr), step / settings.steps) * min(1.0, (step + 1) / settings.warmup)
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine(ends: tuple[float, float], share: float) -> float:
    """From one end to the other along half a cosine, `share` in [0, 1] of the way."""
    return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * share)) / 2


def kept(models: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a run is, as named tensors; `restore` puts it back."""
    tensors = {f"{name}/{key}": value for name, model in models.items() for key, value in model.state_dict().items()}
    return tensors | {f"optimizer/{key}/{i}": value for i, slots in optimizer.state_dict()["state"].items()
                      for key, value in slots.items()}


def restore(tensors: dict[str, Tensor], models: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = value
    for name, model in models.items():
        model.load_state_dict(parts[name], strict=True)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        key, i = name.split("/")
        state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Log:
    """Losses and scores on the way, a line of JSON each, in a file beside the run's folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.path, self.settings = folder.with_name(folder.name + ".log.jsonl"), settings

    def write(self, step: int, seconds: float, losses: Tensor, vit: VisionTransformer) -> None:
        line = {"step": step, "seconds": round(seconds, 1), "loss": round(float(losses[-100:].mean()), 4)}
        scores = judge_vits({"trained": vit}, self.settings, self.settings.judge_pictures[0])["trained"]
        line |= {name: round(score["miou"], 4) for name, score in scores.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))

    def lines(self) -> list[dict[str, Any]]:
        """One a step, the latest where a run that went on judged it twice."""
        if not self.path.is_file():
            return []
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return sorted({line["step"]: line for line in lines}.values(), key=lambda line: line["step"])


def judge_vits(vits: dict[str, VisionTransformer], settings: Settings, pictures: int, *,
               rgb: bool = False) -> dict[str, Any]:
    """Scores (judge.py) of the tokens of ViTs by name, and of colours alone, on train and validation scenes."""
    items = []
    for split in ("train", "val"):
        dataset = load_dataset("scenes", split, image_size=settings.image_size, limit=pictures)
        items.append([dataset[i] for i in range(len(dataset))])
    arguments = (*items, dataset.num_classes, settings.patch_size)
    scores = {name: judge_tokens(as_backbone(vit, settings), *arguments) for name, vit in vits.items()}
    if rgb:
        scores["rgb"] = judge_tokens(partial(rgb_statistics, patch=settings.patch_size), *arguments, probes=False)
    return scores


def as_backbone(vit: VisionTransformer, settings: Settings) -> Backbone:
    """A frozen copy of a ViT, as `cause_lib` uses it."""
    return Backbone(copy.deepcopy(vit), name="bundled", image_size=settings.image_size, mean=(0.5,) * 3,
                    std=(0.5,) * 3, weights_sha256="", description="").to(vit.pos_embed.device)


def standardise(vit: VisionTransformer, pictures: np.ndarray, settings: Settings) -> None:
    """Set the last norm's scale and shift so that each entry of a token has mean 0 and variance 1 over the pictures.

    Tokens of a trained ViT share a large common part. It says nothing about a patch, and it drowns what does in every
    cosine; the objective does not see it either, for its cosines are taken after such a step (`Distilled.cosines`).
    """
    seen = as_backbone(vit, settings)
    every = max(1, len(pictures) // settings.standardise_pictures)
    total, squares, count = 0.0, 0.0, 0
    for part in np.array_split(pictures[::every], -(-len(pictures[::every]) // 16)):
        tokens = seen(torch.tensor(part, device=vit.pos_embed.device).float() / 255).flatten(0, 1).double()  # (m, d)
        total, squares, count = total + tokens.sum(dim=0), squares + tokens.square().sum(dim=0), count + len(tokens)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    with torch.no_grad():
        vit.norm.bias.copy_((vit.norm.bias - mean) / std)
        vit.norm.weight.copy_(vit.norm.weight / std)


def finish(folder: Path, settings: Settings, accelerator: Accelerator, vit: VisionTransformer,
           random_vit: VisionTransformer, log: Log, data: str, *, seconds: float, losses: list[float]) -> Path:
    """The teacher's ViT and its card."""
    state = {name: value.detach().cpu().half().contiguous() for name, value in vit.state_dict().items()}
    content = safetensors.torch.save(state, metadata={"vit": json.dumps(architecture(settings))})
    shipped = new_vit(settings)
    shipped.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    each = max(1, len(losses) // 200)
    card = {
        "name": "bundled", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
        "parameters": sum(value.numel() for value in state.values()), "vit": architecture(settings),
        "command": command(settings), "settings": dataclasses.asdict(settings),
        "data": {"dataset": "scenes", "split": settings.split, "pictures": settings.pictures, "fingerprint": data},
        "device": device_name(accelerator), "precision": settings.precision, "seconds": round(seconds, 1),
        "steps": settings.steps, "library": library_version(), "torch": torch.__version__,
        "loss": {"step": list(range(each, len(losses) + 1, each)),
                 "mean": [round(sum(losses[i:i + each]) / each, 4) for i in range(0, len(losses) - each + 1, each)]},
        "on the way": log.lines(),
        "scores": judge_vits({"trained": shipped, "random": random_vit}, settings, settings.judge_pictures[1],
                             rgb=True),
    }
    with new_artefact(folder) as beside:
        (beside / "bundled.safetensors").write_bytes(content)
        (beside / "card.json").write_text(json.dumps(card, indent=1, allow_nan=False) + "\n")
        write_record(beside, {"stage": "pretraining", "settings": dataclasses.asdict(settings)})
    return folder


def command(settings: Settings) -> str:
    """The command line that makes this run: what differs from the defaults, run_dir left out."""
    words = ["python -m pretraining"]
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        if value != field.default and field.name != "run_dir":
            value = " ".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{field.name.replace('_', '-')} {value}")
    return " ".join(words)
