"""Checkpoints of trainers and of transformers: every spelling of keys becomes timm's, strictly, to timm's own tokens."""

import argparse
import re
import shutil

import pytest
import safetensors.torch
import timm
import torch

from cause_lib.backbones import load_backbone

SMALL = {"depth": 2, "embed_dim": 96, "num_heads": 3}
pytestmark = pytest.mark.filterwarnings("ignore:The weights of")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The named architectures with two narrow blocks."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **(SMALL | kwargs)))


def fill(module):
    """Numbers that leave no part idle; the same for the same parameters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in module.named_parameters():
            scale = 0.3 if value.ndim == 1 or "token" in key or "pos" in key else 0.1
            value.copy_(torch.randn(value.shape, generator=generator) * scale + ("norm" in key and key.endswith("weight")))
    return module.eval().requires_grad_(False)


def renamed(state, *pairs):
    found = {}
    for key, value in state.items():
        for pattern, theirs in pairs:
            key = re.sub(pattern, theirs, key)
        found[key] = value
    return found


def official_dinov3(state, gated=False):
    """As DINOv3's authors spell a timm state: one bias of queries, keys and values, with its mask, and the periods."""
    found = renamed(state, ("^reg_token", "storage_tokens"), (r"gamma_(\d)$", r"ls\1.gamma"), (r"mlp\.fc1_g", "mlp.w1"),
                    (r"mlp\.fc1_x", "mlp.w2"), *([(r"mlp\.fc2", "mlp.w3")] if gated else []))
    for i in range(2):
        attn = f"blocks.{i}.attn."
        if f"{attn}q_bias" in found:
            q, v = found.pop(f"{attn}q_bias"), found.pop(f"{attn}v_bias")
            found[f"{attn}qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])  # which the mask takes away
            found[f"{attn}qkv.bias_mask"] = torch.cat([torch.ones_like(q), torch.zeros_like(q), torch.ones_like(q)])
    periods = 100.0 ** (2 * torch.arange(8) / 16)
    return found | {"mask_token": torch.zeros(1, 96), "rope_embed.periods": periods.bfloat16(),
                    "local_cls_norm.weight": torch.zeros(96)}


def transformers_dinov3(state, memory=False):
    """As transformers' DINOv3ViTModel spells it: on disk, or in memory, where blocks lie below `model.`."""
    found = {}
    for key, value in renamed(state, (r"^blocks\.", "model.layer." if memory else "layer."), (r"attn\.proj", "attention.o_proj"),
                              (r"gamma_(\d)$", r"layer_scale\1.lambda1"), (r"mlp\.fc1_g", "mlp.gate_proj"),
                              (r"mlp\.fc1(_x)?\b", "mlp.up_proj"), (r"mlp\.fc2", "mlp.down_proj"),
                              (r"patch_embed\.proj", "embeddings.patch_embeddings"), ("^cls_token", "embeddings.cls_token"),
                              ("^reg_token", "embeddings.register_tokens"), (r"attn\.([qv])_bias", r"attention.\1_proj.bias")
                              ).items():
        if "attn.qkv.weight" in key:
            for letter, part in zip("qkv", value.chunk(3)):
                found[key.replace("attn.qkv", f"attention.{letter}_proj")] = part.clone()
        else:
            found[key] = value
    return found | {"embeddings.mask_token": torch.zeros(1, 1, 96)}


SPELLED = {"timm": dict, "authors": official_dinov3, "transformers on disk": transformers_dinov3,
           "transformers in memory": lambda state: transformers_dinov3(state, memory=True),
           "authors' trainer": lambda state: {"teacher": {f"backbone.{key}": value for key, value in official_dinov3(
               state).items()} | {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.mlp.0.weight": torch.zeros(2, 2)}},
           "below a classifier": lambda state: {f"dinov3_vit.{key}": value for key, value in transformers_dinov3(
               state).items()} | {"classifier.weight": torch.zeros(2, 96)}}


@pytest.mark.parametrize("asked", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("has", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("how", SPELLED)
def test_three_spellings_of_dinov3_and_the_biases_of_the_file(asked, has, how, tmp_path):
    vit = fill(timm.create_model(has, num_classes=0, dynamic_img_size=True))
    torch.save(SPELLED[how](vit.state_dict()), tmp_path / "a.pth")
    backbone, images = load_backbone(asked, weights=tmp_path / "a.pth"), torch.rand(1, 3, 80, 112)
    assert backbone.vit.state_dict().keys() == vit.state_dict().keys()
    expected = vit.forward_features((images - backbone.mean) / backbone.std)[:, 5:]
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["authors", "transformers"])
def test_gated_dinov3(how, tmp_path):
    name = "vit_small_plus_patch16_dinov3_qkvb"
    vit = fill(timm.create_model(name, num_classes=0))
    state = official_dinov3(vit.state_dict(), gated=True) if how == "authors" else transformers_dinov3(vit.state_dict())
    torch.save(state, tmp_path / "a.pth")
    found = load_backbone(name, weights=tmp_path / "a.pth").vit.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in vit.state_dict().items())


@pytest.mark.parametrize("change, says", [
    ({"rope_embed.periods": torch.ones(8)}, "periods of its rotary positions"),
    ({"rope_embed.periods": torch.ones(9)}, "periods of its rotary positions"),
    ({"blocks.1.attn.qkv.bias_mask": None}, r"unknown \(blocks.1.attn.qkv.bias\)"),  # keys would have a bias
    ({"blocks.1.attn.qkv.bias_mask": torch.full((288,), torch.nan)}, r"missing \(blocks.1.attn.q_bias"),
    ({"blocks.0.attn.qkv.bias": None}, r"missing \(blocks.0.attn.q_bias"),
    ({"storage_tokens": None}, r"missing \(reg_token\)"), ({"stranger": torch.zeros(1)}, r"unknown \(stranger\)"),
    ({"blocks.0.ls1.gamma": torch.zeros(95)}, "of another shape"), ({"reg_token": torch.zeros(1, 4, 96)}, "reg_token twice"),
    ({"pos_embed": torch.zeros(1, 197, 96)}, r"unknown \(pos_embed\)")])
def test_what_does_not_fit_is_refused(change, says, tmp_path):
    state = official_dinov3(fill(timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0)).state_dict()) | change
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=says):
        load_backbone("vit_small_patch16_dinov3", weights=tmp_path / "a.pth")


def trainer(kind, state):
    """A checkpoint of the trainers of DINO, DINOv2 (blocks in chunks) and iBOT."""
    below = {f"backbone.{key}": value for key, value in state.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)}
    other = {f"module.{key}": -value for key, value in below.items()}
    beside = {"epoch": 100, "args": argparse.Namespace(arch="vit_small"), "optimizer": {"state": {}}}
    if kind == "DINO":
        return {"student": other, "teacher": below} | beside
    if kind == "iBOT":
        masked = {"backbone.masked_embed": torch.zeros(1, 96)}
        return {"student": other, "teacher": below | masked, "ibot_loss": {"center": torch.zeros(2)}} | beside
    heads = {"dino_head.last_layer.weight_g": torch.zeros(2, 2), "backbone.mask_token": torch.zeros(1, 96)}
    return {"teacher": renamed(below, (r"blocks\.(\d)\.", r"blocks.\1.\1.")) | heads}


@pytest.mark.parametrize("kind, name", [("DINO", "vit_small_patch16_224"), ("iBOT", "vit_small_patch16_224"),
                                        ("DINOv2", "vit_small_patch14_dinov2")])
def test_checkpoints_of_trainers(kind, name, tmp_path):
    vit = fill(timm.create_model(name, num_classes=0))
    torch.save(trainer(kind, vit.state_dict()), tmp_path / "checkpoint.pth")
    backbone = load_backbone(name, weights=tmp_path / "checkpoint.pth")
    assert all(torch.equal(value, backbone.vit.state_dict()[key]) for key, value in vit.state_dict().items())
    assert "entry teacher, keys below backbone." in backbone.description


def test_a_norm_behind_the_pooling(tmp_path):
    """A file that has no norm of its tokens, as timm's pooling models; with neither norm it is refused."""
    vit = fill(timm.create_model("vit_small_patch16_224", global_pool="avg", num_classes=3))
    torch.save(vit.state_dict(), tmp_path / "a.pth")
    backbone, images = load_backbone("vit_small_patch16_224", weights=tmp_path / "a.pth"), torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(backbone(images), vit.forward_features(2 * images - 1)[:, 1:], rtol=1e-4, atol=1e-4)
    assert "no final norm" in backbone.description
    state = {key: value for key, value in vit.state_dict().items() if "fc_norm" not in key}
    for more, says in (({}, "missing .norm.weight"), ({"fc_norm.weight": 1, "norm.bias": 1}, "unknown .norm.bias")):
        torch.save(state | {key: torch.zeros(96) for key in more}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=says):
            load_backbone("vit_small_patch16_224", weights=tmp_path / "a.pth")


def test_a_backbone_is_not_its_file(tmp_path):
    """Another file copied over the one that it was read from changes nothing, though safetensors maps files."""
    vit = fill(timm.create_model("vit_small_patch16_224", num_classes=0))
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "a.safetensors")
    safetensors.torch.save_file({key: -value for key, value in vit.state_dict().items()}, tmp_path / "b.safetensors")
    backbone, images = load_backbone("vit_small_patch16_224", weights=tmp_path / "a.safetensors"), torch.rand(1, 3, 32, 32)
    before = backbone(images)
    shutil.copyfile(tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    assert torch.equal(backbone(images), before)


KIND = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}


@pytest.mark.parametrize("how", ["disk", "memory"])
@pytest.mark.parametrize("kind, more, name, prefix, rule, sizes", [
    ("DINOv3ViT", {"num_register_tokens": 4, "intermediate_size": 384}, "vit_small_patch16_dinov3", 5, "dino",
     [(224, 224), (96, 96), (64, 144)]),
    ("DINOv3ViT", {"num_register_tokens": 4, "intermediate_size": 384, "use_gated_mlp": True, "hidden_act": "silu"},
     "vit_small_plus_patch16_dinov3", 5, "dino", [(224, 224), (64, 144)]),
    ("Dinov2", {"image_size": 518, "patch_size": 14}, "vit_small_patch14_dinov2", 1, "exact", [(518, 518), (140, 140), (70, 126)]),
    ("Dinov2WithRegisters", {"image_size": 518, "patch_size": 14}, "vit_small_patch14_reg4_dinov2", 5, "antialiased",
     [(518, 518), (140, 140), (70, 126)]),
    ("ViT", {"intermediate_size": 384}, "vit_small_patch16_224", 1, "exact", [(224, 224), (320, 320), (64, 144)])])
def test_transformers_own_models(how, kind, more, name, prefix, rule, sizes, tmp_path):
    """Its tokens, from what it saves and from its state dict in memory; each resizes positions by a rule of ours."""
    transformers = pytest.importorskip("transformers", minversion="5")
    model = fill(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**KIND, **more)))
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "memory.pth")
    weights = tmp_path / ("model.safetensors" if how == "disk" else "memory.pth")
    backbone = load_backbone(name, weights=weights, positions=rule)
    for size in sizes:
        images = torch.rand(1, 3, *size)
        resized = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
        expected = model(pixel_values=(images - backbone.mean) / backbone.std, **resized).last_hidden_state[:, prefix:]
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
