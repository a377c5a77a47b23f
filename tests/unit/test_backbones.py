"""Frozen backbones: DINO's position resizing against a naive twin, strict loading, errors that say the way out."""

import argparse
import hashlib
import json
import math
import pickle
import re
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from cause_lib import backbones, tokens
from cause_lib.backbones import Backbone, load_backbone, resize_positions, weights_fingerprint
from cause_lib.data import load_dataset
from cause_lib.weights import AUTHORS, HUB_SHA256, WEIGHT_SUFFIXES, weights_path

TINY = "vit_tiny_patch16_224"
MINE = f"{TINY}.mine"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No weights anywhere but where a test puts them, and no network."""
    monkeypatch.delenv("CAUSE_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", refuse)


@pytest.fixture(scope="module")
def tiny():
    """timm's own ViT-Ti/16 with random weights, with its classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return timm.create_model(TINY, pretrained=False).eval()


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A folder with that ViT's weights, for tests that only read them."""
    folder = tmp_path_factory.mktemp("weights")
    safetensors.torch.save_file(tiny.state_dict(), folder / f"{MINE}.safetensors")
    return folder


@pytest.fixture
def weights(saved, monkeypatch):
    monkeypatch.setenv("CAUSE_WEIGHTS", str(saved))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where a test puts weights of its own."""
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    return tmp_path / f"{MINE}.safetensors"


@pytest.fixture
def shallow(monkeypatch):
    """The same architectures with one block: what is tested is keys, not depth."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **({"depth": 1} | kwargs)))


def save(state, path: Path) -> None:
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)


def dino_positions(pos_embed, h, w, patch):
    """DINO's `interpolate_pos_encoding` in numbers: bicubic weights written out, pixel by pixel (float64)."""
    side = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[0, 1:].double().view(side, side, -1)

    def weight(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def matrix(new):
        scale, rows = (new + 0.1) / side, torch.zeros(new, side, dtype=torch.float64)
        for i in range(new):
            source = (i + 0.5) / scale - 0.5
            for j in range(math.floor(source) - 1, math.floor(source) + 3):
                rows[i, min(max(j, 0), side - 1)] += weight(source - j)
        return rows

    resized = torch.einsum("ai,bj,ijd->abd", matrix(h // patch), matrix(w // patch), grid)
    return torch.cat([pos_embed[:, :1].double(), resized.flatten(0, 1)[None]], dim=1)


# --- positions ---

@pytest.mark.parametrize("size", [(320, 320), (224, 224), (96, 400), (352, 480), (16, 16), (160, 48)])
def test_positions_follow_dino(size):
    positions = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    ours = resize_positions(positions, (14, 14), (size[0] // 16, size[1] // 16))
    expected = positions if size == (224, 224) else dino_positions(positions, *size, 16)
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-4, atol=1e-4)


def test_the_offset_matters():
    """The twin is sharp enough to tell DINO's rule from a plain resize to the same size."""
    positions = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    plain = F.interpolate(positions[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2), size=(20, 20), mode="bicubic")
    ours = resize_positions(positions, (14, 14), (20, 20))[:, 1:]
    assert (ours - plain.flatten(2).transpose(1, 2)).abs().max() > 1e-2


@pytest.mark.parametrize("rule", backbones.POSITIONS)
def test_native_positions_are_identical(rule):
    positions = torch.randn(1, 1 + 37 * 37, 4)
    assert resize_positions(positions, (37, 37), (37, 37), rule=rule) is positions


def test_positions_are_resized_once_and_anew_when_they_change(monkeypatch):
    backbone, calls = load_backbone("bundled"), []
    resize = tokens.resize_positions
    monkeypatch.setattr(tokens, "resize_positions", lambda *given, **rule: calls.append(given) or resize(*given, **rule))
    images = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    first = backbone(images)
    assert torch.equal(backbone(images), first) and len(calls) == 1
    with torch.no_grad():
        backbone.vit.pos_embed.mul_(2)  # in place
    twice = backbone(images)
    assert not torch.equal(twice, first) and len(calls) == 2
    backbone.vit.pos_embed.data = backbone.vit.pos_embed.data / 2  # another tensor
    assert torch.equal(backbone(images), first) and len(calls) == 3
    backbone(images[..., :48])  # another grid
    assert len(calls) == 4
    assert torch.equal(backbone.bfloat16().float()(images), backbone(images)) and len(calls) == 5
    backbone.vit.pos_embed.requires_grad_()
    backbone(images), backbone(images)
    assert len(calls) == 7  # positions that learn are never kept


@pytest.mark.parametrize("new", [(20, 20), (7, 9), (14, 30)])
def test_antialiased_positions_are_resized_as_a_picture_is(new):
    """Pillow's bicubic filter, channel by channel: the exact size, and a wider filter where the grid shrinks."""
    positions = torch.randn(1, 1 + 14 * 14, 3, generator=torch.Generator().manual_seed(0))
    ours = resize_positions(positions, (14, 14), new, rule="antialiased")
    planes = [Image.fromarray(plane.numpy()).resize(new[::-1], Image.Resampling.BICUBIC)
              for plane in positions[0, 1:].T.unflatten(1, (14, 14))]
    expected = torch.stack([torch.from_numpy(np.array(plane)).flatten() for plane in planes], dim=1)
    torch.testing.assert_close(ours[0, 1:], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours[:, :1], positions[:, :1])
    assert (ours - resize_positions(positions, (14, 14), new)).abs().max() > 1e-2


@pytest.mark.parametrize("old", [14, 20, 28, 37])
def test_every_grid_has_its_size(old):
    """A scale factor promises no size: floor(old * (new + 0.1) / old) must be `new` for every grid."""
    positions = torch.zeros(1, 1 + old * old, 1)
    for new in range(1, 200):
        assert resize_positions(positions, (old, old), (new, 1)).shape == (1, 1 + new, 1)


# --- tokens ---

def test_native_size_equals_timm(tiny, weights):
    images = torch.rand(2, 3, 224, 224)
    expected = tiny.forward_features((images - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(load_backbone(MINE, 224)(images), expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(320, 320), (64, 160)])
def test_other_sizes_equal_timm_with_dino_positions(tiny, weights, size):
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        x = tiny.patch_embed.proj((images - 0.5) / 0.5).flatten(2).transpose(1, 2)
        x = torch.cat([tiny.cls_token, x], dim=1) + dino_positions(tiny.pos_embed, *size, 16).float()
        expected = tiny.norm(tiny.blocks(x))[:, 1:]
    tokens = load_backbone(MINE)(images)
    assert tokens.shape == (1, size[0] // 16 * (size[1] // 16), 192)
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=2e-3)


def test_positions_are_resized_by_the_rule_that_was_asked_for(weights):
    images, tokens = torch.rand(1, 3, 64, 80), {}
    for rule in backbones.POSITIONS:
        backbone = load_backbone(MINE, positions=rule)
        tokens[rule] = backbone(images)
        assert backbone.positions == rule
        twin = load_backbone(MINE)
        twin.vit.pos_embed.data = resize_positions(backbone.vit.pos_embed, (14, 14), (4, 5), rule=rule)
        twin.vit.patch_embed.grid_size = (4, 5)
        assert torch.equal(twin(images), tokens[rule])
    assert not torch.equal(tokens["dino"], tokens["antialiased"])
    assert torch.equal(load_backbone(MINE)(images), tokens["dino"])
    with pytest.raises(ValueError, match="one of dino, antialiased, exact, not 'bilinear'"):
        load_backbone(MINE, positions="bilinear")


def test_more_heads_read_the_same_weights(tiny, weights):
    """Against timm's own ViT with that many heads, and the same tensors."""
    other = timm.create_model(TINY, pretrained=False, num_heads=12).eval()
    other.load_state_dict(tiny.state_dict())
    images = torch.rand(1, 3, 224, 224)
    twelve, three = load_backbone(MINE, 224, num_heads=12), load_backbone(MINE, 224, num_heads=3)
    torch.testing.assert_close(twelve(images), other.forward_features((images - 0.5) / 0.5)[:, 1:].detach(),
                               rtol=1e-5, atol=1e-5)
    assert twelve.attention(images).shape == (1, 12, 197, 197) and "12 heads instead of its own 3" in twelve.description
    assert twelve.weights_sha256 == three.weights_sha256
    assert torch.equal(three(images), load_backbone(MINE, 224)(images)) and "instead" not in three.description
    for heads in (0, 5, -3):
        with pytest.raises(ValueError, match=f"width 192, which {heads} attention heads.*its own 3"):
            load_backbone(MINE, num_heads=heads)


@pytest.mark.parametrize("name", ["bundled", "bundled.random"])
def test_heads_of_the_embedded_default(name):
    own, six, images = load_backbone(name), load_backbone(name, num_heads=6), torch.rand(1, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(own.vit.state_dict().values(), six.vit.state_dict().values()))
    assert six.weights_sha256 == own.weights_sha256 and not torch.equal(own(images), six(images))


@pytest.mark.parametrize("patch", [8, 16])
def test_the_released_reading_of_dino(shallow, tmp_path, monkeypatch, patch):
    """`.released` is the plain name's file, read with twelve heads, and another identity."""
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    name = f"dino_vits{patch}"
    vit = timm.create_model(f"vit_small_patch{patch}_224", pretrained=False, num_classes=0)
    save(vit.state_dict(), tmp_path / f"{name}.safetensors")
    released, plain = load_backbone(f"{name}.released"), load_backbone(name)
    images = torch.rand(1, 3, 4 * patch, 4 * patch)
    assert torch.equal(released(images), load_backbone(name, num_heads=12)(images))
    assert not torch.equal(released(images), plain(images))
    assert released.weights_sha256 == plain.weights_sha256 == weights_fingerprint(name)
    assert weights_fingerprint(f"{name}.released") not in (weights_fingerprint(name), "")
    assert (released.name, released.mean.tolist()) == (f"{name}.released", plain.mean.tolist())
    load_backbone(f"{name}.released", num_heads=12)
    with pytest.raises(ValueError, match=f"12 attention heads, so num_heads=6.*take '{name}' with num_heads"):
        load_backbone(f"{name}.released", num_heads=6)


@pytest.mark.parametrize("architecture", ["vit_tiny_r_s16_p8_224", "resnet18", "deit_tiny_distilled_patch16_224"])
def test_only_plain_transformers(architecture):
    with pytest.raises(ValueError, match="plain vision transformer.*dino_vits16"):
        load_backbone(architecture)


def test_registers_and_layer_scale():
    """DINOv2's layout (patch 14, 518 pixels, LayerScale; registers in newer files) against timm at its native size."""
    for architecture in ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"):
        with torch.random.fork_rng(devices=[]):
            vit = timm.create_model(architecture, pretrained=False, depth=1, img_size=518).eval()
        assert vit.blocks[0].ls1.gamma.shape == (384,)
        images = torch.rand(1, 3, 518, 518)
        backbone = Backbone(timm.create_model(architecture, depth=1, dynamic_img_size=True, num_classes=0), name="it",
                            image_size=None, mean=(0.0,) * 3, std=(1.0,) * 3, weights_sha256="", description="")
        backbone.vit.load_state_dict(vit.state_dict())
        with torch.no_grad():
            expected = vit.forward_features(images)[:, vit.num_prefix_tokens:]
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
        assert backbone(images[..., :42, :70]).shape == (1, 15, 384)


def test_frozen(weights):
    backbone = load_backbone(MINE, 224).train()
    assert not backbone.training and not backbone.vit.blocks[0].training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    tokens = backbone(images)
    assert not tokens.requires_grad and not tokens.is_inference()
    head = torch.nn.Linear(192, 3)
    head(tokens).sum().backward()  # a head can learn from them
    assert head.weight.grad is not None and images.grad is None


def test_normalises_by_its_own_statistics(weights):
    assert load_backbone(MINE).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    images = torch.rand(1, 3, 64, 64)
    backbone = load_backbone(MINE)
    before = backbone(images)
    backbone.mean.zero_(), backbone.std.fill_(1.0)
    torch.testing.assert_close(backbone((images - 0.5) / 0.5), before)


def test_registry_knows_dino_statistics():
    for timm_name, _ in backbones.BACKBONES.values():
        config = timm.get_pretrained_cfg(timm_name)
        assert config.mean == (0.485, 0.456, 0.406) and config.hf_hub_id == f"timm/{timm_name}"


def test_sizes_in_turn(weights):
    """Positions of one grid are not used for another, transposed ones included."""
    backbone = load_backbone(MINE)
    images = torch.rand(1, 3, 48, 96)
    first = backbone(images)
    backbone(torch.rand(1, 3, 96, 48))
    for side in range(1, 20):
        backbone(torch.rand(1, 3, 16, 16 * side))
    torch.testing.assert_close(backbone(images), first)


@pytest.mark.parametrize("size, good", [((224, 225), "224 x 224"), ((250, 231), "256 x 224"), ((8, 64), "16 x 64")])
def test_images_that_do_not_fit(weights, size, good):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels.* {good}"):
        load_backbone(MINE)(torch.rand(1, 3, *size))


def test_an_image_size_that_does_not_fit(weights):
    with pytest.raises(ValueError, match="322 x 322 pixels.* 320 x 320"):
        load_backbone(MINE, 322)


@pytest.mark.parametrize("images", [torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32),
                                    torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
def test_images_of_another_kind(weights, images):
    with pytest.raises(ValueError, match=r"\(b, 3, h, w\)"):
        load_backbone(MINE)(images)


# --- names and files ---

@pytest.mark.parametrize("name, near", [("dino_vit16", "dino_vits16"), ("bundeled", "bundled"),
                                        ("vit_tny_patch16_224", TINY), ("", "dino_vits16"), (7, "dino_vits16")])
def test_unknown_name_names_the_nearest(name, near):
    for function in (load_backbone, weights_fingerprint):
        with pytest.raises(ValueError, match=f"no backbone.*{near}"):
            function(name)


@pytest.mark.parametrize("name, says", [
    ("dino_vits16", r"model\.safetensors from huggingface\.co/timm/vit_small_patch16_224\.dino \(here: Connection"),
    ("dino_vits16.released", r"huggingface\.co/timm/vit_small_patch16_224\.dino.*put it as dino_vits16\.safetensors"),
    ("ibot_vitb16", r"checkpoint_teacher\.pth, which its authors publish at https://github\.com/bytedance/ibot"),
    ("msn_vits16", r"at https://dl\.fbaipublicfiles\.com/msn/vits16_800ep\.pth\.tar, put it as msn_vits16\.pth\.tar"),
    (MINE, "a file of your own")])
def test_what_to_fetch_is_one_sentence(name, says, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"{says}.*CAUSE_WEIGHTS.*not set.*backbone='bundled'") as error:
        load_backbone(name)
    assert str(error.value).endswith(".") and ". " not in str(error.value)


@pytest.mark.parametrize("name", ["dino_vits16", "mae_vitb16", MINE, TINY])
def test_no_weights_and_no_network(name, tmp_path, monkeypatch):
    for where in (None, tmp_path, tmp_path / "nowhere"):
        if where is not None:
            monkeypatch.setenv("CAUSE_WEIGHTS", str(where))
        for function in (load_backbone, weights_fingerprint):
            with pytest.raises(FileNotFoundError, match=rf"{name}\.safetensors.*CAUSE_WEIGHTS.*backbone='bundled'"):
                function(name)


def test_an_interrupt_is_no_missing_network(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "get_session", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_backbone("dino_vits16")


def test_the_hub_is_asked_for_timms_file(tiny, tmp_path, monkeypatch):
    asked = []
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "model.safetensors")

    class Session:
        def head(self, url, timeout):
            asked.append(url)

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download",
                        lambda repository, file: str(tmp_path / file))
    load_backbone(TINY, 224)
    assert asked[0].endswith("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors")
    # the hub's cache is used without asking
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache",
                        lambda *args: str(tmp_path / "model.safetensors"))
    asked.clear()
    load_backbone(TINY, 224)
    assert asked == []


def test_a_damaged_download_is_noticed(tmp_path, monkeypatch):
    blob = tmp_path / ("0" * 64)
    blob.write_bytes(b"half a file")
    (tmp_path / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache",
                        lambda *args: str(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="0000 is damaged"):
        load_backbone("dino_vits16")


def test_another_file_than_the_hubs_page_states_is_said(tmp_path, monkeypatch):
    """Right by the hub's own count, hence no damage, and yet not the file whose SHA-256 is known."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights of another day")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: str(path))
    found = hashlib.sha256(b"weights of another day").hexdigest()
    with pytest.warns(UserWarning, match=rf"timm/vit_small_patch8_224.dino has another file.*{found[:8]}.*e1b79616"):
        assert weights_fingerprint("dino_vits8") == found
    monkeypatch.setitem(HUB_SHA256, "timm/vit_small_patch8_224.dino", found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights_fingerprint("dino_vits8")


def test_the_page_has_the_known_checksums():
    table = re.findall(r"^\| `(timm/\S+)`, `model.safetensors` \| `([0-9a-f]{64})` \|$",
                       (Path(__file__).parents[2] / "book/data.md").read_text(), re.MULTILINE)
    assert dict(table) == HUB_SHA256
    published = {timm.get_pretrained_cfg(timm_name).hf_hub_id for timm_name, _ in backbones.BACKBONES.values()}
    assert set(HUB_SHA256) <= published


@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
def test_folder_and_file(tiny, tmp_path, monkeypatch, suffix):
    path = tmp_path / (MINE + suffix)
    safetensors.torch.save_file(tiny.state_dict(), path) if suffix == ".safetensors" else torch.save(
        {"model": tiny.state_dict()} if suffix == ".pt" else tiny.state_dict(), path)
    for where in (tmp_path, path):
        monkeypatch.setenv("CAUSE_WEIGHTS", str(where))
        backbone = load_backbone(MINE, 224)
        assert path.name in backbone.description
        torch.testing.assert_close(backbone.vit.pos_embed, tiny.pos_embed, rtol=0, atol=0)


def test_a_file_named_for_another_backbone_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "dino_vits8.pth").write_bytes(b"")
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path / "dino_vits8.pth"))
    with pytest.raises(FileNotFoundError, match="No weights for 'dino_vits16'"):
        weights_fingerprint("dino_vits16")
    assert weights_fingerprint("dino_vits8")


def test_the_authors_own_file_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    (tmp_path / "dino_deitsmall16_pretrain.pth").write_bytes(b"x")
    assert weights_path("dino_vits16").name == "dino_deitsmall16_pretrain.pth"
    (tmp_path / "dino_vits16.pth").write_bytes(b"x")
    assert weights_path("dino_vits16").name == "dino_vits16.pth"


# --- backbones that only their authors publish ---

def ibot(state):
    """As iBOT's files hold a teacher: below `state_dict`, behind prefixes, with the projection head."""
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    wrapped |= {"module.backbone.masked_embed": torch.zeros(1, 1), "module.head.mlp.0.weight": torch.zeros(2, 2),
                "module.head.last_layer2.weight_g": torch.zeros(2, 1)}
    return {"state_dict": wrapped}


def msn(state):
    """As MSN's files hold the target encoder: beside optimiser state, prototypes and numbers."""
    wrapped = {f"module.{key}": value for key, value in state.items()}
    wrapped |= {"module.fc.fc1.weight": torch.zeros(2, 2), "module.fc.bn1.num_batches_tracked": torch.tensor(3)}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    return {"target_encoder": wrapped, "encoder": {f"module.{key}": -value for key, value in state.items()},
            "opt": optimizer.state_dict(), "prototypes": torch.zeros(4, 2), "epoch": 800, "scaler": {"scale": 2.0},
            "loss": 1.5, "lr": 1e-3, "batch_size": 16, "world_size": 64, "temperature": 0.1}


@pytest.fixture(scope="module")
def authors():
    """Random weights of a single block in the two architectures, under the authors' keys (which are timm's)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {name: timm.create_model(AUTHORS[name].architecture, pretrained=False, num_classes=0, depth=1)
                for name in AUTHORS}


@pytest.mark.parametrize("name, wrap, suffix", [("ibot_vitb16", ibot, ".pth"), ("msn_vits16", msn, ".pth.tar")])
def test_authors_files(authors, shallow, tmp_path, monkeypatch, name, wrap, suffix):
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    vit, path = authors[name].eval(), tmp_path / (name + suffix)
    torch.save(wrap(vit.state_dict()), path)
    backbone, images = load_backbone(name, 224), torch.rand(1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = vit.forward_features((images - mean) / std)[:, 1:]
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)
    assert backbone.weights_sha256 == weights_fingerprint(name) and path.name in backbone.description
    monkeypatch.setenv("CAUSE_WEIGHTS", str(path))  # the file itself, and tensors alone
    assert load_backbone(name).weights_sha256 == backbone.weights_sha256
    save(vit.state_dict(), tmp_path / f"{name}.safetensors")
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path / f"{name}.safetensors"))
    assert torch.equal(load_backbone(name).vit.pos_embed, vit.pos_embed)


@pytest.mark.parametrize("name, wrap, key", [("ibot_vitb16", ibot, "state_dict"),
                                             ("msn_vits16", msn, "target_encoder")])
def test_authors_files_load_strictly(authors, shallow, tmp_path, monkeypatch, capsys, name, wrap, key):
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))

    def load(change):
        content = wrap(authors[name].state_dict())
        change(content)
        torch.save(content, tmp_path / f"{name}.pth")
        return load_backbone(name)

    with pytest.raises(ValueError, match=rf"{name}.pth does not fit {name}.*1 missing \(pos_embed\)"):
        load(lambda content: [content[key].pop(k) for k in [*content[key]] if k.endswith("pos_embed")])
    with pytest.raises(ValueError, match=r"1 unknown \(student\.whatever\)"):
        load(lambda content: content[key].update({"module.student.whatever": torch.zeros(1)}))
    with pytest.raises(ValueError, match="holds both module.cls_token and cls_token"):
        load(lambda content: content[key].update({"module.cls_token": torch.zeros(1), "cls_token": torch.zeros(1)}))
    with pytest.raises(ValueError, match=f"neither itself nor as {key}"):
        load(lambda content: content.update({key: 7}))
    load(lambda content: content.update(args=argparse.Namespace(arch="vit")))  # settings, which run nothing
    with pytest.raises(ValueError, match="more than tensors"):
        load(lambda content: content.update(args=Runs()))
    assert "code has run" not in capsys.readouterr().out


def change(state, how):
    if how == "missing":
        del state["blocks.3.attn.qkv.weight"]
    if how == "unknown":
        state["student.whatever"] = torch.zeros(1)
    if how == "shape":
        state["pos_embed"] = torch.zeros(1, 401, 192)
    if how == "width":
        state = timm.create_model("vit_small_patch16_224", pretrained=False).state_dict()
    return state


@pytest.mark.parametrize("how, says", [("missing", r"1 missing \(blocks\.3\.attn\.qkv\.weight\)"),
                                       ("unknown", r"1 unknown \(student\.whatever\)"),
                                       ("shape", r"pos_embed \(1, 401, 192\) instead of \(1, 197, 192\)"),
                                       ("width", r"cls_token \(1, 1, 384\) instead of \(1, 1, 192\)")])
def test_strict(tiny, file, how, says):
    save(change(dict(tiny.state_dict()), how), file)
    with pytest.raises(ValueError, match=f"{MINE}.safetensors does not fit {MINE}.*{says}"):
        load_backbone(MINE, 224)


def test_classifier_and_mask_token_are_dropped(tiny, file):
    state = dict(tiny.state_dict(), mask_token=torch.zeros(1, 192), **{"fc_norm.weight": torch.zeros(192)})
    save(state, file)
    load_backbone(MINE, 224)


def test_half_precision_files_load_as_float32(tiny, file):
    save({key: value.half() for key, value in tiny.state_dict().items()}, file)
    assert load_backbone(MINE, 224).vit.pos_embed.dtype == torch.float32


class Runs:
    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize("content", [pickle.dumps({"pos_embed": Runs()}, protocol=2), b"", b"no weights at all"],
                         ids=["code", "empty", "text"])
@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
def test_files_that_are_no_weights(tmp_path, monkeypatch, capsys, content, suffix):
    (tmp_path / (MINE + suffix)).write_bytes(content)
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=MINE):
        load_backbone(MINE)
    assert "code has run" not in capsys.readouterr().out


def test_pickled_object_is_refused(tmp_path, monkeypatch, capsys):
    torch.save({"model": {}, "args": Runs()}, tmp_path / f"{MINE}.pth")
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="more than tensors"):
        load_backbone(MINE)
    assert "code has run" not in capsys.readouterr().out


def test_no_state_dict(tmp_path, monkeypatch):
    torch.save([torch.zeros(2)], tmp_path / f"{MINE}.pth")
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="no state dict"):
        load_backbone(MINE)


def test_fingerprint_follows_the_file(tiny, file):
    save(tiny.state_dict(), file)
    before = weights_fingerprint(MINE)
    assert before == load_backbone(MINE).weights_sha256 and len(before) == 64
    save(dict(tiny.state_dict(), cls_token=torch.ones(1, 1, 192)), file)
    assert weights_fingerprint(MINE) != before


# --- looking inside ---

def test_attention_is_what_the_block_mixes_its_values_with():
    backbone, images, seen = load_backbone("bundled.random", 48), torch.rand(2, 3, 48, 48), []
    attn = backbone.vit.blocks[3].attn
    hook = attn.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    backbone(images)
    hook.remove()
    x, output = seen[0]
    attention = backbone.attention(images, 3)
    assert attention.shape == (2, 3, 37, 37) and not attn._forward_pre_hooks
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3, 37))
    values = F.linear(x.clone(), attn.qkv.weight[384:], attn.qkv.bias[384:]).unflatten(-1, (3, 64)).transpose(1, 2)
    mixed = (attention @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(F.linear(mixed, attn.proj.weight, attn.proj.bias), output.clone(), rtol=1e-4, atol=1e-5)


# --- the embedded default ---

def test_bundled_is_the_network_of_its_card():
    card = json.loads(backbones.BUNDLED_PATH.with_suffix(".json").read_text())
    backbone = load_backbone("bundled", 160)
    assert backbone.weights_sha256 == weights_fingerprint("bundled") == card["sha256"]
    assert backbones.BUNDLED_PATH.stat().st_size == card["bytes"] <= 12_000_000
    assert sum(p.numel() for p in backbone.vit.parameters()) == card["parameters"]
    assert (backbone.patch_size, backbone.dim) == (card["vit"]["patch_size"], card["vit"]["dim"]) == (8, 192)
    assert backbone(torch.rand(1, 3, 160, 160)).shape == (1, 400, 192)
    assert "without labels" in backbone.description and "no photographs" in backbone.description


def test_random_bundled_is_always_the_same_and_says_what_it_is():
    torch.manual_seed(1)
    first, drawn = load_backbone("bundled.random", 160), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)  # loading leaves the global random numbers alone
    second, images = load_backbone("bundled.random", 160), torch.rand(1, 3, 160, 160)
    assert first.weights_sha256 == second.weights_sha256 and len(first.weights_sha256) == 64
    assert torch.equal(first(images), second(images))
    assert "untrained" in first.description and weights_fingerprint("bundled.random") == "random-seed0"
    trained = load_backbone("bundled", 160)
    assert {k: v.shape for k, v in trained.vit.state_dict().items()} == \
        {k: v.shape for k, v in first.vit.state_dict().items()}


def test_bundled_tells_classes_apart():
    """On pictures it has not learned from: patches of one class are more alike than patches of two."""
    scenes = load_dataset("scenes", "val", image_size=160, limit=6)
    images, labels = (torch.stack([scenes[i][what] for i in range(6)]) for what in ("image", "label"))
    label = labels[:, 4::8, 4::8].flatten()  # of a patch's middle pixel
    same = label[:, None] == label
    gap = {}
    for name in ("bundled", "bundled.random"):
        tokens = F.normalize(load_backbone(name, 160)(images).flatten(0, 1), dim=-1)
        cosine = tokens @ tokens.T
        gap[name] = float((cosine[same].mean() - cosine[~same].mean()) / cosine.std())
    assert gap["bundled"] > 0.5 and gap["bundled"] > 1.2 * gap["bundled.random"]
