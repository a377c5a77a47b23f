"""Eq. 3 and Eq. 4 as written, against numbers made by hand and loops over pairs; and what the method is made of."""

import ast
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from cause_lib.reference import concept_contrastive_loss, modularity_loss

LIBRARY = Path(__file__).resolve().parents[2] / "cause_lib"
METHOD = ["clusterbook", "contrast", "heads", "probes", "reference"]


def test_modularity_of_three_patches_by_hand():
    """Cosines 0.8, 0.6 and 0: A has the edges 0.8 and 0.6, e = 2.8, and d / e = (1.4, 0.8, 0.6) / 2.8.

    The prototype is patch 0, so C = (1, 0.8, 0.6). The trace part of W is  -(0.25 + 0.64 / 7.84 + 0.36 / 7.84).
    """
    tokens = torch.tensor([[[1.0, 0], [0.8, 0.6], [0.6, -0.8]]], dtype=torch.float64)
    share, c = (0.5, 0.8 / 2.8, 0.6 / 2.8), (1.0, 0.8, 0.6)
    a = ((0, 0.8, 0.6), (0.8, 0, 0), (0.6, 0, 0))
    h = sum((a[i][j] / 2.8 - share[i] * share[j]) * math.tanh(c[i] * c[j] / 0.5) for i in range(3) for j in range(3))
    loss = modularity_loss(tokens, torch.tensor([[2.0, 0]], dtype=torch.float64), 0.5)
    torch.testing.assert_close(loss, torch.tensor(-h, dtype=torch.float64))
    both = modularity_loss(torch.cat([tokens, torch.zeros_like(tokens)]), torch.eye(2, dtype=torch.float64), 0.5)
    assert both == modularity_loss(tokens, torch.eye(2, dtype=torch.float64), 0.5) / 2  # no edges, H = 0


def test_contrast_pair_by_pair():
    """Loops over anchors and positives, in the batch and the bank; the second picture has no positive in the batch."""
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4), (2, 3, 4), (2, 4))
    student, teacher, old = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    concepts, bank_concepts = torch.tensor([[0, 0, 1], [2, 3, 4]]), torch.tensor([0, 2])
    similarity = torch.full((5, 5), 0.2, dtype=torch.float64).fill_diagonal_(1)
    similarity[1, 3] = similarity[3, 1] = 0.3  # neither above the one threshold
    similarity[1, 4] = similarity[4, 1] = 0.1  # nor below the other
    similarity[0, 2:] = similarity[2:, 0] = similarity[3, 4] = similarity[4, 3] = -0.5
    s, z = F.normalize(student, dim=-1).flatten(0, 1), F.normalize(teacher, dim=-1).flatten(0, 1)
    ids, terms = concepts.flatten().tolist(), []
    for pool, own in ((z, ids), (F.normalize(old, dim=-1), bank_concepts.tolist())):
        for picture in (range(3), range(3, 6)):
            losses = []
            for a in picture:
                others = [x for x in range(len(pool)) if pool is not z or x != a]
                used = [x for x in others if similarity[ids[a], own[x]] > 0.3 or similarity[ids[a], own[x]] < 0.1]
                odds = sum(math.exp(s[a] @ pool[x] / 0.07) for x in used)
                positives = [x for x in used if similarity[ids[a], own[x]] > 0.3]
                losses += [math.log(odds) - float(s[a] @ pool[x]) / 0.07 for x in positives]
            terms += [sum(losses) / len(losses)] if losses else []
    assert len(terms) == 3
    loss = concept_contrastive_loss(student, teacher, concepts, similarity, (old, bank_concepts))
    torch.testing.assert_close(loss, torch.tensor(sum(terms) / 3, dtype=torch.float64))


def test_the_method_imports_torch_alone_and_is_short():
    lines = 0
    for path in (LIBRARY / f"{name}.py" for name in (*METHOD, "kernels/argmax", "kernels/tiles")):
        text = path.read_text()
        tree = ast.parse(text)
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        allowed = {"torch", "triton", *sys.stdlib_module_names}
        known = {f"cause_lib.{name}" for name in METHOD}
        if path.stem in METHOD:
            lines += len(text.splitlines())
            allowed -= {"triton"}
            known |= {"cause_lib.kernels.argmax", "cause_lib.kernels.tiles"}
        assert not [name for name in names if name.split(".")[0] not in allowed and name not in known], path.name
    assert lines <= 950
