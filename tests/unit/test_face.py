"""The names that `import cause_lib` offers, what they are, and what they cost."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cause_lib

ROOT = Path(__file__).resolve().parents[2]
FACE = {
    "data": ["load_dataset"], "backbones": ["load_backbone"], "clusterbook": ["modularity_loss", "Clusterbook"],
    "heads": ["MLPHead", "TRHead"], "contrast": ["concept_contrastive_loss", "ConceptBank"],
    "probes": ["ClusterProbe", "LinearProbe"], "crf": ["dense_crf"], "metrics": ["SegmentationMetrics"],
    "stages": ["fit_clusterbook", "fit_head", "fit_probe", "evaluate"], "segmenter": ["Segmenter"],
    "config": ["Experiment"],
}
HEAVY = ("torch", "pandas", "accelerate", "scipy", "matplotlib", "numpy", "torchvision", "timm", "huggingface_hub")


def loaded_by(code: str) -> set[str]:
    """The modules of an interpreter that has run `code` from this checkout."""
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in FACE.items() for name in names])
def test_a_name_of_the_face_is_the_object_of_its_module(module, name):
    assert getattr(cause_lib, name) is getattr(importlib.import_module(f"cause_lib.{module}"), name)


def test_the_face_has_these_names_and_no_others():
    names = [name for group in FACE.values() for name in group]
    assert sorted(cause_lib.__all__) == sorted(names) and len(names) == 18
    assert set(names) <= set(dir(cause_lib))
    with pytest.raises(AttributeError, match="module 'cause_lib' has no attribute 'Segmentor'"):
        cause_lib.Segmentor  # noqa: B018
    with pytest.raises(ImportError, match="Segmentor"):
        from cause_lib import Segmentor  # noqa: F401
    assert all(name in cause_lib.__doc__ for name in names)


@pytest.mark.parametrize("code", [
    "import cause_lib", "import cause_lib.config", "from cause_lib import Experiment; Experiment(head='mlp')",
    "import cause_lib.runs.notebook",
    "from cause_lib.__main__ import main\ntry:\n    main(['-p', 'sede', '1'])\nexcept SystemExit:\n    pass",
], ids=["package", "config", "Experiment", "notebook", "misspelt parameter"])
def test_what_describes_a_run_loads_nothing_heavy(code):
    assert not loaded_by(code) & set(HEAVY)


@pytest.mark.parametrize("name", ["modularity_loss", "MLPHead", "concept_contrastive_loss", "ClusterProbe"])
def test_the_method_loads_torch_alone(name):
    loaded = loaded_by(f"from cause_lib import {name}")
    assert not loaded & (set(HEAVY) - {"torch", "numpy"})  # PyTorch loads NumPy where it is installed
    assert not {module for module in loaded if module.startswith(("cause_lib.runs", "cause_lib.data"))}


def test_a_finished_run_is_used_without_what_training_needs():
    loaded = loaded_by("from cause_lib import Segmenter")
    assert not loaded & {"pandas", "accelerate", "matplotlib", "cause_lib.data.scenes", "cause_lib.stages", "cause_book"}


def test_the_former_place_of_segmenter_warns_and_names_the_new_one():
    sys.modules.pop("cause_lib.release", None)
    with pytest.warns(DeprecationWarning, match="from cause_lib import Segmenter"):
        from cause_lib.release import Segmenter
    assert Segmenter is cause_lib.Segmenter
