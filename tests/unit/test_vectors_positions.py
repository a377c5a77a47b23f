"""Position embeddings resized by the released code's four backbones: MSN by the exact scale, the others by DINO's."""

import pytest
import torch

from cause_lib.backbones import POSITIONS, resize_positions
from vectors import load, tensor

RULES = {"msn": "exact", "dino": "dino", "ibot": "dino", "dinov2": "dino"}
CASES = [name for name in load("positions") if "/" in name]


def resized(case, rule):
    old, new = map(int, case.split("/")[1].split("to"))
    stored = tensor(load("positions")[f"positions{old}"], torch.float32)[None]
    return resize_positions(stored, (old, old), (new, new), rule=rule)[0]


@pytest.mark.parametrize("case", CASES)
def test_resized_as_the_released_code_does(case):
    theirs = tensor(load("positions")[case], torch.float32)
    torch.testing.assert_close(resized(case, RULES[case.split("/")[0]]), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case != "msn/14to14"])
def test_every_other_rule_is_far_off(case):
    theirs = tensor(load("positions")[case], torch.float32)
    for rule in POSITIONS:
        off = float((resized(case, rule) - theirs).abs().max())
        # where the grid grows there is nothing to low-pass: antialiased is the exact rule but for its cubic's shape
        assert rule == RULES[case.split("/")[0]] or off > 0.1, (rule, off)
        assert {rule, RULES[case.split("/")[0]]} != {"exact", "dino"} or off > 0.3, (rule, off)


def test_at_the_native_size_no_rule_changes_anything():
    theirs = tensor(load("positions")["msn/14to14"], torch.float32)
    assert all(torch.equal(resized("msn/14to14", rule), theirs) for rule in POSITIONS)
