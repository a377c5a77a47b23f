"""What people bring to a trained run, to the backbones and to tables: the right result, or one sentence."""

import argparse
import io
import json
import pickle
import re
import subprocess
from pathlib import Path

import numpy as np
import papermill
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.config import Experiment
from cause_lib.data.images import resize_and_crop, to_tensor
from cause_lib.errors import Refusal
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe
from cause_lib.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[2]


def scene(h=56, w=56, seed=0):
    """A drawn picture (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((h, w), dtype=int)
    ids[h // 2:], ids[h // 4:h // 2, : w // 2] = 1, 2
    return (np.array([[90, 150, 230], [60, 140, 50], [210, 60, 40]])[ids] + rng.integers(-20, 20, (h, w, 3))).clip(
        0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def segment():
    """Three clusters of an untrained head that all occur."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(load_backbone("bundled"), MLPHead(192, 8).eval(), ClusterProbe(3, 8), image_size=56,
                         classes=["sky", "grass", "house"], colors=[[90, 150, 230], [60, 140, 50], [210, 60, 40]])


# --- pictures ---

def png(picture, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream


def test_a_picture_in_any_form_gives_the_same_mask(segment, tmp_path, monkeypatch):
    picture = scene()
    expected = segment(Image.fromarray(picture))
    assert len(expected.unique()) > 1
    path = tmp_path / "a.png"
    path.write_bytes(png(picture).getvalue())
    monkeypatch.setenv("HOME", str(tmp_path))
    first = torch.from_numpy(picture).permute(2, 0, 1)
    taken = {
        "path": path, "text": str(path), "home": "~/a.png", "bytes": path.read_bytes(), "stream": png(picture),
        "array": picture, "array, channels first": picture.transpose(2, 0, 1), "uint8": first, "channels last":
        first.permute(1, 2, 0), "float32": first / 255, "float64": first.double() / 255,
        "array float32": picture.astype(np.float32) / np.float32(255), "array float64": picture / 255,
        "opaque": np.dstack([picture, np.full((56, 56), 255, np.uint8)]), "big-endian": (picture / 255).astype(">f8"),
        "turned twice": picture[:, :, ::-1].copy()[:, :, ::-1], "with gradient": (first / 255).requires_grad_(),
    }
    for name, image in taken.items():
        assert torch.equal(segment(image), expected), name
    with path.open("rb") as file:
        assert torch.equal(segment(file), expected)
    for several in ([picture, path, first], (picture,) * 2, torch.stack([first, first]), picture[None]):
        masks = segment(several)
        assert len(masks) == len(several) and all(torch.equal(mask, expected) for mask in masks)


def test_grey_and_opacity(segment):
    grey = scene()[..., 0]
    expected = segment(Image.fromarray(grey))
    for image in (grey, grey[..., None], grey[None], torch.from_numpy(grey), torch.from_numpy(grey)[None] / 255):
        assert torch.equal(segment(image), expected)
    black = grey > 128
    assert torch.equal(segment(black), segment(Image.fromarray(black)))
    glass = np.dstack([scene(), np.full((56, 56), 100, np.uint8)])
    assert torch.equal(segment(glass), segment(Image.fromarray(glass, "RGBA")))
    white = np.float32(glass[..., :3] / 255) * np.float32(100 / 255) + np.float32(155 / 255)
    assert torch.equal(segment(np.float32(glass / 255)), segment(white))


@pytest.mark.parametrize("change, said", [
    (lambda p: p.astype(np.float32), r"in \[0, 1\], and this one goes from .* to 25\d: divide it by 255, or give it as uint8"),
    (lambda p: torch.from_numpy(p).permute(2, 0, 1).double(), r"in \[0, 1\].*divide it by 255"),
    (lambda p: (torch.from_numpy(p).permute(2, 0, 1) / 255 - 0.45) / 0.22, r"in \[0, 1\].*normalisation back"),
    (lambda p: p / 127.5 - 1, r"in \[0, 1\].*normalisation back"),
    (lambda p: np.where(p > 250, np.nan, p / 255), r"in \[0, 1\].* nan: .*replace what is not finite"),
    (lambda p: p.astype(np.int64), r"Segmenter takes .*, not \(56, 56, 3\) of int64"),
    (lambda p: torch.from_numpy(p).int(), r"Segmenter takes .*, not \(56, 56, 3\) of torch.int32"),
    (lambda p: p[..., :2], r"Segmenter takes .*, not \(56, 56, 2\) of torch.uint8"),
    (lambda p: p[:0], "is 56 x 0 pixels"), (lambda p: 3, "Segmenter takes .*, not int"),
    (lambda p: {"a": p}, "Segmenter takes .*, not dict"), (lambda p: None, "Segmenter takes .*, not NoneType"),
    (lambda p: np.array(["a"]), r"Segmenter takes .*, not \(1,\) of <U1"),
    (lambda p: b"no picture", "This picture cannot be read .*: give a whole file"),
    (lambda p: png(p).getvalue()[:900], "This picture cannot be read .*: give a whole file"),
    (lambda p: Image.open(io.BytesIO(png(p).getvalue()[:900])), "This picture cannot be read .*: give a whole file"),
])
def test_what_is_no_picture_is_one_sentence(segment, change, said):
    picture = scene()
    picture[0, 0] = 255
    with pytest.raises(ValueError, match=said) as error:
        segment(change(picture))
    assert isinstance(error.value, Refusal) and "\n" not in str(error.value)


def test_devices(segment, monkeypatch):
    parts = segment.backbone, segment.head, segment.probe
    rest = dict(image_size=56, classes=segment.classes, colors=segment.colors)
    assert next(Segmenter(*parts, **rest, device="auto").head.parameters()).device.type == (
        "cuda" if torch.cuda.is_available() else "cpu")
    for device in ("gpu", "cuda:99", 3.5):
        with pytest.raises(RuntimeError, match=f"device '{device}' cannot be used here .*: take \"auto\", or \"cpu\""):
            Segmenter(*parts, **rest, device=device)


# --- masks as files ---

def test_masks_are_saved_with_their_ids_and_colours(segment, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture = scene(40, 90)
    mask = segment(picture)
    assert segment.save_mask(mask, "~/new/a.png") == tmp_path / "new/a.png"
    saved = Image.open(tmp_path / "new/a.png")
    assert saved.mode == "P" and np.array_equal(np.asarray(saved), mask.numpy())
    assert np.array_equal(np.asarray(saved.convert("RGB")), segment.color(mask))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/a.png")), mask.numpy())
    for over in (picture, Image.fromarray(picture), torch.from_numpy(picture / 255)):
        path = segment.save_mask(mask.numpy(), tmp_path / "over.png", over=over)
        assert np.array_equal(np.asarray(Image.open(path)), (picture.astype(int) + segment.color(mask)) // 2)
    segment.save_mask(mask, tmp_path / "over.jpg", over=picture)
    for given, path, more, said in (
            (mask, "a.jpg", {}, "a.jpg would not keep a mask.*ends in .png"),
            (mask, "a", {}, "ends in .png"), (mask, "a.xyz", {"over": picture}, "a.xyz would not keep"),
            (mask, "a.png", {"over": picture[:-1]}, "mask is 90 x 40 pixels and the picture 90 x 39"),
            (mask + 3, "a.png", {}, "ids from 3 to .* has 3 classes"), (-mask - 1, "a.png", {}, "ids from -"),
            ({"a.jpg": mask}, "a.png", {}, "not dict: give one mask at a time"),
            (mask.double(), "a.png", {}, "not .* of float64"), (mask[None], "a.png", {}, r"not \(1, 40, 90\)")):
        with pytest.raises(ValueError, match=said):
            segment.save_mask(given, tmp_path / path, **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "over.jpg", "over.png"]


def test_more_classes_than_a_palette_has(segment, tmp_path):
    from cause_lib.data import palette

    many = Segmenter(segment.backbone, segment.head, ClusterProbe(300, 8), image_size=56,
                     classes=[str(i) for i in range(300)], colors=palette(300))
    ids = np.arange(300).reshape(15, 20)
    assert np.array_equal(np.asarray(Image.open(many.save_mask(ids, tmp_path / "a.png"))), ids)


def test_home_is_expanded(segment, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = segment.save_pretrained("~/mine")
    picture = scene()
    assert folder == tmp_path / "mine" and torch.equal(Segmenter.from_pretrained("~/mine")(picture), segment(picture))
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("CAUSE_WEIGHTS", "~/weights")
    with torch.device("meta"):
        shapes = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    safetensors.torch.save_file({key: torch.zeros(value.shape) for key, value in shapes.items()},
                                tmp_path / "weights/vit_tiny_patch16_224.mine.safetensors")
    path = tmp_path / "weights/vit_tiny_patch16_224.mine.safetensors"
    assert load_backbone("vit_tiny_patch16_224.mine").weights_path == path
    assert load_backbone("vit_tiny_patch16_224", weights=f"~/weights/{path.name}").weights_path == path
    (tmp_path / "data/pictures/images").mkdir(parents=True)
    Image.fromarray(scene()).save(tmp_path / "data/pictures/images/a.png")
    monkeypatch.setenv("CAUSE_DATA", "~/data")
    run = Experiment(dataset="folder", folder="pictures", image_size=56, head="mlp", num_concepts=4, concept_steps=1,
                     head_steps=1, probe_steps=1, run_dir="~/runs", device="cpu", crf=False, crf_iterations=3,
                     crf_picture="released", kmeans_restarts=1, num_classes=3)
    stages.fit_probe(run)
    assert Segmenter.load("~/runs").crf_iterations == 3
    assert not (tmp_path / "~").exists()


# --- the same pixels and the same CRF as in the evaluation ---

@pytest.mark.parametrize("resize", ["nearest", "pillow", "antialiased"])
@pytest.mark.parametrize("side", [40, 56, 61, 97, 171])
def test_pictures_are_resized_by_the_data_sets_rule(segment, monkeypatch, resize, side):
    from cause_lib import segmenter

    seen, mask = [], []
    read_out = segmenter.read_out

    def look(small, *args, **kwargs):
        seen.append(small)
        masks = read_out(small, *args, **kwargs)
        mask.append(masks[False][0, 0])
        return masks

    monkeypatch.setattr(segmenter, "read_out", look)
    monkeypatch.setattr(segment, "resize", resize)
    picture = scene(side, side)
    found = segment(picture)
    item = resize_and_crop(to_tensor(Image.fromarray(picture)), 56, resize).float() * (1 / 255)
    assert torch.equal(seen[0][0], item)
    centres = ((torch.arange(side) + 0.5) * 56 / side).long()
    assert torch.equal(found, mask[0][centres[:, None], centres])


def test_the_crf_is_that_of_the_run(tiny, tmp_path, monkeypatch):
    from cause_lib import masks

    run = tiny(head="mlp", crf=True, crf_iterations=3, crf_picture="released", smoothing=0.2, concept_steps=2,
               head_steps=2, probe_steps=2)
    folder = stages.evaluate(run)
    segment, asked = Segmenter.load(folder), []
    dense = masks.dense_crf
    monkeypatch.setattr(masks, "dense_crf", lambda *args, **how: asked.append(how) or dense(*args, **how))
    saved = segment.save_pretrained(tmp_path / "saved")
    again = Segmenter.from_pretrained(saved)
    gallery = stages.load_gallery(folder)
    for one in (segment, again):
        for image, counted in zip(gallery["image"], gallery["modularity.crf"]):
            assert torch.equal(one(image, crf=True), counted.long()) or not segment.matched
    assert asked and all(how == {"iterations": 3, "backend": "torch", "picture": "released"} for how in asked)
    assert again.smoothing == 0.2
    config = json.loads((saved / "config.json").read_text())
    del config["digest"]  # whoever changes it does this
    for key in ("crf_iterations", "crf_backend", "crf_picture"):
        del config[key]  # as earlier versions wrote it
    (saved / "config.json").write_text(json.dumps(config))
    assert Segmenter.from_pretrained(saved).crf_iterations == 10
    (saved / "config.json").write_text(json.dumps(config | {"crf_iterations": "many"}))
    with pytest.raises(ValueError, match="config.json is damaged, crf_iterations is many"):
        Segmenter.from_pretrained(saved)


# --- precision ---

def test_half_precision_on_a_cpu_is_refused_before_any_work(tiny, tmp_path):
    run = tiny(precision="fp16")
    for stage in (stages.fit_clusterbook, stages.evaluate, stages.fit_baseline):
        with pytest.raises(RuntimeError, match='precision "fp16" needs a GPU.*set precision to "no" or "bf16"') as error:
            stage(run)
        assert isinstance(error.value, Refusal)
    assert not list(tmp_path.glob("runs/*/*"))


def test_what_the_record_calls_bf16_was_computed_so(tiny, monkeypatch):
    from cause_lib.backbones import Backbone

    seen, forward = set(), Backbone.forward

    def look(self, images):
        seen.add(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", look)
    folder = stages.fit_clusterbook(tiny(precision="bf16", concept_steps=1))
    assert seen == {torch.bfloat16} and stages.read_record(folder)["experiment"]["precision"] == "bf16"


# --- tables and parameters ---

def checked(tmp_path, text, name="a b.csv", *, fetch=True):
    """What `workflow.check` says of a table."""
    from workflow import check
    from workflow.rows import read_rows

    (tmp_path / name).write_text(text)
    return check.missing(read_rows(tmp_path / name), fetch=fetch)


@pytest.mark.parametrize("cells, said", [
    ({"image_size": "165"}, "bundled cuts images into 8 x 8 patches, which do not tile 165 x 165.*168 x 168"),
    ({"train_size": "100"}, "which do not tile 100 x 100"), ({"num_heads": "5"}, "width 192, which 5 attention heads"),
    ({"backbone": "resnet18"}, "'resnet18' is no plain vision transformer"),
    ({"backbone": "bundeled"}, "There is no backbone 'bundeled'; the nearest names are bundled"),
    ({"backbone": "dino_vits8.released", "num_heads": "6"}, "says two things at once"),
    ({"precision": "fp16", "device": "cpu"}, 'precision "fp16" needs a GPU'),
])
def test_what_the_run_refuses_is_said_before_any_job(tmp_path, monkeypatch, cells, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    cells = {"dataset": "scenes", "backbone": "bundled"} | cells
    found = checked(tmp_path, f"{','.join(cells)}\n{','.join(cells.values())}\nscenes,bundled{',' * (len(cells) - 2)}\n",
                    fetch=False)
    (numbers,) = (numbers for sentence, numbers in found.items() if re.search(said, sentence))
    assert numbers == [1] and all("\n" not in sentence for sentence in found)


def test_weights_that_do_not_fit_are_said_before_any_job(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "vit_tiny_patch16_224.mine.safetensors")
    (sentence,) = checked(tmp_path, "dataset,backbone\nscenes,vit_tiny_patch16_224.mine\n")
    assert "vit_tiny_patch16_224.mine.safetensors does not fit" in sentence


@pytest.mark.parametrize("mark, called", [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_are_named(tmp_path, mark, called):
    with pytest.raises(ValueError, match=f"a b.csv separates its cells by {called}: save it as CSV with commas, as "
                                         "dataset,seed"):
        checked(tmp_path, f"dataset{mark}seed\nscenes{mark}0\n")


def test_lines_without_a_filled_cell_are_none(tmp_path):
    from workflow.rows import read_rows

    (tmp_path / "a.csv").write_text("dataset,seed,,\nscenes,1\n,\n , ,\n\n,,,\nscenes,2,,\n")
    assert [(row.number, row.experiment.seed) for row in read_rows(tmp_path / "a.csv")] == [(1, 1), (2, 2)]


def test_lines_may_be_called_what_pandas_takes_for_missing(tmp_path):
    import pandas as pd

    from workflow import results

    names = ["NA", "None", "null", "nan", "N/A", "mine"]
    table = pd.DataFrame({name: [None] * len(names) for name in results.COLUMNS}).assign(
        row=names, miou=[1.0, None, 3, 4, 5, 6], settings=[f'{{"seed": {i}}}' for i in range(len(names))])
    table.to_csv(tmp_path / "results.csv", index=False)
    kept = results.with_kept(table.iloc[:0], tmp_path / "results.csv")
    assert kept["row"].tolist() == names and kept["miou"].isna().tolist() == [False, True] + [False] * 4
    (tmp_path / "mine_rows.csv").write_text("row,miou,pacc\nNA,1.5,\nNone,2.5,3\n")
    published = results.published_beside(tmp_path / "mine.csv")
    assert published["row"].tolist() == ["NA", "None"] and published["pacc"].isna().tolist() == [True, False]
    assert "| NA |" in results.markdown(kept)


@pytest.mark.parametrize("text, said", [
    ("lr: 1e-3", "lr must be float.*; write 1.0e-3, since YAML reads 1e-3 as text"),
    ("clip_norm: 2E5", r"write 2\.0e\+5"), ("concept_steps: 1e3", r"write 1\.0e\+3"), ("seed: '5'", "write 5, without quotes"),
    ("precision: no", 'precision must be str, not False.*; write "no", since YAML reads no and off'),
    ("train_split: on", "write the word in quotes, since YAML reads yes and on"),
    ("crf: 'no'", "write False, as in -p crf False"), ("crf: 0", "write False"), ("label_free: 'TRUE'", "write True"),
    ("image_size: none", "write None, in YAML null"),
    ("run_dir: 2026", 'run_dir must be str, not 2026.*; give it as text, -r run_dir 2026, or in quotes, "2026", in YAML'),
    ("run_dir: 2026-11-27", "-r run_dir 2026-11-27"), ("folder: 1.5", "-r folder 1.5"),
])
def test_values_of_yaml_that_became_another_type(text, said):
    with pytest.raises(ValueError, match=said) as error:
        Experiment.from_dict(yaml.safe_load(text))
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    name = text.split(":")[0]
    if (advice := re.search(r"write ([-+.\w\"]+),? (?:since|without|as|in)", sentence)) and advice[1] not in ("the",):
        assert isinstance(Experiment.from_dict(yaml.safe_load(f"{name}: {advice[1]}".replace("None", "null"))), Experiment)


@pytest.mark.parametrize("name, value, said", [("crf", "false", "write False"), ("run_dir", "2026", "-r run_dir 2026"),
                                               ("folder", "007", "-r folder 7"), ("image_size", "null", "write None")])
def test_values_of_papermills_command_line(name, value, said):
    from papermill.cli import _resolve_type

    with pytest.raises(ValueError, match=said):
        Experiment.from_dict({name: _resolve_type(value)})
    assert papermill.__version__


def test_a_table_with_a_space_in_its_name_is_one_word():
    done = subprocess.run(["make", "-n", "-o", ".venv/ready", "table", "TABLE=a b/it's.csv"], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    commands = [line.strip().rstrip("\\") for line in done.stdout.splitlines() if "TABLE" in line]
    assert len(commands) == 2
    for command in commands:
        words = subprocess.run(["sh", "-c", f'printf "%s\\n" {command.split("check")[-1].split("config")[-1]}'], text=True,
                               capture_output=True, check=True, env={"TABLE": "a b/it's.csv"}).stdout.splitlines()
        assert any(word in ("a b/it's.csv", "table=a b/it's.csv") for word in words)


# --- weights ---

TINY = "vit_tiny_patch16_224.mine"


@pytest.fixture
def shallow(monkeypatch, tmp_path):
    """ViTs of one block, and `CAUSE_WEIGHTS`."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **({"depth": 1} | kwargs)))
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    return tmp_path


def numbers(architecture="vit_tiny_patch16_224", **changes):
    with torch.device("meta"):
        shapes = timm.create_model(architecture, num_classes=0, **changes).state_dict()
    draw = torch.Generator().manual_seed(0)
    return {key: torch.randn(value.shape, generator=draw) * 0.1 for key, value in shapes.items()}


def below(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other(state):
    return {key: -value for key, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(4, 4)}
WRAPPED = {
    "DINO's checkpoint": (lambda s: {"student": below("module.backbone.", other(s)), "teacher": below("backbone.", s) | HEAD,
                                     "optimizer": {"state": {}}, "epoch": 100,
                                     "args": argparse.Namespace(arch="vit_tiny", lr=0.1)},
                          "entry teacher, keys below backbone."),
    "teacher alone": (lambda s: {"teacher": below("backbone.", s)}, "entry teacher, keys below backbone."),
    "student alone": (lambda s: {"student": below("module.", s)}, "entry student, keys below module."),
    "model": (lambda s: {"model": s, "epoch": 3}, "entry model"),
    "state_dict in model": (lambda s: {"model": {"state_dict": s}}, "entry model, entry state_dict"),
    "backbone": (lambda s: below("backbone.", s) | HEAD, "keys below backbone."),
    "Lightning": (lambda s: {"state_dict": below("teacher.backbone.", s) | below("student.backbone.", other(s))},
                  "entry state_dict, keys below teacher.backbone."),
    "encoder": (lambda s: below("encoder.", s), "keys below encoder."),
    "MoCo": (lambda s: {"state_dict": below("module.momentum_encoder.", s) | below("module.base_encoder.", other(s))},
             "entry state_dict, keys below module.momentum_encoder."),
    "compiled": (lambda s: below("_orig_mod.", s), "keys below _orig_mod."),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_backbone_is_taken_out_of_what_is_around_it(shallow, name):
    wrap, said = WRAPPED[name]
    state = numbers()
    torch.save(wrap(state), shallow / f"{TINY}.pth")
    backbone = load_backbone(TINY)
    assert all(torch.equal(value, state[key]) for key, value in backbone.vit.state_dict().items())
    assert f"weights from {TINY}.pth ({said});" in backbone.description


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("how, said", [("missing", r"1 missing \(norm.weight\)"), ("unknown", r"1 unknown \(stranger\)")])
def test_what_is_taken_out_is_held_strictly(shallow, name, how, said):
    state = numbers()
    if how == "missing":
        del state["norm.weight"]
    else:
        state["stranger"] = torch.zeros(1)
    torch.save(WRAPPED[name][0](state), shallow / f"{TINY}.pth")
    with pytest.raises(ValueError, match=f"{TINY}.pth does not fit {TINY}.*{said}"):
        load_backbone(TINY)


def test_two_networks_of_equal_rank_are_refused(shallow):
    torch.save(below("a.", numbers()) | below("b.", numbers()), shallow / f"{TINY}.pth")
    with pytest.raises(ValueError, match=r"holds several networks \('a.', 'b.'\): save one's state dict"):
        load_backbone(TINY)


def transformers_names(state, dinov2=False):
    """The keys that transformers writes, of one block."""
    found = {"embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"],
             "embeddings.mask_token": torch.zeros(1, 1), "layernorm.weight": state["norm.weight"],
             "layernorm.bias": state["norm.bias"], "pooler.dense.weight": torch.zeros(2, 2)}
    names = {"attention.output.dense": "attn.proj", **({"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "norm1": "norm1",
             "norm2": "norm2"} if dinov2 else {"layernorm_before": "norm1", "layernorm_after": "norm2",
             "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"})}
    for end in ("weight", "bias"):
        found[f"embeddings.patch_embeddings.projection.{end}"] = state[f"patch_embed.proj.{end}"]
        for part, value in zip(("query", "key", "value"), state[f"blocks.0.attn.qkv.{end}"].chunk(3)):
            found[f"encoder.layer.0.attention.attention.{part}.{end}"] = value.clone()
        for theirs, ours in names.items():
            found[f"encoder.layer.0.{theirs}.{end}"] = state[f"blocks.0.{ours}.{end}"]
    if dinov2:
        found |= {f"encoder.layer.0.layer_scale{i}.lambda1": state[f"blocks.0.ls{i}.gamma"] for i in (1, 2)}
    return found


@pytest.mark.parametrize("prefix", ["", "vit.", "dinov2."])
def test_names_of_transformers(shallow, prefix):
    dinov2 = prefix == "dinov2."
    name = "vit_small_patch14_dinov2.mine" if dinov2 else TINY
    state = numbers(name.removesuffix(".mine"))
    theirs = below(prefix, transformers_names(state, dinov2)) | ({"classifier.weight": torch.zeros(2, 2)} if prefix else {})
    path = shallow / f"{name}.safetensors"
    safetensors.torch.save_file(theirs, path)
    backbone = load_backbone(name)
    assert all(torch.equal(value, state[key]) for key, value in backbone.vit.state_dict().items())
    assert "names turned into timm's" in backbone.description
    for change, said in (({f"{prefix}encoder.layer.0.attention.attention.key.bias": None}, "missing .*attn.qkv.bias"),
                         ({f"{prefix}encoder.layer.0.stranger": torch.zeros(1)}, r"unknown \(blocks.0.stranger\)"),
                         ({f"{prefix}cls_token": state["cls_token"]}, "holds cls_token twice, once as")):
        safetensors.torch.save_file({key: value.clone() for key, value in (theirs | change).items() if value is not None},
                                    path)
        with pytest.raises(ValueError, match=said):
            load_backbone(name)


@pytest.mark.parametrize("how", ["authors", "transformers"])
def test_registers_as_their_authors_publish_them(shallow, how):
    """Against timm's own reading of the same file."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    state = numbers("vit_small_patch14_reg4_dinov2")
    official = {key: value for key, value in state.items() if key != "reg_token"} | {
        "register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384),
        "pos_embed": torch.randn(1, 1370, 384, generator=torch.Generator().manual_seed(1))}
    vit = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, dynamic_img_size=True).eval()
    vit.load_state_dict(checkpoint_filter_fn(dict(official), vit))
    if how == "transformers":
        official = transformers_names(official, True) | {"embeddings.register_tokens": official["register_tokens"]}
    torch.save(official, shallow / "dinov2_vits14_reg4_pretrain.pth")
    backbone, images = load_backbone(name), torch.rand(1, 3, 518, 518)
    with torch.no_grad():
        expected = vit.forward_features((images - backbone.mean) / backbone.std)[:, 5:]
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    torch.save(official | {"pos_embed": torch.zeros(3)}, shallow / "dinov2_vits14_reg4_pretrain.pth")
    with pytest.raises(ValueError, match="of another shape .pos_embed|holds pos_embed twice"):
        load_backbone(name)


def test_mean_and_std_are_said(shallow):
    torch.save(numbers(), shallow / f"{TINY}.pth")
    said = load_backbone(TINY).description
    assert "pictures normalised by mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)." in said and ". " not in said[:-1]
    assert "normalised" not in load_backbone("bundled").description


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_of_another_protocol(shallow, protocol, old):
    path, state = shallow / "a.pth", numbers()
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    try:  # some torch may read some of them
        assert torch.equal(load_backbone(TINY, weights=path).vit.pos_embed, state["pos_embed"])
    except ValueError as error:
        assert f"a.pth is a pickle of protocol {protocol}, and without running code only protocol 2" in str(error)
        assert "torch.save(state, path)" in str(error) and isinstance(error, Refusal)
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(ValueError, match=f"a pickle of protocol {protocol}, and without"):
        load_backbone(TINY, weights=path)
