"""Rivals of CAUSE, on the same frozen tokens and judged in the same way.

    stego         STEGO: feature correspondences (Hamilton et al. 2022)
    hp            HP: hidden positives (Seong et al. 2023)
    acseg         ACSeg: adaptive concepts by modularity (Li et al. 2023), from its equations
    deepspectral  Deep Spectral Methods: eigenvectors of an affinity of keys (Melas-Kyriazi et al. 2022)
    dinosaur      DINOSAUR: slot attention that reconstructs tokens (Seitzer et al. 2023)
    transfgu      TransFGU: pseudo-labels from attention and gradients (Yin et al. 2022), with its frozen encoder
    picie         the objective of PiCIE on tokens of two views (Cho et al. 2021)
    iic           the objective of IIC on tokens of two views (Ji et al. 2019)
    eigensegments of this book: what the comparison taught, without training

    from cause_rivals import evaluate, rival
    folder = evaluate(rival("stego", dataset="camvid", backbone="dino_vits16", seed=0))

A method is a file of its own: paper and equations on top, its `Settings`, `build` and `fit`, and beside it a JSON file
with the published settings. rival.py describes a run, run.py makes its artefacts. `cause_lib` never imports this.
"""

from cause_rivals.rival import METHODS, Rival, rival
from cause_rivals.run import evaluate, fit, load

__all__ = ["METHODS", "Rival", "evaluate", "fit", "load", "rival"]
