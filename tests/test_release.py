"""`Segmenter`: one picture or a folder of them, from what the stages left."""

import numpy as np
import pytest
import torch
from PIL import Image

from cause_lib import stages
from cause_lib.artefacts import read_record
from cause_lib.release import Segmenter


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
    with pytest.raises(ValueError, match=r"takes a tensor \(3, h, w\)"):
        segment(torch.zeros(4, 4))


def test_two_runs_in_one_place_must_be_told_apart(trained):
    run, folder = trained
    other = stages.fit_probe(run.replace(head="mlp"))
    with pytest.raises(ValueError, match="holds 2 runs; choose one"):
        Segmenter.load(run.run_dir)
    segment = Segmenter.load(other)
    assert not segment.matched and segment(torch.rand(3, 50, 50)).shape == (50, 50)


def test_other_weights_than_those_trained_with_are_refused(trained, monkeypatch):
    from cause_lib import release

    def other(*arguments):
        backbone = load(*arguments)
        backbone.weights_sha256 = "0" * 64
        return backbone

    load = release.open_backbone
    monkeypatch.setattr(release, "open_backbone", other)
    with pytest.raises(ValueError, match="other weights"):
        Segmenter.load(trained[1])
    assert read_record(trained[1])["stage"] == "evaluation"
