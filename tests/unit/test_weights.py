"""Weights files: what is read, what is refused and in which words, and that nothing in them is run."""

import hashlib

import pytest
import safetensors.torch
import torch

from cause_lib.weights import file_sha256, read_tensors, refuse_misfits, strip_prefixes

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


class Runs:
    """Something that says so if it is unpickled."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("wrapped, wrappers", [(STATE, ()), ({"model": STATE, "epoch": 3, "note": "text"}, ("model",)),
                                               ({"teacher": {"model": STATE}}, ("teacher", "model"))])
def test_tensors_come_out_of_what_they_are_wrapped_in(tmp_path, wrapped, wrappers):
    torch.save(wrapped, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth", wrappers)
    assert found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_safetensors_are_read_as_they_are(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == STATE.keys()


@pytest.mark.parametrize("content, name, said", [
    ({"weight": Runs()}, "a.pth", "a.pth holds more than tensors .* is not opened"),
    ({"epoch": 3}, "a.pth", "a.pth holds no state dict .*neither itself nor as model"),
    (b"nothing of the kind", "a.safetensors", "a.safetensors is no readable weights file"),
    (b"", "a.pth", "a.pth is no readable weights file"),
])
def test_what_holds_no_tensors_alone_is_refused_and_not_run(tmp_path, capsys, content, name, said):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=said):
        read_tensors(path, ("model",))
    assert "this ran" not in capsys.readouterr().out


def test_misfits_are_named_by_kind(tmp_path):
    expected = {"weight": (2, 3), "bias": (2,)}
    refuse_misfits(STATE, expected, tmp_path / "a.pth", "a head")
    with pytest.raises(ValueError, match=r"a.pth does not fit a head: of its tensors, 1 missing \(scale\); 1 unknown "
                                         r"\(bias\); 1 of another shape \(weight \(2, 3\) instead of \(3, 2\)\)"):
        refuse_misfits(STATE, {"weight": (3, 2), "scale": (1,)}, tmp_path / "a.pth", "a head")


def test_prefixes_go_in_turn_and_never_hide_a_tensor(tmp_path):
    wrapped = {f"module.backbone.{key}": value for key, value in STATE.items()}
    assert strip_prefixes(wrapped, ("module.", "backbone."), tmp_path / "a.pth").keys() == STATE.keys()
    with pytest.raises(ValueError, match="a.pth holds both module.bias and bias"):
        strip_prefixes(STATE | {"module.bias": STATE["bias"]}, ("module.",), tmp_path / "a.pth")


def test_the_hash_follows_the_file(tmp_path):
    path = tmp_path / "a"
    for content in (b"one", b"three"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
