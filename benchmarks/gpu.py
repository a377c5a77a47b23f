"""Everything that only a GPU can show, in one command of some minutes, without network:

    python -m benchmarks gpu             writes benchmarks/results/gpu-<card>.json and the page beside it, .md
    python -m benchmarks gpu --quick     tiny sizes, on a CPU too: shows that all of it runs

    parity       kernels, losses and heads in float32 on the device against float64 on the CPU; whole runs on the device,
                 in each precision, against the same run on the CPU; whether two runs give the same bits
    waits        source lines of a training update, and of the CRF, at which the host waits for the device
    table        the rows of `python -m benchmarks`
    backbone     ViT-S on patches of 8 in each number format: seconds and cosine with float32
    pretraining  updates a second of `python -m pretraining`, and what the shipped run would take
    run          a run of CamVid's size on generated pictures: seconds and peak memory a stage

A part that fails is recorded with its reason, and the others go on. Ends with 1 if a part failed or parity does not hold.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import contrast, crf, heads, kmeans, modularity
from benchmarks.measure import alternate, machine, measure_curve, measure_row
from cause_lib import reference, stages
from cause_lib.backbones import Backbone, load_backbone
from cause_lib.clusterbook import argmax_concepts, modularity_loss
from cause_lib.config import Experiment
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.crf import dense_crf
from cause_lib.heads import MLPHead, TRHead
from cause_lib.probes import cosine_kmeans
from cause_lib.runs.store import library_version, read_record

FLOAT32 = 2e-4  # relative distance in the Euclidean norm that float32 may have from float64
RUNS = 0.05  # mIoU by which a short run in another precision, or on another device, may differ
TINY = {"dataset": "scenes", "train_images": 24, "test_images": 12, "image_size": 80, "num_concepts": 64,
        "projection_dim": 64, "concept_steps": 20, "head_steps": 20, "probe_steps": 20, "batch_size": 8, "seed": 0}
CAMVID = {"dataset": "scenes", "train_images": 367, "test_images": 233, "image_size": 320, "num_concepts": 2048,
          "projection_dim": 2048, "concept_steps": 300, "head_steps": 300, "probe_steps": 300, "num_workers": 8,
          "cache_gb": 40.0, "kmeans_restarts": 2}
QUICK = TINY | {"train_images": 6, "test_images": 3, "image_size": 48, "num_concepts": 8, "projection_dim": 8,
                "concept_steps": 2, "head_steps": 2, "probe_steps": 2, "batch_size": 2, "kmeans_restarts": 1}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries everything, measures nothing")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--output", type=Path, help="the JSON file; the page is put beside it")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here: add --device cpu --quick to try the command.")
    here = machine(given.device)
    path = given.output or Path(__file__).parent / f"results/gpu-{here['device'].lower().replace(' ', '-')}.json"
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "library": library_version(), "machine": here,
                              "quick": given.quick, "parts": {}}
    for name in given.parts:
        started = time.perf_counter()
        try:
            found = PARTS[name](given.device, given.quick)
        except Exception as error:  # one part must not cost the others
            found = {"failed": f"{type(error).__name__}: {error}"}
        record["parts"][name] = found | {"seconds": round(time.perf_counter() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
        path.with_suffix(".md").write_text(page(record), encoding="utf8")
        print(section(name, record["parts"][name]), flush=True)
    return int(any("failed" in found or not found.get("holds", True) for found in record["parts"].values()))


# --- parity ---

def parity(device: str, quick: bool) -> dict[str, Any]:
    """Distances of values and gradients from float64 on the CPU, and of whole runs from the CPU's."""
    distances = {name: check(device) for name, check in CHECKS.items()}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"cpu": ("cpu", "no"), device: (device, "no"), f"{device}, again": (device, "no"),
                f"{device}, bf16": (device, "bf16")} | ({f"{device}, fp16": (device, "fp16")} if device == "cuda" else {})
        runs = {way: _short_run(QUICK if quick else TINY, Path(folder) / way.replace(", ", "-"), *how)
                for way, how in ways.items()}
    same = runs[device] == runs[f"{device}, again"]
    apart = {way: max(abs(run[name] - runs["cpu"][name]) for name in run) for way, run in runs.items()}
    holds = all(value <= FLOAT32 for value in distances.values()) and (quick or all(v <= RUNS for v in apart.values()))
    return {"holds": holds, "distances": distances, "runs": runs, "miou_apart": apart, "same_bits_twice": same}


def _short_run(settings: dict[str, Any], folder: Path, device: str, precision: str) -> dict[str, float]:
    """mIoU of every row of a run with the TR head."""
    experiment = Experiment(**settings, head="tr", run_dir=str(folder), device=device, precision=precision)
    results = [*read_record(stages.evaluate(experiment))["results"],
               *read_record(stages.evaluate_baseline(experiment))["results"]]
    return {f"{row['method']} {row['readout']}{' with CRF' * row['crf']}": row["miou"] for row in results}


def distance(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def winners(device: str) -> float:
    """Share of pairs of patches whose concept is another one; ties, odd sizes and more than one program included."""
    wrong, total = 0, 0
    for b, n, k, whole in ((1, 7, 3, False), (2, 65, 33, True), (3, 100, 257, False), (1, 410, 2048, True)):
        affinity = numbers(b, n, k).clamp(min=0).float()
        affinity = (affinity * 3).round() if whole else affinity  # whole numbers: many products are equal
        wrong += int((argmax_concepts(affinity.to(device)).cpu() != argmax_concepts(affinity)).sum())
        total += b * n * n
    return wrong / total


def modularity_parity(device: str) -> float:
    tokens, start = numbers(3, 50, 24), numbers(70, 24, seed=1)
    exact, ours = start.clone().requires_grad_(), start.float().to(device).requires_grad_()
    values = [reference.modularity_loss(tokens, exact), modularity_loss(tokens.float().to(device), ours)]
    for value in values:
        value.backward()
    return max(distance(values[1], values[0]), distance(ours.grad, exact.grad))


def contrast_parity(device: str) -> float:
    """Loss, gradients of features and of the projection, with a filled bank."""
    book = F.normalize(numbers(12, 24), dim=-1)
    features, teacher, layer = numbers(2, 30, 10, seed=1), numbers(2, 30, 16, seed=2), nn.Linear(10, 16).double()
    concepts, entries = numbers(2, 30, seed=3).abs().mul(4).long() % 12, (numbers(40, 16, seed=4), torch.arange(40) % 12)
    found = []
    for kind, place in ((torch.float64, "cpu"), (torch.float32, device)):
        f, projection = features.to(place, kind).clone().requires_grad_(), nn.Linear(10, 16)
        projection.load_state_dict(layer.state_dict())
        projection = projection.to(place, kind)
        bank = ConceptBank(12, 16, 8, device=place, dtype=kind)
        bank.update(entries[0].to(place, kind), entries[1].to(place))
        loss = concept_contrastive_loss(f, teacher.to(place, kind), concepts.to(place), (book @ book.T).to(place, kind),
                                        bank, projection=projection)
        loss.backward()
        found.append((loss, f.grad, projection.weight.grad))
    return max(distance(ours, exact) for exact, ours in zip(*found))


def heads_parity(device: str) -> float:
    tokens, found = numbers(2, 30, 24), []
    torch.manual_seed(0)
    for head in (MLPHead(24, 10), TRHead(numbers(12, 24, seed=1).float(), (5, 6), 10)):
        head = head.eval().double()
        exact = head(tokens, (5, 6))
        found.append(distance(head.float().to(device)(tokens.float().to(device), (5, 6)), exact))
    return max(found)


def crf_parity(device: str) -> float:
    """Marginals; the lattice's float32 is the CPU's too."""
    g = torch.Generator().manual_seed(0)
    images, scores = torch.cat([crf.photograph(96, g) for _ in range(2)]), torch.randn(2, 9, 96, 96, generator=g)
    scores = F.interpolate(scores[..., ::16, ::16], (96, 96), mode="bilinear").log_softmax(dim=1)
    return distance(dense_crf(images.to(device), scores.to(device)), dense_crf(images, scores))


def kmeans_parity(device: str) -> float:
    """Mean cosine of points with their nearest centroid, from the same start."""
    points = numbers(3000, 24).float()
    points[:1500] += 1
    found = []
    for place in ("cpu", device):
        centroids = cosine_kmeans(points.to(place), 9, restarts=2, generator=torch.Generator().manual_seed(0)).cpu()
        found.append((F.normalize(points, dim=-1) @ F.normalize(centroids, dim=-1).T).amax(dim=1).mean())
    return distance(found[1], found[0])


def tokens_parity(device: str) -> float:
    backbone, images = load_backbone("bundled"), torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    return distance(backbone.to(device)(images.to(device)), load_backbone("bundled")(images))


CHECKS: dict[str, Callable[[str], float]] = {
    "argmax of concepts, share of pairs": winners, "modularity, value and gradient": modularity_parity,
    "contrast, value and gradients": contrast_parity, "heads": heads_parity, "CRF's marginals": crf_parity,
    "k-means, mean cosine": kmeans_parity, "tokens of bundled": tokens_parity}


# --- speed ---

def waits(device: str, quick: bool) -> dict[str, Any]:
    """How often a line makes the host wait for the device: a training update, and a picture in the CRF."""
    if device != "cuda":
        return {"lines": {}, "note": "needs a GPU"}
    lines: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for head in ("mlp", "tr"):
            experiment = Experiment(**TINY, head=head, run_dir=folder, device=device, crf=False, checkpoint_steps=1000)
            fit = {"clusterbook": stages.fit_clusterbook, f"head {head}": stages.fit_head,
                   f"probe {head}": stages.fit_probe}
            for name, stage in fit.items():
                lines[name] = _waits_of(lambda s=stage, e=experiment: s(e), TINY["head_steps"])
    images, scores = torch.rand(1, 3, 96, 96, device=device), torch.randn(1, 9, 96, 96, device=device).log_softmax(1)
    dense_crf(images, scores)
    lines["CRF, a picture"] = _waits_of(lambda: dense_crf(images, scores), 1)
    return {"lines": {name: {line: count for line, count in found.items() if count >= 0.5}
                      for name, found in lines.items()}}


def _waits_of(run: Callable[[], Any], updates: int) -> dict[str, float]:
    """Source line -> waits an update."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]
    return {place: count / updates for place, count in collections.Counter(places).most_common()}


def rows(device: str, quick: bool) -> dict[str, Any]:
    """The benchmark's rows and curves, and what of them has a target."""
    subjects = {module.__name__.rpartition(".")[2]: module for module in (modularity, contrast, crf, kmeans, heads)}
    found = {name: {"rows": [measure_row(row, device, name, quick) for row in module.ROWS],
                    "curves": [measure_curve(curve, device, quick) for curve in module.CURVES]}
             for name, module in subjects.items()}
    updates = {form: one["median"] for form, one in found["heads"]["rows"][0]["forms"].items()}
    return found | {"ratios": {
        "one TR head over the backbone's forward": updates[heads.ONE] / updates[heads.FLOOR],
        "four heads over one": updates[heads.TOGETHER] / updates[heads.ONE]}}


def backbone(device: str, quick: bool) -> dict[str, Any]:
    """A pass of ViT-S on patches of 8, random weights, in each format: median seconds, cosine of tokens with float32."""
    import timm

    b, size, depth = (2, 32, 1) if quick else (16, 320, 12)
    torch.manual_seed(0)
    images = torch.rand(b, 3, size, size, device=device)

    def built() -> Backbone:
        torch.manual_seed(0)
        vit = timm.models.vision_transformer.VisionTransformer(patch_size=8, embed_dim=384, depth=depth, num_heads=6,
                                                               num_classes=0, global_pool="", dynamic_img_size=True)
        return Backbone(vit, name="random", image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3, weights_sha256="",
                        description="").to(device)

    plain, whole = built(), built().to(torch.bfloat16)
    passes: dict[str, Callable[[], Tensor]] = {"float32": lambda: plain(images)}
    for name, kind in (("bf16", torch.bfloat16), *((("fp16", torch.float16),) if device == "cuda" else ())):
        def cast(kind: torch.dtype = kind) -> Tensor:
            with torch.autocast(device, dtype=kind):
                return plain(images)
        passes[f"{name} by autocast"] = cast
    passes["bf16 weights"] = lambda: whole(images.to(torch.bfloat16))
    if device == "cuda":
        def tensor_cores() -> Tensor:
            torch.set_float32_matmul_precision("high")
            try:
                return plain(images)
            finally:
                torch.set_float32_matmul_precision("highest")
        compiled = built().to(torch.bfloat16)
        compiled.vit.blocks = torch.compile(compiled.vit.blocks)
        passes |= {"tf32": tensor_cores, "bf16 weights, compiled": lambda: compiled(images.to(torch.bfloat16))}
    exact = passes["float32"]()
    cosines = {name: float(F.cosine_similarity(run().float(), exact, dim=-1).mean()) for name, run in passes.items()}
    row = SimpleNamespace(name="backbone", quick={}, case=lambda form, device: lambda: (passes[form](), None)[1])
    seconds = alternate(row, list(passes), {}, device, 1 if quick else 7)
    return {"pictures": b, "size": size, "forms": {
        name: {"median": sorted(times)[len(times) // 2], "cosine": cosines[name]} for name, times in seconds.items()}}


def pretraining(device: str, quick: bool) -> dict[str, Any]:
    from pretraining.train import QUICK as SMALL
    from pretraining.train import Settings, pretrain

    changes = SMALL if quick else {"steps": 300, "pictures": 400, "judge_steps": 1000, "judge_pictures": (32, 32),
                                   "standardise_pictures": 100, "num_workers": 8}
    with tempfile.TemporaryDirectory() as folder:
        card = json.loads((pretrain(Settings(**changes, device=device, run_dir=folder)) / "card.json").read_text())
    each = card["seconds"] / card["steps"]
    return {"updates": card["steps"], "seconds_an_update": each, "minutes_for_the_shipped": each * Settings.steps / 60,
            "first_loss": card["loss"]["mean"][0], "last_loss": card["loss"]["mean"][-1],
            "scores": card["scores"]}


def run(device: str, quick: bool) -> dict[str, Any]:
    """Seconds and peak memory of each stage; features are cached by the first stage that reads them."""
    settings, found = QUICK if quick else CAMVID, {}
    with tempfile.TemporaryDirectory() as folder:
        for head in ("mlp", "tr"):
            experiment = Experiment(**settings, head=head, run_dir=folder, device=device, precision="bf16")
            for name in ("fit_baseline", "fit_clusterbook", "fit_head", "fit_probe", "evaluate"):
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                started = time.perf_counter()
                made = getattr(stages, name)(experiment)
                seconds = time.perf_counter() - started
                if head == "mlp" or name not in ("fit_baseline", "fit_clusterbook"):  # which both heads share
                    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
                    found[f"{name} {head}"] = {"seconds": round(seconds, 2), "peak_bytes": peak}
            found[f"evaluate {head}"]["miou"] = {
                f"{row['readout']}{' with CRF' * row['crf']}": row["miou"]
                for row in read_record(made)["results"]}
    return {"settings": settings, "stages": found}


PARTS = {"parity": parity, "waits": waits, "table": rows, "backbone": backbone, "pretraining": pretraining, "run": run}


# --- the page ---

def page(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    here = record["machine"]
    return "\n\n".join([
        f"# {here['device']}", f"torch {here['torch']}, Python {here['python']}, {here['cpu']}; measured on "
        f"{record['date']} with library {record['library']}"
        + ("; tiny sizes: shows that all of it runs, and measures nothing" if record["quick"] else "")
        + ". Made by `python -m benchmarks gpu`.",
        *(section(name, found) for name, found in record["parts"].items())]) + "\n"


def section(name: str, found: dict[str, Any]) -> str:
    """One part as Markdown: a line a number, named by the path to it."""
    lines = [f"## {name} ({found['seconds']} s)", ""]
    if name == "table":
        from benchmarks.__main__ import growth, table

        for subject in (each for each in found.values() if isinstance(each, dict) and "rows" in each):
            lines += ["```text", *(table(one) for one in subject["rows"]), *map(growth, subject["curves"]), "```", ""]
        found = {"ratios": found.get("ratios", {})} | ({"failed": found["failed"]} if "failed" in found else {})
    return "\n".join([*lines, *(f"- {path}: {value}" for path, value in flat(found) if path != "seconds")])


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Every number below `value` with the path to it."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{path}, {key}" if path else str(key))]
    return [(path, f"{value:.4g}" if isinstance(value, float) else str(value))]


if __name__ == "__main__":
    raise SystemExit(main())
