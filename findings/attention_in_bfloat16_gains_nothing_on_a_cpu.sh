#!/usr/bin/env bash
# torch 2.13.0, on a CPU with AVX512-BF16 and without AMX, such as AMD's since Zen 4.
#
# Behaviour: F.scaled_dot_product_attention of a ViT-S (6 heads of width 64, 401 tokens) takes as long in bfloat16 as in
#   float32, while a linear map of the same network is twice as fast. Attention grows from a sixth of a pass to a third.
#   The same attention, written as two products and a softmax for one head after the other, is faster in bfloat16 than the
#   fused one.
# What most people expect: a CPU that multiplies bfloat16 twice as fast gains by it in attention, too, and the fused form
#   is never slower than the written one.
# Seen on 2026-11-28, seconds of one core, the least of fifteen rounds in which the forms take turns:
#   linear map: float32 over bfloat16 2.24
#   fused attention: float32 over bfloat16 0.95
#   in bfloat16: fused over written attention 1.31
# Ends with 1 if fused attention gains a fifth or more, or is no slower than the written one; with 0 and a sentence on a
# CPU of another kind. The project attends by small tables there (cause_lib/kernels/bfloat16.py).
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$place/venv/bin/python" - <<'PYTHON'
import time

import torch
import torch.nn.functional as F

if not torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
    print("This CPU has no AVX512-BF16, or it has AMX: nothing to see here.")
    raise SystemExit(0)
torch.manual_seed(0)


def written(q, k, v):
    out = torch.empty_like(q)
    for one in range(q.shape[1]):
        scores = q[:, one] @ k[:, one].transpose(1, 2) * q.shape[-1] ** -0.5
        out[:, one] = scores.softmax(dim=-1) @ v[:, one]
    return out


def least(*forms, rounds=15):
    """Seconds of one core of each form, which take turns: the least of all rounds."""
    found = [[] for _ in forms]
    for _ in range(rounds):
        for times, form in zip(found, forms):
            started = time.process_time()
            for _ in range(5):
                form()
            times.append(time.process_time() - started)
    return [min(times) for times in found]


with torch.inference_mode():
    parts = torch.randn(3, 1, 6, 401, 64)
    half = parts.bfloat16()
    x, weight = torch.randn(401, 384), torch.randn(1536, 384)
    linear = least(lambda: F.linear(x, weight), lambda: F.linear(x.bfloat16(), weight.bfloat16()))
    fused, fused_half, written_half = least(lambda: F.scaled_dot_product_attention(*parts),
                                            lambda: F.scaled_dot_product_attention(*half), lambda: written(*half))
print(f"linear map: float32 over bfloat16 {linear[0] / linear[1]:.2f}")
print(f"fused attention: float32 over bfloat16 {fused / fused_half:.2f}")
print(f"in bfloat16: fused over written attention {fused_half / written_half:.2f}")
raise SystemExit(int(fused / fused_half >= 1.2 or fused_half <= written_half))
PYTHON
