"""How the shipped backbone was made: a small ViT taught by its own past, on generated pictures, without labels.

    python -m pretraining    # leaves bundled.safetensors and card.json; killed, the same command goes on

views.py pictures and their views; objective.py what is learned; train.py the run; judge.py how good the tokens are.
No part of `cause_lib`: only what comes out of it is shipped.
"""
