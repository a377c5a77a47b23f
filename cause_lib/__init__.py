"""cause_lib: causal unsupervised semantic segmentation (CAUSE), one idea a file.

Data flows one way: image -> tokens -> concepts -> features -> logits -> mask -> numbers. Each module is headed by what
it is and the equation it comes from; a module imports only from those before it in that chain. Start with `stages`
(run the whole method) or `release.Segmenter` (use a finished run); the book in `book/` and `notebooks/` explains it.
"""

__version__ = "0.1.0"
