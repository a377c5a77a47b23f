"""The authors' files against a naive twin of their modules: same names, same shapes, same features, same masks."""

import argparse
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from released_twin import SIDE, C, D, R, write

from cause_lib.probes import mirror_mean
from cause_lib.runs import released
from cause_lib.runs.released import load_released, released_files, released_fingerprint


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_features_and_masks_are_the_published_formulas(tmp_path, head, prefix):
    twin, book, probe = write(tmp_path, head, prefix)
    torch.manual_seed(7)
    drawn = torch.rand(2)
    torch.manual_seed(7)
    ours = load_released(tmp_path, head)
    assert torch.equal(torch.rand(2), drawn)  # loading leaves the global random numbers alone
    tokens, mirrored = torch.randn(2, 2, SIDE**2, D)
    expected = twin.head_ema(tokens, book)
    torch.testing.assert_close(ours.head(tokens), expected, rtol=1e-4, atol=1e-5)
    assert (expected - twin.head(tokens, book)).abs().max() > 0.1  # the student would not do

    maps, turned = (twin.head_ema(x, book).transpose(1, 2).reshape(2, R, SIDE, SIDE) for x in (tokens, mirrored))
    maps = F.interpolate((maps + turned.flip(3)) / 2, (40, 40), mode="bilinear", align_corners=False)
    cosine = torch.einsum("brhw,cr->bchw", F.normalize(maps, dim=1), F.normalize(probe, dim=1))
    features = mirror_mean(tokens, mirrored, (SIDE, SIDE), ours.head)
    features = F.interpolate(features, (40, 40), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    scores = ours.cluster.log_probabilities(features).permute(0, 3, 1, 2)
    torch.testing.assert_close(scores, F.log_softmax(3 * cosine, dim=1), rtol=1e-4, atol=1e-5)
    top = cosine.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-4  # rounding decides between equals
    assert clear.double().mean() > 0.99 and torch.equal(scores.argmax(dim=1)[clear], cosine.argmax(dim=1)[clear])
    assert scores.argmax(dim=1).unique().numel() > 1
    logits = ours.linear(features).permute(0, 3, 1, 2)
    torch.testing.assert_close(logits, twin.linear.f(maps), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.book.prototypes, book)
    parameters = [*ours.head.parameters(), *ours.cluster.parameters(), *ours.linear.parameters()]
    assert not any(p.requires_grad for p in parameters) and not ours.head.training


def test_tr_heads_take_other_sizes(tmp_path):
    write(tmp_path, "tr")
    assert load_released(tmp_path, "tr").head(torch.randn(1, 6 * 4, D), (6, 4)).shape == (1, 24, R)


def test_half_precision_and_linear_layers_load_too(tmp_path):
    def change(segment, cluster):
        for key, value in segment.items():
            segment[key] = (value[..., 0, 0] if value.ndim == 4 else value).half()

    twin, book, _ = write(tmp_path, "mlp", change=change)
    tokens = torch.randn(1, SIDE**2, D)
    head = load_released(tmp_path, "mlp").head
    assert head.f1.weight.dtype == torch.float32
    torch.testing.assert_close(head(tokens), twin.head_ema(tokens), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("gone", [("modular.npy",), ("segment_tr.pth", "cluster_tr.pth")])
def test_missing_files_are_named(tmp_path, gone):
    write(tmp_path, "tr")
    for name in gone:
        (tmp_path / name).unlink()
    for function in (released_files, released_fingerprint, load_released):
        with pytest.raises(FileNotFoundError, match=f"has no {' and no '.join(gone)}: .*{released.SOURCE}"):
            function(tmp_path, "tr")
    with pytest.raises(FileNotFoundError, match="segment_mlp.pth and cluster_mlp.pth"):
        load_released(tmp_path, "mlp")


def misfits():
    zero = torch.zeros
    yield "1 missing (head_ema.tr.norm2.bias)", lambda s, c: s.pop("head_ema.tr.norm2.bias")
    yield "1 missing (head.query_pos)", lambda s, c: s.pop("head.query_pos")  # the student is not needed, but whole
    yield "1 missing (projection_head.bias)", lambda s, c: s.pop("projection_head.f.bias")
    yield "missing (", lambda s, c: s.pop("linear.f.weight")
    yield "missing (head_ema.query_pos", lambda s, c: s.pop("head_ema.query_pos")
    yield "1 unknown (head_ema.tr.norm4.bias)", lambda s, c: s.update({"head_ema.tr.norm4.bias": zero(D)})
    yield "1 unknown (linear.f.weight)", lambda s, c: s.update({"linear.weight": zero(C, R)})
    yield "head_ema.tr.f1.weight (6, 25) instead of (6, 24)", lambda s, c: s.update(
        {"head_ema.tr.f1.weight": zero(R, D + 1, 1, 1)})
    yield "head_ema.tr.f1.weight (6, 24, 3, 3) instead of", lambda s, c: s.update(
        {"head_ema.tr.f1.weight": zero(R, D, 3, 3)})
    yield "1 missing (cluster_probe)", lambda s, c: c.pop("cluster_probe")
    yield "cluster_probe (6, 4) instead of (4, 6)", lambda s, c: c.update(cluster_probe=c["cluster_probe"].T)
    yield "codebook (24, 9) instead of (9, 24)", lambda s, c: c.update(codebook=c["codebook"].T)
    yield "1 unknown (bank)", lambda s, c: c.update(bank=zero(1))


@pytest.mark.parametrize("says, change", [*misfits()], ids=lambda value: value if isinstance(value, str) else "")
def test_strict(tmp_path, says, change):
    write(tmp_path, "tr", change=change)
    with pytest.raises(ValueError) as error:
        load_released(tmp_path, "tr")
    assert says in str(error.value) and str(tmp_path) in str(error.value)


def test_positions_must_be_a_square(tmp_path):
    write(tmp_path, "tr", change=lambda s, c: s.update({"head_ema.query_pos": torch.zeros(24, D)}))
    with pytest.raises(ValueError, match="24 positions .head_ema.query_pos.*no square grid"):
        load_released(tmp_path, "tr")


def test_the_other_heads_file_is_refused(tmp_path):
    write(tmp_path, "mlp")
    for name in ("segment", "cluster"):
        (tmp_path / f"{name}_mlp.pth").rename(tmp_path / f"{name}_tr.pth")
    with pytest.raises(ValueError, match="does not fit CAUSE-TR.*missing.*unknown"):
        load_released(tmp_path, "tr")


def test_another_clusterbook_is_said(tmp_path):
    _, book, _ = write(tmp_path, "mlp", change=lambda s, c: c.update(codebook=c["codebook"] + 1))
    with pytest.warns(UserWarning, match="cluster_mlp.pth has another clusterbook than"):
        assert torch.equal(load_released(tmp_path, "mlp").book.prototypes, book)


class Runs:
    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize("content", [Runs(), argparse.Namespace(head="tr")], ids=["code", "object"])
def test_no_pickle_is_executed(tmp_path, capsys, content):
    write(tmp_path, "mlp", change=lambda s, c: s.update(args=content))
    with pytest.raises(ValueError, match="segment_mlp.pth holds more than tensors"):
        load_released(tmp_path, "mlp")
    write(tmp_path, "mlp")
    np.save(tmp_path / "modular.npy", np.array([content], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="modular.npy is no array"):
        load_released(tmp_path, "mlp")
    (tmp_path / "modular.npy").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="modular.npy is no array"):
        load_released(tmp_path, "mlp")
    assert "code has run" not in capsys.readouterr().out


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((3, D), dtype=int), np.zeros((0, D))])
def test_what_is_no_clusterbook(tmp_path, array):
    write(tmp_path, "mlp")
    np.save(tmp_path / "modular.npy", array)
    with pytest.raises(ValueError, match=r"must hold prototypes \(k, d\)"):
        load_released(tmp_path, "mlp")


def test_fingerprint_follows_the_files(tmp_path):
    write(tmp_path, "mlp")
    before = released_fingerprint(tmp_path, "mlp")
    assert list(before) == ["modular.npy", "segment_mlp.pth", "cluster_mlp.pth"]
    write(tmp_path, "mlp", change=lambda s, c: c.update(cluster_probe=-c["cluster_probe"]))
    after = released_fingerprint(tmp_path, "mlp")
    assert [name for name in before if before[name] != after[name]] == ["cluster_mlp.pth"]
