"""Backbones of today through timm: tokens of every family against timm's own, blocks and facets, names, licences."""

import math
import warnings
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from cause_lib import stages
from cause_lib.backbones import BACKBONES, Backbone, check_backbone, load_backbone
from cause_lib.config import STAGE_FIELDS, Experiment
from cause_lib.heads import MLPHead
from cause_lib.names import ALIASES, canonical, patch_of, three_numbers
from cause_lib.probes import ClusterProbe
from cause_lib.use.pictures import usable_device
from cause_lib.segmenter import Segmenter
from cause_lib.tokens import is_plain
from cause_lib.weights import look_up, weights_fingerprint, weights_path
from workflow.check import missing

SMALL = {"depth": 2, "embed_dim": 96, "num_heads": 3}
FAMILIES = ["vit_small_patch16_224.dino", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
            "vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3",
            "vit_tiny_patch16_dinov3_qkvb", "vit_pe_spatial_tiny_patch16_512", "vit_pe_core_base_patch16_224",
            "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224", "eva02_tiny_patch14_224",
            "eva02_base_patch14_224", "eva02_enormous_patch14_clip_224", "deit3_small_patch16_224",
            "vit_base_patch14_reg1_tipsv2", "vit_small_patch16_rope_mixed_ape_224", "vit_base_patch16_rope_reg1_gap_256",
            "vit_base_patch16_reg4_gap_256", "vit_base_patch16_clip_224", "vit_base_patch16_rpn_224",
            "vit_pwee_patch16_reg1_gap_256", "vit_base_patch16_18x2_224"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The named architectures with two narrow blocks, no network, and weights nowhere but in tmp_path."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **(SMALL | kwargs)))
    monkeypatch.setenv("CAUSE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", refuse)


def drawn(name, **more):
    """timm's own model with numbers that leave no part of it idle."""
    vit, generator = timm.create_model(name, **more).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in vit.named_parameters():
            scale = 0.3 if value.ndim == 1 or "token" in key or "pos" in key else 0.1
            value.copy_(torch.randn(value.shape, generator=generator) * scale + ("norm" in key and key.endswith("weight")))
    return vit.requires_grad_(False)


def put(vit, path):
    """Its weights as a file, and the model."""
    safetensors.torch.save_file({key: value.clone() for key, value in vit.state_dict().items()}, path)
    return vit


def normalised(backbone, images):
    return (images - backbone.mean) / backbone.std


@pytest.mark.filterwarnings("ignore:The weights of")
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_equal_timms_own(name, tmp_path):
    """At the native size a model that takes no other, at others one that does; with its pooling and classifier."""
    still = put(drawn(name), tmp_path / f"{name}.safetensors")
    moving = timm.create_model(name, dynamic_img_size=True).eval()
    moving.load_state_dict(still.state_dict())
    drawn_before = torch.get_rng_state()
    backbone = load_backbone(name, positions="antialiased" if is_plain(still) else "dino")
    assert torch.equal(torch.get_rng_state(), drawn_before)
    patch, native = backbone.patch_size, still.patch_embed.img_size[0]
    assert patch == patch_of(name) and backbone.dim == 96
    for vit, size in ((still, (native, native)), (moving, (9 * patch,) * 2), (moving, (4 * patch, 7 * patch))):
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            x = normalised(backbone, images)
            expected = vit.forward_features(x)[:, vit.num_prefix_tokens:]
            (second,) = vit.forward_intermediates(x, indices=[1], norm=True, output_fmt="NLC", intermediates_only=True)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(backbone(images), second, rtol=1e-4, atol=1e-4)
    for size in ((9 * patch + 1, 9 * patch), (patch - 1, patch)):
        with pytest.raises(ValueError, match=f"cuts images into {patch} x {patch} patches, which do not tile"):
            backbone(torch.rand(1, 3, *size))


def test_without_any_positions():
    """A VisionTransformer of timm without positions, which has no name."""
    vit = timm.models.vision_transformer.VisionTransformer(pos_embed="none", class_token=False, global_pool="",
                                                           dynamic_img_size=True, num_classes=0, **SMALL).eval()
    backbone = Backbone(vit, name="it", image_size=None, mean=(0.0,) * 3, std=(1.0,) * 3, weights_sha256="",
                        description="")
    images = torch.rand(1, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), vit.forward_features(images), rtol=1e-4, atol=1e-4)


def test_positions_of_both_kinds(tmp_path):
    """Learned ones beside rotary ones follow an exact rule if that is asked for; the file has no periods."""
    name = "vit_pe_spatial_tiny_patch16_512"
    put(drawn(name), tmp_path / f"{name}.safetensors")
    images, plain = torch.rand(1, 3, 64, 96), load_backbone(name)
    assert plain.positions == "antialiased" and "rotary positions" in plain.description
    assert torch.equal(plain(images), load_backbone(name, positions="antialiased")(images))
    assert not torch.allclose(plain(images), load_backbone(name, positions="exact")(images), atol=1e-3)
    state = drawn("vit_small_patch16_dinov3").state_dict()
    torch.save(state, tmp_path / "dinov3_vits16_pretrain_lvd1689m-0.pth")  # as its authors call it
    with pytest.warns(UserWarning, match="DINOv3 License"):
        dinov3 = load_backbone("dinov3_vits16")
    assert "rope.periods" not in state and not dinov3.vit.rope.periods.is_meta
    assert torch.equal(dinov3.vit.rope.periods, timm.create_model("vit_small_patch16_dinov3").rope.periods)
    assert "learned positions" not in dinov3.description
    half = dinov3.to(torch.bfloat16)
    assert half.vit.rope.periods.dtype == torch.float32 and half(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_tiny"])
def test_other_families_are_refused(name):
    for function in (load_backbone, check_backbone):
        with pytest.raises(ValueError, match="no plain vision transformer, with learned or rotary positions.*dino_vits16"):
            function(name)


# --- blocks and facets ---

def by_hand(vit, x, index):
    """Of a pre-norm timm network: what block `index` sees at its attention, and (b, prefix + n, d) after it."""
    x = vit.patch_embed(x)
    x, rotary = vit._pos_embed(x) if not is_plain(vit) else (vit._pos_embed(x), None)
    x = vit.norm_pre(x)
    for block in vit.blocks[:index + 1]:
        inside = block.norm1(x)
        x = block(x) if rotary is None else block(x, rope=rotary)
    return inside, x


@pytest.mark.filterwarnings("ignore:The weights of")
@pytest.mark.parametrize("name, weight, bias", [
    ("vit_small_patch16_224", "attn.qkv.weight", "attn.qkv.bias"), ("vit_small_patch16_dinov3", "attn.qkv.weight", None),
    ("vit_small_patch16_dinov3_qkvb", "attn.qkv.weight", "attn.q_bias k_bias v_bias"),
    ("vit_pe_spatial_tiny_patch16_512", "attn.qkv.weight", "attn.qkv.bias"),
    ("eva02_base_patch14_224", "attn.q_proj.weight", "attn.q_proj.bias")])
def test_blocks_and_facets(name, weight, bias, tmp_path):
    """Against the weights taken by name, without a hook."""
    vit = put(drawn(name, dynamic_img_size=True), tmp_path / f"{name}.safetensors")
    patch, state = vit.patch_embed.patch_size[0], dict(vit.named_parameters()) | dict(vit.named_buffers())
    images, prefix = torch.rand(2, 3, 3 * patch, 5 * patch), vit.num_prefix_tokens
    for layer, index in ((1, 0), (-2, 0), (2, 1), (-1, 1), (None, 1)):
        load = {facet: load_backbone(name, layer=layer, facet=facet, positions="antialiased")
                for facet in ("token", "query", "key", "value")}
        if layer is not None:  # under the norm that comes next
            normed = load_backbone(name, layer=layer, facet="normed", positions="antialiased")(images)
            after = by_hand(vit, normalised(load["token"], images), index)[1]
            after = vit.blocks[1].norm1(after) if index == 0 else vit.norm(after)
            torch.testing.assert_close(normed, after[:, prefix:], rtol=1e-4, atol=1e-4)
        inside, x = by_hand(vit, normalised(load["token"], images), index)
        torch.testing.assert_close(load["token"](images), vit.norm(x)[:, prefix:], rtol=1e-4, atol=1e-4)
        for part, facet in enumerate(("query", "key", "value")):
            letter = facet[0]
            if "q_proj" in weight:
                w, b = (state.get(f"blocks.{index}.attn.{letter}_proj.{end}") for end in ("weight", "bias"))
            else:
                w = state[f"blocks.{index}.{weight}"][96 * part:96 * (part + 1)]
                b = None if bias is None else state[f"blocks.{index}.attn.{letter}_bias"] if "q_bias" in bias else \
                    state[f"blocks.{index}.{bias}"][96 * part:96 * (part + 1)]
            torch.testing.assert_close(load[facet](images), F.linear(inside, w, b)[:, prefix:], rtol=1e-4, atol=1e-4)
            assert load[facet].dim == 96 and load[facet].facet == facet
    assert "; keys of block 1;" in load_backbone(name, layer=1, facet="key").description
    assert "; outputs under the next norm of block 1;" in load_backbone(name, facet="normed").description  # 3 / 4 of 2


def test_normed_is_of_the_block_at_three_quarters_unless_said():
    backbones = [load_backbone("bundled", layer=layer, facet="normed") for layer in (None, 4, -3, -1)]  # of six blocks
    images = torch.rand(1, 3, 48, 48)
    first, *others = (backbone(images) for backbone in backbones)
    assert torch.equal(first, others[0]) and torch.equal(first, others[1])
    assert torch.equal(others[2], load_backbone("bundled")(images)) and not torch.equal(first, others[2])


@pytest.mark.filterwarnings("ignore:The weights of")
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_patch16_rope_mixed_ape_224",
                                  "vit_small_patch16_224"])
def test_attention_turns_queries_and_keys(name, tmp_path):
    """What the attention gives its values by these weights is what timm's gives."""
    vit = put(drawn(name, dynamic_img_size=True), tmp_path / f"{name}.safetensors")
    backbone, images, block = load_backbone(name, positions="antialiased"), torch.rand(1, 3, 48, 80), vit.blocks[1]
    inside, _ = by_hand(vit, normalised(backbone, images), 1) if "mixed" not in name else (None, None)
    if inside is None:
        x, rotary = vit._pos_embed(vit.patch_embed(normalised(backbone, images)))
        inside, rope = block.norm1(vit.blocks[0](vit.norm_pre(x), rope=rotary[0])), rotary[1]
    else:
        rope = None if is_plain(vit) else vit.rope.get_embed(shape=[3, 5])
    expected = block.attn(inside) if rope is None else block.attn(inside, rope=rope)
    weights = backbone.attention(images)
    value = inside @ block.attn.qkv.weight[192:].T
    value += block.attn.v_bias if getattr(block.attn, "v_bias", None) is not None else block.attn.qkv.bias[192:]
    mixed = (weights @ value.unflatten(-1, (3, 32)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn.proj(mixed), expected, rtol=1e-4, atol=1e-4)


def test_what_is_refused_of_blocks_and_facets(tmp_path):
    put(drawn("vit_small_patch16_224"), tmp_path / "vit_small_patch16_224.safetensors")
    for function in (load_backbone, check_backbone):
        for layer in (0, 3, -3, 1.5, True):
            with pytest.raises(ValueError, match=r"has 2 blocks, so layer must be 1 to 2, -1 \(the last\) to -2, or None"):
                function("vit_small_patch16_224", layer=layer)
        with pytest.raises(ValueError, match="facet must be one of token, output, normed, key, query, value, not 'keys'"):
            function("vit_small_patch16_224", facet="keys")
        with pytest.raises(ValueError, match="blocks of timm's ResPostBlock, whose attention is not laid open"):
            function("vit_base_patch16_rpn_224", facet="key")
    with pytest.raises(ValueError, match="do not tile 225 x 225 pixels; the nearest size that they tile is 224 x 224"):
        check_backbone("vit_small_patch16_dinov3", 225)


def test_a_run_takes_the_tokens_that_it_was_asked_for(tmp_path):
    run = Experiment(backbone="bundled.random", image_size=48, train_images=2, layer=-2, facet="key", image_mean="0.4",
                     image_std="0.2, 0.3, 0.25", concept_steps=0, num_concepts=8, crops="none", device="cpu",
                     run_dir=str(tmp_path / "runs"))
    assert (run.image_mean, run.image_std) == ("0.4 0.4 0.4", "0.2 0.3 0.25")
    assert run.key("features").items() >= {"layer": -2, "facet": "key", "image_mean": "0.4 0.4 0.4"}.items()
    assert not {"layer", "facet", "image_mean", "image_std"} & set(Experiment().key("evaluation"))
    assert {"layer", "facet", "image_mean", "image_std"} <= set(STAGE_FIELDS["evaluation"])
    record = stages.read_record(stages.fit_clusterbook(run))
    assert record["weights"]["description"].endswith("random weights, untrained; keys of block 5; pictures normalised by "
                                                     "mean (0.4, 0.4, 0.4), std (0.2, 0.3, 0.25).")
    assert load_backbone("bundled.random").description.endswith("with seeded random weights, untrained.")
    assert stages.find(run.replace(layer=None), "clusterbook") is None
    for given, said in (({"layer": 0}, "layer 0 is before the first block"), ({"image_std": "0 1 1"}, "image_std must be"),
                        ({"facet": "kye"}, "did you mean 'key'"), ({"image_mean": "1 2"}, "three numbers")):
        with pytest.raises(ValueError, match=said):
            Experiment(**given)
    row = SimpleNamespace(experiment=run.replace(layer=99), number=1, stage="clusterbook")
    assert any("has 6 blocks" in sentence for sentence in missing([row], fetch=False))


def test_a_segmenter_keeps_them(tmp_path):
    backbone = load_backbone("bundled", layer=2, facet="value", mean=(0.4, 0.5, 0.6), std=0.25)
    segment = Segmenter(backbone, MLPHead(192, 4).eval(), ClusterProbe(2, 4), image_size=48, classes=["a", "b"],
                        colors=[[0, 0, 0], [255, 255, 255]])
    folder, image = segment.save_pretrained(tmp_path / "it"), torch.rand(3, 48, 64)
    again = Segmenter.from_pretrained(folder)
    assert (again.backbone.layer, again.backbone.facet) == (2, "value")
    assert again.backbone.statistics == ((0.4, 0.5, 0.6), (0.25,) * 3)
    assert torch.equal(again.backbone(image[None]), backbone(image[None]))
    assert not torch.equal(again.backbone(image[None]), load_backbone("bundled")(image[None]))
    assert "| its tokens | value of block 2 |" in (folder / "README.md").read_text()


# --- normalisation, licences ---

def test_mean_and_std_can_be_set(tmp_path):
    vit = put(drawn("vit_small_patch16_224"), tmp_path / "vit_small_patch16_224.safetensors")
    backbone, images = load_backbone("vit_small_patch16_224", mean="0.485 0.456 0.406", std=(0.229, 0.224, 0.225)), torch.rand(
        1, 3, 224, 224)
    assert "normalised by mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)." in backbone.description
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(backbone(images), vit.forward_features((images - mean) / std)[:, 1:], rtol=1e-4, atol=1e-4)
    assert load_backbone("vit_small_patch16_224").statistics[0] == (0.5,) * 3
    for wrong in ((0.5, 0.5), "a b c", "", math.nan, (0.5, None, 0.5), {}, "1e9"):
        with pytest.raises(ValueError, match="must be three numbers, of red, green and blue"):
            three_numbers("mean", wrong)
    with pytest.raises(ValueError, match="Parameter std must be three numbers"):
        load_backbone("bundled", std=0)


@pytest.mark.parametrize("name, licence, says", [
    ("vit_small_patch16_dinov3.lvd1689m", "dinov3-license", "DINOv3 License"), ("mae_vitb16", "cc-by-nc-4.0", "no commercial"),
    ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", "fair-noncommercial-research-license", "no commercial use"),
    ("vit_small_patch16_224.dino", "apache-2.0", None)])
def test_licences_are_named_and_restricted_ones_said_aloud(name, licence, says, tmp_path):
    put(drawn(look_up(name)[0]), tmp_path / f"{name}.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = load_backbone(name)
        load_backbone(name, weights=tmp_path / f"{name}.safetensors")  # a file of the user's
    assert f"licence of the weights published by that name: {licence};" in backbone.description
    said = [str(warning.message) for warning in caught]
    assert len(said) == bool(says) and all(f"The weights of {name} come under" in each and says in each for each in said)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_where_to_accept(monkeypatch, status):
    def gated(*args, **kwargs):
        error = RuntimeError("gated")
        error.response = SimpleNamespace(status_code=status)
        raise error

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda url, timeout: None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(FileNotFoundError, match=r"https://huggingface.co/timm/vit_small_patch16_dinov3.lvd1689m gives "
                       r"model.safetensors to those alone who.*\(dinov3-license\): accept it there.*hf auth login"):
        weights_path("dinov3_vits16")


# --- names of other hubs ---

@pytest.mark.parametrize("alias, name", [
    ("facebook/dino-vits16", "dino_vits16"), ("facebook/dino-vitb8", "dino_vitb8"), ("facebook/dinov2-small", "dinov2_vits14"),
    ("facebook/dinov2-giant", "dinov2_vitg14"), ("facebook/dinov2-with-registers-base", "dinov2_vitb14_reg"),
    ("facebook/dinov3-vits16-pretrain-lvd1689m", "dinov3_vits16"), ("facebook/dinov3-vits16plus-pretrain-lvd1689m", "dinov3_vits16plus"),
    ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "dinov3_vith16plus"), ("facebook/dinov3-vit7b16-pretrain-lvd1689m", "dinov3_vit7b16"),
    ("facebook/dinov3-vitl16-pretrain-sat493m", "vit_large_patch16_dinov3.sat493m"),
    ("facebook/vit-mae-base", "mae_vitb16"), ("google/siglip2-base-patch16-224", "vit_base_patch16_siglip_224.v2_webli"),
    ("google/siglip2-so400m-patch14-384", "vit_so400m_patch14_siglip_378.v2_webli"),
    ("google/siglip2-giant-opt-patch16-256", "vit_giantopt_patch16_siglip_256.v2_webli"),
    ("google/siglip-so400m-patch14-384", "vit_so400m_patch14_siglip_384.webli"),
    ("facebook/PE-Spatial-B16-512", "vit_pe_spatial_base_patch16_512.fb"),
    ("timm/vit_small_patch16_dinov3.lvd1689m", "vit_small_patch16_dinov3.lvd1689m")])
def test_other_names(alias, name):
    """Each stands for weights that timm publishes, with the patch that the name says; a run records what it stands for."""
    assert canonical(alias) == name == canonical(name)
    timm_name = BACKBONES.get(name, (name,))[0]
    config = timm.get_pretrained_cfg(timm_name)
    assert config.hf_hub_id and config.hf_hub_id.endswith(timm_name)
    with torch.device("meta"):
        assert patch_of(alias) == patch_of(name) == timm.create_model(timm_name).patch_embed.patch_size[0]
    run = Experiment(backbone=alias, dataset="camvid")
    assert run == Experiment(backbone=name, dataset="camvid") and run.backbone == name
    assert run.image_size == (322 if patch_of(name) == 14 else 320)


def test_every_name_has_weights_in_timm_and_its_patch():
    fixed = [ours for pattern, ours in ALIASES.items() if "\\" not in ours]
    for name in (*BACKBONES, *fixed):
        architecture, config, _, _ = look_up(name)
        with torch.device("meta"):
            assert patch_of(name) == timm.create_model(architecture).patch_embed.patch_size[0], name
        assert config is not None and config.hf_hub_id, name
    assert [patch_of(name) for name in ("bundled", "bundled.random", "flexivit_small", "vit_base_patch32_siglip_256",
                                        "eva02_tiny_patch14_224", "msn_vits16")] == [8, 8, 16, 32, 14, 16]


def test_an_alias_finds_the_file_and_the_identity(tmp_path):
    put(drawn("vit_small_patch14_dinov2"), tmp_path / "dinov2_vits14.safetensors")
    assert weights_fingerprint("facebook/dinov2-small") == weights_fingerprint("dinov2_vits14")
    assert load_backbone("facebook/dinov2-small").name == "dinov2_vits14"
    check_backbone("facebook/dinov2-small", 322)


# --- devices ---

@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_an_apple_gpu_that_is_not_there(tmp_path):
    run = Experiment(device="mps", image_size=48, train_images=2, run_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match='device "mps" was asked for, but torch has no Apple GPU here'):
        stages.fit_clusterbook(run)
    with pytest.raises(RuntimeError, match="device 'mps' cannot be used here"):
        usable_device("mps")
