"""`Segmenter`: one picture or a folder of them, from what the stages left, a hub, or the authors' released files."""

import json
import re
import shutil
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from PIL import Image
from released_twin import write as write_release

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe
from cause_lib.runs.released import released_fingerprint
from cause_lib.runs.store import read_record
from cause_lib.segmenter import Segmenter


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny evaluated run; its experiment and the folder of its evaluation."""
    from conftest import TINY, draw_folder

    from cause_lib.config import Experiment

    root = tmp_path_factory.mktemp("run")
    run = Experiment(dataset="folder", folder=str(draw_folder(root / "data")), run_dir=str(root / "runs"), **TINY)
    return run, stages.evaluate(run)


def test_mask_of_a_file_a_picture_and_a_tensor_agree(trained):
    run, _ = trained
    segment = Segmenter.load(run.run_dir)
    path = f"{run.folder}/val/images/0.png"
    mask = segment(path)
    assert mask.shape == (56, 64) and mask.dtype == torch.int64 and mask.unique().tolist()[-1] < 3
    picture = Image.open(path)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    assert torch.equal(mask, segment(picture)) and torch.equal(mask, segment(tensor))
    assert segment.color(mask).shape == (56, 64, 3) and segment.classes == ["sky", "grass", "house"] and segment.matched


def test_masks_mean_the_classes_that_were_counted(trained):
    """On square pictures, the Segmenter's masks are those of the evaluation: same read-out, same matching."""
    run, folder = trained
    gallery = stages.load_gallery(folder)
    segment = Segmenter.load(folder)
    for image, counted in zip(gallery["image"], gallery["modularity"]):
        mask = segment(image.float() / 255)
        assert (mask == counted).double().mean() > 0.999


def test_masks_with_crf_mean_the_classes_that_were_counted(tiny, tmp_path):
    """The CRF's row has a matching of its own, here another one than the plain row."""
    folder = stages.evaluate(tiny(head="mlp", crf=True, crf_iterations=3, smoothing=0.2, seed=3, concept_steps=2,
                                  head_steps=2, probe_steps=2))
    plain, sharp = (one["assignment"] for one in read_record(folder)["results"] if one["readout"] == "modularity")
    assert plain != sharp
    gallery, segment = stages.load_gallery(folder), Segmenter.load(folder)
    again = Segmenter.from_pretrained(saved := segment.save_pretrained(tmp_path / "mine"))
    for one in (segment, again):
        assert (one.assignment.tolist(), one.crf_assignment.tolist()) == (plain, sharp)
        for crf, row in ((False, "modularity"), (True, "modularity.crf")):
            for image, counted in zip(gallery["image"], gallery[row]):
                assert (one(image, crf=crf) == counted).double().mean() > 0.999
    config = json.loads((saved / "config.json").read_text())
    for value, said in (([0, 1], "[0, 1]"), ([0, 1, 3], "[0, 1, 3]"), ("x", "x")):
        (saved / "config.json").write_text(json.dumps(config | {"crf_assignment": value}))
        with pytest.raises(ValueError, match=re.escape(f"config.json is damaged, crf_assignment is {said}")):
            Segmenter.from_pretrained(saved)
    del config["crf_assignment"], config["digest"]  # as earlier versions wrote it
    (saved / "config.json").write_text(json.dumps(config))
    assert Segmenter.from_pretrained(saved).crf_assignment.tolist() == plain


def test_evaluations_with_and_without_crf_go_together(tiny):
    run = tiny(head="mlp", concept_steps=2, head_steps=2, probe_steps=2)
    folders = {crf: stages.evaluate(run.replace(crf=crf)) for crf in (False, True)}
    assert Segmenter.load(run.run_dir).record == read_record(folders[True])
    assert Segmenter.load(folders[False]).record == read_record(folders[False])


def test_an_evaluation_is_used_alone(tiny):
    run = tiny(head="mlp", concept_steps=2, head_steps=2, probe_steps=2)
    kinds = [run, run.replace(smoothing=0.3), run.replace(crf_iterations=3), run.replace(test_images=1)]
    folders = [stages.evaluate(kind) for kind in kinds]
    assert len({*folders}) == 4 and len({stages.fit_probe(kind) for kind in kinds}) == 1
    for kind, folder in zip(kinds, folders):
        segment, record = Segmenter.load(folder), read_record(folder)
        assert segment.record == record and segment.assignment.tolist() == next(
            one["assignment"] for one in record["results"] if one["readout"] == "modularity")
        assert (segment.smoothing, segment.crf_iterations) == (kind.smoothing, kind.crf_iterations)
    for place in (run.run_dir, stages.fit_probe(run)):
        with pytest.raises(ValueError, match="has 4 evaluations that differ; choose one: ") as error:
            Segmenter.load(place)
        assert all(str(folder) in str(error.value) for folder in folders)
    for folder in folders[1:]:
        shutil.rmtree(folder)
    other = stages.evaluate(run.replace(per_image=True))
    assert other != folders[0] and Segmenter.load(run.run_dir).matched  # two that agree


def test_clusters_without_an_evaluation_have_no_names_of_classes(tiny, tmp_path):
    run = tiny(head="mlp", concept_steps=2, head_steps=2, probe_steps=2, label_free=False)
    folder, probe = stages.evaluate(run), stages.fit_probe(run)
    (folder / "artefact.json").rename(tmp_path / "aside.json")
    for place in (folder, probe, run.run_dir):
        with pytest.raises(FileNotFoundError, match=f"{folder} has no artefact.json, .*: remove it and run its stage again"):
            Segmenter.load(place)
    shutil.rmtree(folder)
    with pytest.warns(UserWarning, match=f"{probe} has no evaluation, so clusters are not matched to classes: where"):
        segment = Segmenter.load(run.run_dir)
    picture = f"{run.folder}/val/images/0.png"
    names = ["cluster 0", "cluster 1", "cluster 2"]
    table = segment.write(picture, tmp_path / "out").table
    assert table.read_text().splitlines()[0].split(",")[4:] == segment.classes == names
    assert Segmenter.from_pretrained(segment.save_pretrained(tmp_path / "mine")).classes == names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Segmenter.load(probe, readout="linear").classes == ["sky", "grass", "house"]
        assert Segmenter.load(probe).classes == names  # whoever names a probe asks for its clusters
    bare = tiny(head="mlp", concept_steps=2, head_steps=2, probe_steps=2)
    for labels in Path(run.folder).glob("*/labels"):
        shutil.rmtree(labels)
    bare = bare.replace(run_dir=str(tmp_path / "bare"), num_classes=3)
    stages.evaluate(bare)
    with warnings.catch_warnings():  # no labels, hence nothing to match
        warnings.simplefilter("error")
        assert Segmenter.load(bare.run_dir).classes == names


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (200, 31), (48, 48)])
def test_any_size_and_mode(trained, size):
    segment = Segmenter.load(trained[0].run_dir)
    rng = np.random.default_rng(0)
    for mode in ("RGB", "L", "CMYK", "RGBA", "P"):
        picture = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).convert(mode)
        assert segment(picture).shape == size


def test_a_folder_of_pictures(trained, tmp_path):
    run, _ = trained
    segment = Segmenter.load(run.run_dir, readout="kmeans")
    masks = segment(f"{run.folder}/val/images")
    assert list(masks) == ["0.png", "1.png", "2.png", "3.png"]
    assert torch.equal(masks["1.png"], segment(f"{run.folder}/val/images/1.png"))
    with pytest.raises(ValueError, match="holds no pictures"):
        segment(tmp_path)


def test_errors_help(trained, tmp_path, monkeypatch):
    run, folder = trained
    with pytest.raises(FileNotFoundError, match="holds no trained run"):
        Segmenter.load(tmp_path)
    with pytest.raises(ValueError, match="it has kmeans, modularity"):
        Segmenter.load(folder, readout="linear")
    with pytest.raises(FileNotFoundError, match="is a clusterbook artefact"):
        Segmenter.load(stages.fit_clusterbook(run))
    segment = Segmenter.load(folder)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(ValueError, match="broken.jpg"):
        segment(tmp_path / "broken.jpg")
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        segment(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match=r"Segmenter takes .* a tensor \(h, w\).*, not \(4,\) of torch.float32"):
        segment(torch.zeros(4))


def test_two_runs_in_one_place_must_be_told_apart(trained):
    run, folder = trained
    other = stages.fit_probe(run.replace(head="mlp"))
    with pytest.raises(ValueError, match="holds 2 runs; choose one"):
        Segmenter.load(run.run_dir)
    segment = Segmenter.load(other)
    assert not segment.matched and segment(torch.rand(3, 50, 50)).shape == (50, 50)


def test_other_weights_than_those_trained_with_are_refused(trained, monkeypatch):
    from cause_lib import segmenter

    def other(*arguments):
        backbone = load(*arguments)
        backbone.weights_sha256 = "0" * 64
        return backbone

    load = segmenter.open_backbone
    monkeypatch.setattr(segmenter, "open_backbone", other)
    with pytest.raises(ValueError, match="other weights"):
        Segmenter.load(trained[1])
    assert read_record(trained[1])["stage"] == "evaluation"


# --- given away, and the authors' own ---

@pytest.fixture(scope="module")
def given(trained, tmp_path_factory):
    """A saved run: its Segmenter and the folder."""
    segment = Segmenter.load(trained[1])
    return segment, segment.save_pretrained(tmp_path_factory.mktemp("hub") / "mine", licence="cc-by-4.0")


@pytest.mark.parametrize("name", ["backbone.safetensors", "model.safetensors"])
def test_a_flipped_byte_names_its_file(given, tmp_path, name):
    folder = shutil.copytree(given[1], tmp_path / "mine")
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not the file that config.json belongs to: fetch or save both again"):
        Segmenter.from_pretrained(folder)


@pytest.mark.parametrize("head, readout", [("tr", "modularity"), ("tr", "kmeans"), ("mlp", "modularity")])
def test_what_is_saved_gives_the_same_bits(trained, tmp_path, head, readout):
    run, folder = trained
    segment = Segmenter.load(folder if head == "tr" else stages.fit_probe(run.replace(head=head)), readout=readout)
    again = Segmenter.from_pretrained(segment.save_pretrained(tmp_path / "a"))
    picture = torch.rand(3, 50, 70)
    assert torch.equal(segment(picture), again(picture))
    for name in ("head", "probe"):
        ours, theirs = getattr(segment, name).state_dict(), getattr(again, name).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("classes", "matched", "image_size", "readout", "resize", "crf_iterations", "crf_backend", "crf_picture"):
        assert getattr(segment, name) == getattr(again, name)
    assert np.array_equal(segment.colors, again.colors)
    again.save_pretrained(tmp_path / "b", name="a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == \
        {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    again.save_pretrained(tmp_path / "a")  # where it came from
    segment.save_pretrained(tmp_path / "b")
    assert torch.equal(segment(picture), again(picture)) and \
        torch.equal(segment(picture), Segmenter.from_pretrained(tmp_path / "a")(picture))


def test_what_cannot_be_saved_leaves_what_was_there(given, tmp_path, monkeypatch):
    segment, _ = given
    folder = segment.save_pretrained(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cause_lib.segmenter.model_card", full)  # the last of the files
    with pytest.raises(OSError, match=r"Cannot write the Segmenter .*mine \(No space left on device\): choose a folder"):
        segment.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_saved_holds_no_pickle_and_no_folder_of_its_maker(trained, given):
    _, folder = given
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "backbone.safetensors", "config.json", "model.safetensors"]
    for name in ("README.md", "config.json"):
        assert str(Path(trained[0].run_dir).parent) not in (folder / name).read_text()


def test_the_card_has_the_numbers_that_were_measured(trained, given):
    text = (given[1] / "README.md").read_text()
    metrics = read_record(trained[1])
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0" and card.data.pipeline_tag == "image-segmentation"
    for result in metrics["results"]:
        assert f"| {result['readout']} | no | {100 * result['miou']:.1f} | {100 * result['pacc']:.1f} |" in text
    for said in ("# CAUSE-TR on data", 'from_pretrained("mine")', metrics["library"], metrics["weights"]["sha256"],
                 "labels in training | none", f"judged on | {metrics['device']}", "`bundled`", "weights included",
                 "sky, grass, house; clusters matched"):
        assert said in text, said


@pytest.mark.parametrize("label_free", [True, False])
def test_a_head_that_was_not_judged_has_no_numbers(tiny, tmp_path, label_free):
    run = tiny(label_free=label_free, head="mlp", concept_steps=2, head_steps=2, probe_steps=2)
    readout = "modularity" if label_free else "linear"
    segment = Segmenter.load(stages.fit_probe(run), readout=readout)
    segment.save_pretrained(tmp_path / "mine")
    text = (tmp_path / "mine/README.md").read_text()
    assert "It was not judged." in text and "named none; ask them" in text
    assert f"labels in training | {'none' if label_free else 'yes, in steps 2 and 3'}" in text
    again, picture = Segmenter.from_pretrained(tmp_path / "mine"), torch.rand(3, 48, 48)
    assert torch.equal(again(picture), segment(picture)) and not again.matched


def test_the_backbones_weights_stay_with_who_publishes_them(trained, tmp_path, monkeypatch):
    """Named by SHA-256 and not copied; with others in their place the head is refused."""
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=1)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **({"depth": 1} | kwargs)))
    weights = tmp_path / "vit_tiny_patch16_224.mine.safetensors"
    safetensors.torch.save_file(vit.state_dict(), weights)
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    backbone = load_backbone("vit_tiny_patch16_224.mine", num_heads=6, positions="antialiased")
    segment = Segmenter(backbone, MLPHead(192, 4).eval().requires_grad_(False), ClusterProbe(3, 4), image_size=32,
                        classes=["a", "b", "c"], colors=np.zeros((3, 3), dtype=np.uint8))
    folder, picture = segment.save_pretrained(tmp_path / "mine"), torch.rand(3, 40, 50)
    assert not (folder / "backbone.safetensors").exists()
    assert "weights not included" in (folder / "README.md").read_text()
    again = Segmenter.from_pretrained(folder)
    assert torch.equal(again(picture), segment(picture)) and again.backbone.num_heads == 6
    safetensors.torch.save_file(vit.state_dict() | {"cls_token": torch.ones(1, 1, 192)}, weights)
    with pytest.raises(ValueError, match="belongs to other weights of vit_tiny_patch16_224.mine"):
        Segmenter.from_pretrained(folder)


def test_what_is_no_segmenter(given, tmp_path):
    with pytest.raises(ValueError, match="holds no Segmenter"):
        Segmenter.from_pretrained(tmp_path)
    for name, content in (("config.json", b"{}"), ("config.json", b"{"), ("config.json", b"[]")):
        copy = Path(shutil.copytree(given[1], tmp_path / "copy", dirs_exist_ok=True))
        (copy / name).write_bytes(content)
        with pytest.raises(ValueError, match="holds no Segmenter"):
            Segmenter.from_pretrained(copy)
    config = json.loads((given[1] / "config.json").read_text())
    assert len(config.pop("digest")) == 64
    for results in (3, ["x"], [{"miou_all": 0.5}]):
        (copy / "config.json").write_text(json.dumps(config | {"record": {"results": results}}))
        with pytest.raises(ValueError, match=r"config.json has a record with results that no run writes \("):
            Segmenter.from_pretrained(copy)
    changed = (given[1] / "config.json").read_text().replace('"smoothing": 0.0', '"smoothing": 0.5')
    (copy / "config.json").write_text(changed)
    with pytest.raises(ValueError, match=r"config.json is damaged \(it was changed .*, or remove its entry digest if"):
        Segmenter.from_pretrained(copy)
    copy = Path(shutil.copytree(given[1], tmp_path / "other"))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(ValueError, match="model.safetensors is not the file that config.json belongs to"):
        Segmenter.from_pretrained(copy)


def test_hub(given, tmp_path, monkeypatch):
    """A hub in a folder: what is pushed is what is fetched."""
    segment, asked = given[0], []

    class Hub:
        def create_repo(self, name, *, private, exist_ok):
            asked.append(("create", name, private, exist_ok))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{name.split('/')[-1]}")

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            asked.append(("upload", repo_id))
            shutil.copytree(folder_path, tmp_path / repo_id)

    def fetch(name, *, revision, allow_patterns):
        asked.append(("fetch", name, revision))
        if not (tmp_path / name).is_dir():
            raise ConnectionError("no network")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert segment.push_to_hub("mine", private=True) == "https://huggingface.co/me/mine"
    again, picture = Segmenter.from_pretrained("me/mine", revision="main"), torch.rand(3, 50, 50)
    assert asked == [("create", "mine", True, True), ("upload", "me/mine"), ("fetch", "me/mine", "main")]
    assert torch.equal(again(picture), segment(picture))
    assert 'from_pretrained("me/mine")' in (tmp_path / "me/mine/README.md").read_text()
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing is no folder here, and .* \(ConnectionError\)"):
        Segmenter.from_pretrained("nobody/nothing")


def test_the_snippets_of_the_page(given, tmp_path, release, monkeypatch):
    """book/own.md and book/howto.md, as printed, on a hub that is a folder and on files of the authors' names."""
    pages = [(Path(__file__).parents[2] / f"book/{name}.md").read_text() for name in ("own", "howto")]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page, re.S)]
    away, authors = ([block for block in blocks if word in block] for word in ("push_to_hub", "from_release"))
    pushed = []
    monkeypatch.setattr(Segmenter, "push_to_hub", lambda self, name: pushed.append(self.save_pretrained(name)))
    monkeypatch.chdir(tmp_path)
    names = {"segment": given[0], "Segmenter": Segmenter}
    exec(*away, names)
    assert pushed == [Path("me/holiday-head")] and names["segment"] is not given[0]
    release("tr")
    Path("cause").mkdir()
    shutil.move("release", "cause/cocostuff27-dino_vits8")
    Path("holiday/images").mkdir(parents=True)
    Image.new("RGB", (60, 90)).save("holiday/images/beach.jpg")
    exec(authors[0].replace("dino_vits8.released", "bundled"), names)
    assert names["mask"].shape == (90, 60)


@pytest.fixture
def release(tmp_path):
    """A folder as the authors release it, for the embedded backbone at 48 pixels (6 x 6 patches)."""
    def write(head, classes=3, dim=192):
        return write_release(tmp_path / "release", head, dim=dim, reduced=5, concepts=8, classes=classes, side=6)

    return write


@pytest.mark.parametrize("head", ["tr", "mlp"])
def test_released_files_are_judged_without_training(tiny, tmp_path, release, monkeypatch, head):
    twin, book, probe = release(head)
    run = tiny(release=str(tmp_path / "release"), head=head, image_size=48)
    for name in ("fit_clusterbook", "fit_head", "fit_probe", "fit_baseline"):
        monkeypatch.setattr(stages, name, None)  # nothing of it is called
    folder = stages.evaluate(run)
    metrics = read_record(folder)
    assert folder.parent.name == metrics["stage"] == "evaluation" and stages.find(run, "evaluation") == folder
    assert {(r["method"], r["readout"]) for r in metrics["results"]} == {
        (f"CAUSE-{head.upper()} (released files)", readout) for readout in ("modularity", "linear")}
    assert metrics["concepts"]["num_concepts"] == 8 and metrics["experiment"]["label_free"] is False
    assert metrics["notes"]["release"] == released_fingerprint(tmp_path / "release", head)
    assert not stages.collect_metrics(run.run_dir)["label_free"].any()
    assert stages.find(run.replace(seed=3, head_steps=99), "evaluation") == folder  # nothing of training matters

    # the masks of the twin, matched as they were counted
    segment, gallery = Segmenter.load(run.run_dir), stages.load_gallery(folder)
    backbone = load_backbone("bundled", 48)
    image = gallery["image"][0].float()[None] / 255
    maps = [twin.head_ema(backbone(x), book).transpose(1, 2).reshape(1, 5, 6, 6) for x in (image, image.flip(3))]
    maps = F.interpolate((maps[0] + maps[1].flip(3)) / 2, (48, 48), mode="bilinear", align_corners=False)
    cosine = torch.einsum("brhw,cr->bchw", F.normalize(maps, dim=1), F.normalize(probe, dim=1))
    assignment = torch.tensor(next(r["assignment"] for r in metrics["results"] if r["readout"] == "modularity"))
    for mask in (segment(image[0]), gallery["modularity"][0]):
        assert (assignment[cosine.argmax(dim=1)[0]] == mask).double().mean() > 0.999
    assert segment.matched and segment.classes == ["sky", "grass", "house"]
    text = (segment.save_pretrained(tmp_path / "mine") / "README.md").read_text()
    assert "(released files) on data" in text and "yes, in steps 2 and 3" in text
    assert torch.equal(Segmenter.from_pretrained(tmp_path / "mine")(image[0]), segment(image[0]))

    # other files in the same place are another release, and never taken for the ones that were judged
    path = tmp_path / "release" / f"cluster_{head}.pth"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"cluster_probe": -content["cluster_probe"]}, path)
    assert stages.find(run, "evaluation") is None
    with pytest.raises(ValueError, match="are not those that .* judged"):
        Segmenter.load(folder)


def test_a_release_for_something_else_is_refused(tiny, tmp_path, release):
    release("mlp", classes=4)
    run = tiny(release=str(tmp_path / "release"), head="mlp")
    with pytest.raises(ValueError, match="width 192 and 4 classes; bundled has width 192 and folder 3 classes"):
        stages.evaluate(run)
    with pytest.raises(FileNotFoundError, match="has no segment_tr.pth and no cluster_tr.pth"):
        stages.evaluate(run.replace(head="tr"))
    release("mlp", dim=384)
    with pytest.raises(ValueError, match="backbone of width 384, and bundled has width 192"):
        Segmenter.from_release(tmp_path / "release", "bundled", head="mlp")


def test_a_segmenter_from_released_files(tmp_path, release):
    release("tr")
    segment = Segmenter.from_release(tmp_path / "release", "bundled")
    assert segment.image_size == 48 and segment.classes[2] == "cluster 2" and not segment.matched
    mask = segment(torch.rand(3, 60, 90))
    assert mask.shape == (60, 90) and segment.color(mask).shape == (60, 90, 3)
    named = Segmenter.from_release(tmp_path / "release", load_backbone("bundled"), classes=["a", "b", "c"],
                                   assignment=[2, 0, 1], crf_assignment=[2, 1, 0], image_size=64)
    assert named.matched and named.image_size == 64 and named.classes == ["a", "b", "c"]
    assert (named.assignment.tolist(), named.crf_assignment.tolist()) == ([2, 0, 1], [2, 1, 0])
    with pytest.raises(ValueError, match="have 3 clusters, and crf_assignment has 2 entries"):
        Segmenter.from_release(tmp_path / "release", "bundled", assignment=[2, 0, 1], crf_assignment=[0, 1])
    assert Segmenter.from_release(tmp_path / "release", "bundled", readout="linear")(torch.rand(3, 48, 48)).max() < 3
    with pytest.raises(ValueError, match="have 3 clusters, and classes has 2 entries"):
        Segmenter.from_release(tmp_path / "release", "bundled", classes=["a", "b"])
    with pytest.raises(ValueError, match="no read-out 'kmeans'; it has modularity, linear"):
        Segmenter.from_release(tmp_path / "release", "bundled", readout="kmeans")
    release("mlp")
    assert Segmenter.from_release(tmp_path / "release", "bundled", head="mlp").image_size == 320
