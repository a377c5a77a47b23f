"""The argmax kernel against the plain path: run by Triton's interpreter, and on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import torch

from cause_lib import clusterbook

INTERPRETED = """
    import torch
    from cause_lib.kernels import argmax
    from cause_lib.clusterbook import argmax_concepts

    generator = torch.Generator().manual_seed(0)
    for many in (0, 2**20):  # large rectangles, small ones
        argmax._MANY = many
        for shape in [(1, 1, 1), (2, 3, 16), (2, 18, 9), (1, 35, 19)]:
            for levels, dtype in [(3, torch.float32), (2**20, torch.float64)]:  # few levels: many ties
                affinity = torch.randint(-levels, levels, shape, generator=generator).to(dtype).clamp(min=0) / levels
                found, wanted = argmax.argmax_concepts_triton(affinity), argmax_concepts(affinity)
                assert found.dtype == torch.int64 and torch.equal(found, wanted), (many, shape, levels)
    print("all equal")
"""


def test_kernel_finds_the_same_argmax():
    if importlib.util.find_spec("triton") is None:  # a platform that it does not exist for
        assert clusterbook._cuda_kernel() is None
        return
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(INTERPRETED)], text=True, capture_output=True,
                          check=False, env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == "all equal", done.stderr


def test_kernel_is_chosen_where_it_can_run():
    assert (clusterbook._cuda_kernel() is None) == (not torch.cuda.is_available())
    if torch.cuda.is_available():
        affinity = torch.rand((3, 130, 300), generator=torch.Generator().manual_seed(0)) - 0.3
        affinity = affinity.clamp(min=0)
        assert torch.equal(clusterbook.argmax_concepts(affinity.to("cuda")).cpu(), clusterbook.argmax_concepts(affinity))
