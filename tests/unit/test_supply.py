"""What comes in runs nothing and goes nowhere else: sources, notebooks and workflows, read without being run.

Each rule is first shown an example that breaks it, since a rule that never finds anything proves nothing.
"""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_project import NOTEBOOKS, PAGES, ROOT, cells, source, tracked_text
from test_workflow import snakemake

CODE = ("cause_lib", "workflow", "book", "benchmarks", "pretraining")
SOURCES = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
BOOKS = [*NOTEBOOKS, ROOT / "workflow/baseline.ipynb"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

# Whoever unpickles, runs what is in the file; of pickle itself the name of its error is all that is needed.
RUNS_WHAT_IT_READS = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "pickle"}
FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "compiles text", "execfile": "runs text",
    "os.system": "is a shell", "os.popen": "is a shell", "subprocess.getoutput": "is a shell",
    "subprocess.getstatusoutput": "is a shell", "asyncio.create_subprocess_shell": "is a shell",
    "pty.spawn": "is a shell", "get_ipython": "may run a shell", "code.interact": "runs text",
    "yaml.load": "builds any object: yaml.safe_load", "yaml.unsafe_load": "builds any object: yaml.safe_load",
    "yaml.full_load": "builds any object: yaml.safe_load", "torch.save": "writes a pickle: safetensors",
    "torch.hub.load": "runs what it fetches", "torch.jit.load": "runs what it reads", "pandas.read_pickle": "unpickles",
    "numpy.fromregex": "reads by eval", "tempfile.mktemp": "is a race: tempfile.mkdtemp",
    "shutil.unpack_archive": "may leave its folder: data/download.py", "pooch.Untar": "may leave its folder: "
    "data/download.py", "pooch.Unzip": "may leave its folder: data/download.py", "pooch.retrieve": "data/download.py",
    "urllib.request.urlopen": "fetches without a checksum: data/download.py",
    "urllib.request.urlretrieve": "fetches without a checksum: data/download.py",
    "torch.hub.load_state_dict_from_url": "fetches without a checksum: data/download.py",
    "torch.hub.download_url_to_file": "fetches without a checksum: data/download.py",
    "huggingface_hub.login": "asks for a secret", "huggingface_hub.get_token": "reads a secret",
    "getpass.getpass": "asks for a secret",
}
METHODS = {"to_pickle": "writes a pickle", "extractall": "may leave its folder: data/download.py",
           "extract": "may leave its folder: data/download.py"}
FETCHES = re.compile(r"requests\.(get|post|put|request|Session)")
# A keyword that must be there with this value; one that must not be there with any other.
MUST = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
NEVER = {"shell": False, "verify": True, "trust_remote_code": False, "allow_pickle": False, "token": None}
# The places where each may be; what benchmarks/chapters.py unpacks, git has packed a moment before.
ALLOWED = {("cause_lib/data/download.py", "extractall"), ("benchmarks/chapters.py", "extractall")}

# What is read from the environment, every name of it; none is a secret.
ENVIRONMENT = {"CAUSE_DATA", "CAUSE_WEIGHTS", "CAUSE_IMAGE", "CAUSE_CLAIM", "CAUSE_MOUNT", "GLIBC_TUNABLES", "HF_HUB_OFFLINE",
               "MALLOC_TRIM_THRESHOLD_", "WORLD_SIZE"}
# May ask for a name that it holds in a variable: these names are listed in the file itself.
BY_VARIABLE = {"workflow/kubernetes.py"}
# May hand the environment on to a process of its own, as a whole.
HANDED_ON = {"benchmarks/chapters.py", "benchmarks/soak.py", "benchmarks/soak_trials.py", "book/build.py"}


def faults(text: str, name: str = "") -> Iterator[str]:
    """What in a Python source breaks a rule above, each with its line; `name` is the file, from the root."""
    tree = ast.parse(text)
    real = {}  # a name as it is used -> what it is: np.load is numpy.load
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            real |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                     for alias in node.names}
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            real |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in found:
            if module.split(".")[0] in RUNS_WHAT_IT_READS and module != "pickle":
                yield f"{node.lineno}: {module} runs what it reads"

    def called(node: ast.expr) -> str:
        words = ast.unparse(node)
        first, _, rest = words.partition(".")
        return f"{real[first]}{'.' if rest else ''}{rest}" if first in real else words

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and called(node).startswith("pickle.") \
                and called(node) != "pickle.UnpicklingError":
            yield f"{node.lineno}: {called(node)} unpickles, or makes what must be"
        if not isinstance(node, ast.Call):
            continue
        what = called(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if what in FORBIDDEN and (name, what) not in ALLOWED:
            yield f"{node.lineno}: {what} {FORBIDDEN[what]}"
        if re.fullmatch(r"os\.(exec|spawn|posix_spawn)\w*", what):
            yield f"{node.lineno}: {what}: subprocess, with a list"
        if method in METHODS and (name, method) not in ALLOWED and not what.startswith("re."):
            yield f"{node.lineno}: {what} {METHODS[method]}"
        if FETCHES.fullmatch(what) and (name, what) not in ALLOWED:
            yield f"{node.lineno}: {what} fetches without a checksum: data/download.py"
        if what.startswith("subprocess.") and node.args and isinstance(node.args[0], (ast.Constant, ast.JoinedStr)):
            yield f"{node.lineno}: {what} of a text, not of a list"
        if what in MUST:
            word, value = MUST[what]
            if not (isinstance(keywords.get(word), ast.Constant) and keywords[word].value is value):
                yield f"{node.lineno}: {what} without {word}={value}"
        for word, value in NEVER.items():
            if word in keywords and not (isinstance(keywords[word], ast.Constant) and keywords[word].value is value):
                yield f"{node.lineno}: {word}={ast.unparse(keywords[word])}"


def environment(text: str) -> Iterator[str | None]:
    """Each name that a Python source asks the environment for; None for one that is in a variable; "*" for all."""
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def literal(node: ast.expr) -> str | None:
        return node.value if isinstance(node, ast.Constant) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.name in ("environ", "environb", "getenv"):
            yield "*"  # by a name of its own, where nobody sees what it is asked for
        if not (isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv")):
            continue
        parent = parents[node]
        if isinstance(parent, ast.Subscript):
            yield literal(parent.slice)
        elif isinstance(parent, ast.Compare) and parent.comparators == [node]:
            yield literal(parent.left)
        elif isinstance(parent, ast.Call) and parent.func is node:
            yield literal(parent.args[0])
        elif isinstance(parent, ast.Attribute) and parent.attr in ("get", "pop", "setdefault"):
            yield literal(parents[parent].args[0])
        else:
            yield "*"


@pytest.mark.parametrize("text, said", [
    ("eval(words)", "eval runs text"),
    ("exec('x = 1')", "exec runs text"),
    ("compile(words, '', 'exec')", "compile compiles text"),
    ("import pickle\npickle.loads(b'')", "2: pickle.loads unpickles"),
    ("import pickle as p\np.Unpickler(f)", "pickle.Unpickler"),
    ("from pickle import load", "pickle.load runs what it reads"),
    ("import marshal", "marshal"), ("from shelve import open", "shelve"), ("import joblib", "joblib"),
    ("import os\nos.system('ls')", "os.system is a shell"), ("from os import system\nsystem('ls')", "os.system"),
    ("import os\nos.execvp('ls', [])", "os.execvp"),
    ("import subprocess\nsubprocess.run(words, shell=True)", "shell=True"),
    ("import subprocess\nsubprocess.run(words, shell=how)", "shell=how"),
    ("from subprocess import run\nrun('ls')", "subprocess.run of a text"),
    ("from subprocess import run as go\ngo(f'ls {x}')", "subprocess.run of a text"),
    ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load builds any object"),
    ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load without allow_pickle=False"),
    ("import numpy as np\nnp.load(path)", "numpy.load without allow_pickle=False"),
    ("import torch\ntorch.load(path)", "torch.load without weights_only=True"),
    ("import torch\ntorch.load(path, weights_only=False)", "torch.load without weights_only=True"),
    ("from torch import load\nload(path)", "torch.load without weights_only=True"),
    ("import torch\ntorch.save({}, path)", "writes a pickle"),
    ("frame.to_pickle(path)", "writes a pickle"),
    ("import torch\ntorch.hub.load('a/b', 'c')", "runs what it fetches"),
    ("import tarfile\ntarfile.open(p).extractall(q)", "may leave its folder"),
    ("import pooch\npooch.Untar()", "may leave its folder"),
    ("import requests\nrequests.get(url)", "fetches without a checksum"),
    ("import requests as r\nr.get(url, verify=False)", "verify=False"),
    ("from urllib.request import urlopen\nurlopen(url)", "fetches without a checksum"),
    ("import huggingface_hub\nhuggingface_hub.login()", "asks for a secret"),
    ("api(token=mine)", "token=mine"),
])
def test_a_rule_finds_what_it_forbids(text, said):
    assert any(said in fault for fault in faults(text))


@pytest.mark.parametrize("text", [
    "import re\nre.compile('x')", "model.eval()", "import ast\nast.literal_eval(text)",
    "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
    "import subprocess\nsubprocess.run(['ls', path])", "import torch\ntorch.load(p, weights_only=True)",
    "import yaml\nyaml.safe_load(text)", "import re\nmatch.groups()",
])
def test_a_rule_leaves_alone_what_it_does_not_mean(text):
    assert not list(faults(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_it_reads(path):
    name = path.relative_to(ROOT).as_posix()
    assert not list(faults(path.read_text(encoding="utf8"), name))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_no_notebook_runs_what_it_reads(path):
    """Nor a shell: of what only IPython understands there is the one line that installs the project."""
    for cell in cells(path):
        lines = source(cell).splitlines()
        special = [line.strip() for line in lines if line.lstrip().startswith(("%", "!", "?"))]
        assert all("install" in cell["metadata"]["tags"] and line.startswith("%pip install ") for line in special)
        text = "\n".join(line if line.strip() not in special else " " * (len(line) - len(line.lstrip())) + "pass"
                         for line in lines)
        assert not list(faults(text)) and not list(environment(text))


def test_each_place_that_may_is_one_that_does():
    """An exception that nobody needs any more is taken out."""
    for name, what in ALLOWED:
        assert any(what in fault for fault in faults((ROOT / name).read_text(encoding="utf8")))


@pytest.mark.parametrize("text, names", [
    ("import os\nos.environ['A'], os.environ.get('B', ''), os.getenv('C'), 'D' in os.environ", {"A", "B", "C", "D"}),
    ("import os\n[os.environ[name] for name in names]", {None}),
    ("import os\ndict(os.environ)", {"*"}), ("from os import environ\nenviron['A']", {"*"}),
])
def test_what_is_asked_of_the_environment_is_seen(text, names):
    assert set(environment(text)) == names


def test_the_environment_is_asked_for_these_names_and_no_secret():
    asked = set()
    for path in SOURCES:
        name, names = path.relative_to(ROOT).as_posix(), set(environment(path.read_text(encoding="utf8")))
        assert None not in names or name in BY_VARIABLE, name
        assert "*" not in names or name in HANDED_ON, name
        asked |= names - {None, "*"}
        if name in BY_VARIABLE:
            asked |= set(re.findall(r'"(CAUSE_[A-Z]+|[A-Z]+_TOKEN)"', path.read_text(encoding="utf8")))
    assert asked == ENVIRONMENT
    pages = "\n".join(page.read_text(encoding="utf8") for page in PAGES)
    for name in ENVIRONMENT:
        assert not re.search("TOKEN|SECRET|KEY|PASS", name)
        assert name in pages or not name.startswith("CAUSE_"), f"{name} is read, and no page says what it is for"


def test_a_table_of_experiments_is_no_program():
    """Whatever a line of a table says, it reaches the shell quoted: paths by Snakemake, parameters by shlex."""
    text = (ROOT / "workflow/Snakefile").read_text(encoding="utf8")
    commands = re.findall(r"^    shell:\n((?: {8}.*\n)+)", text, re.MULTILINE)
    assert len(commands) == 2
    for place in re.findall(r"\{[^}]+\}", "".join(commands)):
        if place not in ("{PYTHON}", "{params.several}", "{params.parameters}", "{resources.runtime}",
                         "{resources.tries}", "{DRIVER}"):
            assert place.endswith(":q}"), f"{place} goes to the shell as it is"
    assert "PYTHON = shlex.quote(sys.executable)" in text and "run:" not in text and "script:" not in text


def test_a_line_with_a_command_in_it_is_a_folder_of_that_name(tmp_path):
    if sys.version_info < (3, 11):  # which Snakemake asks for
        return
    evil = "my runs; touch $HOME evil"
    (tmp_path / "a table.csv").write_text(f"head,dataset,run_dir\ntr,scenes,{evil}\n")
    for name in ("notebooks", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = snakemake("--config", "table=a table.csv", "--dry-run", "--printshellcmds", "--cores", "1", cwd=tmp_path)
    commands = re.findall(r"^.*?(\S+ -m workflow\.(?:job|results) .*)$", done.stdout + done.stderr, re.MULTILINE)
    assert done.returncode == 0 and len(commands) == 5
    for command in commands:
        words = shlex.split(command)
        assert not {"touch", "$HOME", "runs;"} & set(words)
        assert sum(word.startswith(f"{evil}/") for word in words) == (3 if "papermill" in words else 2)


def test_addresses_are_encrypted():
    """No plain http, but for names that nobody fetches (w3.org's namespaces) and this machine's own loopback."""
    for path, text in tracked_text().items():
        found = re.findall(r"http://(?!www\.w3\.org/|127\.0\.0\.1|localhost)[\w{]+.*", text)
        assert path == Path(__file__) or not found, f"{path.relative_to(ROOT)}: {found[:3]}"


def test_packages_come_from_where_pip_looks_by_itself():
    for path, text in tracked_text().items():
        words = ["--extra-" + "index-url", "--trusted-" + "host", "--index-" + "url", "curl ", "wget "]
        assert not [word for word in words if word in text] or path == Path(__file__), path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_every_action_and_may_do_little(path):
    text = path.read_text(encoding="utf8")
    workflow = yaml.safe_load(text)
    triggers = workflow[True]  # `on`, which YAML takes for a truth value
    assert set(triggers) <= {"push", "pull_request", "workflow_dispatch", "schedule"}  # none runs a stranger's code with our rights
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text and "github.token" not in text and "GITHUB_TOKEN" not in text
    for job in workflow["jobs"].values():
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        for action in uses:
            assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40}", action), f"{action} is not pinned by a full commit SHA"
            assert re.search(rf"{action} # v\d+\.\d+\.\d+$", text, re.MULTILINE), f"{action}: which version is that?"
        deploys = any(action.startswith("actions/deploy-pages@") for action in uses)
        assert job.get("permissions", {}) == ({"pages": "write", "id-token": "write"} if deploys else {})
        assert not ("container" in job or "services" in job)
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "what GitHub fills in would be run by the shell"
            assert not set(step.get("env", {})) & {"GH_TOKEN", "GITHUB_TOKEN"}


def test_there_is_no_image_that_may_change():
    """A base image is named by its digest; at present there is none but the one that a user's cluster names itself."""
    for path, text in tracked_text().items():
        if path.suffix in (".yml", ".yaml") or path.name.lower().startswith(("dockerfile", "containerfile")):
            for image in re.findall(r"^\s*-?\s*(?:FROM|(?:container-?)?image:)\s+(\S+)", text, re.MULTILINE | re.IGNORECASE):
                assert "@sha256:" in image, f"{path.relative_to(ROOT)}: {image}"
