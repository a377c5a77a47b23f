"""Several processes: two, started by `accelerate launch` on the CPU, against one on the same batches.

This file is also what the two processes run: see its last lines.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, draw_folder
from safetensors.torch import load_file

from cause_lib.__main__ import main
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.heads import drop
from cause_lib.runs import judging, loop
from cause_lib.runs.parallel import WHOLE, Part, part_of
from cause_lib.runs.store import checkpoint_path, read_record

ROOT = Path(__file__).resolve().parents[2]
# Batches of 5 leave one process 2 pictures and the other 3; 11 test pictures are judged in three batches.
LONG = TINY | dict(concept_steps=20, head_steps=20, probe_steps=20, batch_size=5, checkpoint_steps=7, crf=True,
                   crf_iterations=2, per_image=True)
RUNS = [dict(head="tr", stage="probe"), dict(head="tr", label_free=False, stage="evaluation"),
        dict(head="mlp", stage="probe"), dict(head="tr", bank_capacity=0, stage="head"),
        dict(head="mlp", bank_capacity=0, cache_gb=0.0, seed=1, stage="probe"),
        dict(head="mlp", reading="released", label_free=False, cache_gb=0.0, seed=2, stage="probe")]


def arguments(run_dir: Path, stage: str, **changes) -> list[str]:
    """What `python -m cause_lib` is given for a run on the pictures beside run_dir."""
    fields = LONG | dict(dataset="folder", folder=run_dir.parent / "data", run_dir=run_dir) | changes
    return ["--stage", stage] + [word for name, value in fields.items() for word in ("-p", name, str(value))]


def run_all(commands: list[list[str]]) -> None:
    """Run them one after the other; the last checkpoint of each stage is kept, by the process that wrote it."""
    save = loop.save_checkpoint

    def keep(folder, state, tensors):
        save(folder, state, tensors)
        kept = folder.parent.parent / "kept" / os.environ.get("RANK", "0") / folder.parent.name
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint_path(folder), kept / f"{folder.name}.safetensors")

    loop.save_checkpoint = judging.save_checkpoint = keep
    try:
        for words in commands:
            main(words)
    finally:
        loop.save_checkpoint = judging.save_checkpoint = save


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `one` and `two`: the same runs by one process and by two, side by side."""
    place = tmp_path_factory.mktemp("processes")
    draw_folder(place / "data", pictures=11)
    commands = {name: [arguments(place / name, **run) for run in RUNS] for name in ("one", "two")}
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0",
              "--mixed_precision", "no", "--dynamo_backend", "no", __file__, json.dumps(commands["two"])]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    threads = torch.get_num_threads()
    with subprocess.Popen([sys.executable, "-m", "accelerate.commands.launch", *launch], text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as two:
        torch.set_num_threads(1)
        run_all(commands["one"])
        torch.set_num_threads(threads)
        said, errors = two.communicate()
    assert two.returncode == 0, errors
    (place / "said.txt").write_text(said)
    return place


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))


def test_losses_of_twenty_updates_are_those_of_one_process(place):
    stages_run = names(place / "one", "*/*/artefact.json")
    assert names(place / "two", "*/*/artefact.json") == stages_run
    compared = 0
    for name in stages_run:
        one, two = (read_record((place / each / name).parent) for each in ("one", "two"))
        assert two["device"].startswith("2 x cpu") and one["device"].startswith("cpu")
        if one.get("history"):
            compared += 1
            losses = [torch.tensor(record["history"]["loss"]) for record in (one, two)]
            assert len(losses[0]) == 20 and losses[0].unique().numel() > 10
            torch.testing.assert_close(*losses, atol=1e-4 if "probe" in name else 1e-5, rtol=0)
            assert one["notes"] == two["notes"]
    assert compared == 3 + 6 + 5  # clusterbooks of three seeds, heads, probes


def test_what_is_learnt_and_the_bank_are_those_of_one_process(place):
    """Artefacts, and checkpoints on the way: parameters, Adam's moments, the bank's places; the k-means centroids.

    Adam makes a full step of a gradient that is nothing but rounding, as the attention's key biases get: tensors are
    compared as wholes, and a head's more loosely than what is read from its features; a probe's losses sum up how these
    differ, more on some CPUs than on others. Starts of k-means are draws, and features that differ by rounding may be
    given others: those of transformer heads, and of the head that labels train, are left out.
    """
    strict = ("projections", "prototypes", "centroids", "modularity", "kmeans", "linear.", "losses")
    for pattern in ("kept/0/[chp]*/*.safetensors", "[chp]*/*/[chp]*.safetensors"):
        assert names(place / "two", pattern) == names(place / "one", pattern) != []
        for name in names(place / "one", pattern):
            one, two = (load_file(place / each / name) for each in ("one", "two"))
            assert one.keys() == two.keys()
            if "kmeans" in one and ("linear.weight" in one or "-tr-" in name):
                del one["kmeans"]
            for key, value in one.items():
                if value.is_floating_point():
                    bound = 1e-4 if any(word in key for word in strict) and "optimizer" not in key else 2e-2
                    bound = 1e-3 if key == "losses" and "probe" in name else bound
                    assert (two[key] - value).norm() <= bound * value.norm() + 1e-8, f"{name}: {key}"
                else:
                    assert torch.equal(two[key], value), f"{name}: {key}"
    kept = [load_file(place / "two" / name) for name in names(place / "two", "kept/0/head/*")]
    assert sorted(len(state.get("bank/projections", ())) > 0 for state in kept) == [False, False, True, True, True, True]
    assert not (place / "two/kept/1").exists()  # the first process writes, and it alone


def test_counts_are_summed_and_numbers_are_those_of_one_process(place):
    """k-means of raw tokens: to the last pixel, with the CRF too, and on the way; what was learnt: to rounding."""
    for stage, pixels in (("baseline_evaluation", 0), ("evaluation", 25)):
        (folder,) = (place / "one" / stage).iterdir()
        one, two = (read_record(place / each / stage / folder.name) for each in ("one", "two"))
        assert two["device"].startswith("2 x cpu")
        assert two["dataset"] == one["dataset"] and one["dataset"]["images"] == 11
        assert one.get("concepts") == two.get("concepts")
        assert {result["crf"] for result in one["results"]} == {True, False}
        for a, b in zip(one["results"], two["results"], strict=True):
            assert (a["readout"], a["crf"]) == (b["readout"], b["crf"])
            if stage == "evaluation" and a["readout"] == "kmeans":  # of a head that labels train, see above
                continue
            counts = [torch.tensor(result["confusion"]) for result in (a, b)]
            assert counts[0].sum() == 11 * 48 * 48 and (counts[0] - counts[1]).abs().sum() <= 2 * pixels
            assert a["miou"] == b["miou"] if pixels == 0 else a["miou"] == pytest.approx(b["miou"], abs=1e-3)
            assert a["miou_per_image"] == pytest.approx(b["miou_per_image"], abs=0 if pixels == 0 else 1e-3)
        for name in (f"{stage}/{folder.name}/gallery.safetensors", f"kept/0/{stage}/{folder.name}.safetensors"):
            one, two = (load_file(place / each / name) for each in ("one", "two"))
            assert one.keys() == two.keys()
            assert sum(int((one[key] != two[key]).sum()) for key in one
                       if stage != "evaluation" or "kmeans" not in key) <= pixels


def test_one_process_goes_on_from_a_checkpoint_of_two(place):
    kept, *_ = names(place / "two", "kept/0/head/*-mlp-s0-*")  # at update 14 of 20
    folder = place / "resumed" / "head" / Path(kept).stem
    folder.parent.mkdir(parents=True)
    shutil.copy(place / "two" / kept, checkpoint_path(folder))
    shutil.copytree(place / "two/clusterbook", place / "resumed/clusterbook")
    assert main(arguments(place / "resumed", "head", head="mlp")) == folder
    losses = [torch.tensor(read_record(place / each / "head" / folder.name)["history"]["loss"])
              for each in ("resumed", "one")]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)


def test_each_folder_is_said_once(place):
    folders = [Path(line) for line in (place / "said.txt").read_text().split()]
    assert [folder.parent.name for folder in folders] == [run["stage"] for run in RUNS]
    assert all((folder / "artefact.json").is_file() for folder in folders)


@pytest.mark.parametrize("size, count", [(5, 2), (16, 3), (7, 7)])
def test_parts_are_the_whole_and_so_are_their_random_numbers(size, count):
    crew = [SimpleNamespace(num_processes=count, process_index=i) for i in range(count)]
    parts = [part_of(each, size) for each in crew]
    batch = torch.randn(size, 3, 5)
    assert torch.equal(torch.cat([part.cut(batch) for part in parts]), batch)
    assert max(part.share for part in parts) - min(part.share for part in parts) < 1.01 / size
    assert sum(part.share for part in parts) == pytest.approx(1)

    def dropped(part: Part):
        torch.manual_seed(3)
        with part.taken():
            drop(part.cut(batch), 0.5, True)  # the second draw goes on where the first of a whole batch ends
            return drop(part.cut(batch), 0.5, True)

    assert torch.equal(torch.cat([dropped(part) for part in parts]), dropped(WHOLE))


def test_one_process_is_the_whole_and_too_many_are_refused():
    assert part_of(SimpleNamespace(num_processes=1, process_index=0), 16) is WHOLE
    with pytest.raises(ValueError, match="Batches of 3 pictures .* between 4 processes: start at most 3"):
        part_of(SimpleNamespace(num_processes=4, process_index=0), 3)


@pytest.mark.parametrize("banked", [False, True])
def test_contrast_of_parts_adds_up(banked):
    """Values and gradients in float64; one picture has no positive, so that terms are not pictures."""
    torch.manual_seed(0)
    b, n, r, p, k = 5, 4, 6, 8, 9
    layer = torch.nn.Linear(r, p).double()
    features = torch.randn(b, n, r, dtype=torch.float64, requires_grad=True)
    teacher, similarity = torch.randn(b, n, p, dtype=torch.float64), torch.eye(k, dtype=torch.float64)
    concepts = torch.randint(0, k - n, (b, n))
    concepts[1] = torch.arange(k - n, k)
    bank = None
    if banked:
        bank = ConceptBank(k, p, 3, dtype=torch.float64)
        bank.update(torch.randn(20, p, dtype=torch.float64), torch.randint(0, k - n, (20,)))
    wanted = [features, *layer.parameters()]

    class Told(Part):  # stands for a process that the others tell their counts
        def total(self, x):
            counts.append(x)
            return sum(told) if told else x

    def losses():
        return [concept_contrastive_loss(part.cut(features), teacher, concepts, similarity, bank, projection=layer,
                                         first=part.first, total=part.total) for part in (Told(0, 2, b), Told(2, 5, b))]

    told, counts = [], []
    losses()
    told = list(counts)
    whole, parts = concept_contrastive_loss(features, teacher, concepts, similarity, bank, projection=layer), losses()
    torch.testing.assert_close(sum(parts), whole)
    for one, other in zip(*(torch.autograd.grad(x, wanted) for x in (sum(parts), whole))):
        torch.testing.assert_close(one, other)


def test_a_misspelt_parameter_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["-p", "bach_size", "4"])
    assert "batch_size" in capsys.readouterr().err


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]))
