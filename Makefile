# Commands: `make book` (the book, _build/html/index.html) and `make test` (unit tests, faults, chapters at small sizes, the book
# built from them, its pages in a browser), `make table` for a table of experiments, and `make check` for what takes a night.
# They make .venv first; it is made again only when pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: book test check clean

# On other pictures, in _build/<data set>-<backbone>: make book DATASET=camvid BACKBONE=dino_vits16, or DATASET=folder
# FOLDER=holiday; SIZES=mine.yaml for other sizes (tests/book/sizes.yaml has the form). See book/own.md.
export DATASET BACKBONE FOLDER SIZES
EDITION = $(if $(DATASET),--dataset "$$DATASET") $(if $(BACKBONE),--backbone "$$BACKBONE") \
  $(if $(FOLDER),--folder "$$FOLDER") $(if $(SIZES),--sizes "$$SIZES")
book: $(READY)
	$(strip $(BIN)/python book/build.py $(EDITION))

# Fast ones first; each line stops the rest where it fails. Kept below a quarter of an hour on two cores.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)
BROWSER = @[ -z "$$CI" ] && ! $(BIN)/python tests/browser/chromium.py ||
test: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) --dist loadfile tests/unit
	OMP_NUM_THREADS=1 $(PYTEST) tests/faults
	$(BIN)/python book/build.py --sizes tests/book/sizes.yaml --at-once $(WORKERS)
	OMP_NUM_THREADS=1 $(PYTEST) tests/book
	$(BROWSER) $(PYTEST) tests/browser

# What is deep, in parts that a night may run side by side: .github/workflows/nightly.yml. The last wants root and Debian.
PARTS := lint kills book soak
.PHONY: $(PARTS:%=check-%) check-slurm
check: test $(PARTS:%=check-%)
	@[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && $(MAKE) --no-print-directory check-slurm || echo 'SLURM is left out: make check-slurm, as root, on a machine that may be thrown away'

check-lint: $(READY)
	@$(BIN)/python -m ruff --version 2> /dev/null || $(BIN)/python -m pip install --quiet ruff
	$(BIN)/python -m ruff check .
	$(BIN)/python tests/lint.py

check-kills: $(READY)
	KILLS=50 OMP_NUM_THREADS=1 $(PYTEST) tests/faults

# The reader's book, at its chapters' own sizes, in every width and theme.
check-book: book
	BOOK=. OMP_NUM_THREADS=1 $(PYTEST) tests/book
	$(BROWSER) BOOK=. FULL=1 $(PYTEST) tests/browser

check-soak: $(READY)
	$(BIN)/python -m benchmarks --quick --output _build/benchmarks.json
	$(BIN)/python -m benchmarks.soak --experiments 30 --workers 2 --faults 0.3 --seed 0 --output _build/soak.json

check-slurm: $(READY)
	tests/slurm/run.sh $(BIN)/python

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[book,test,workflow]'
	mkdir -p .venv/etc/ipython  # kernels talk over the loopback only: no warning for each that this is not encrypted
	echo 'c.IPKernelApp.log_level = "ERROR"' > .venv/etc/ipython/ipython_kernel_config.py
	$(MAKE) --no-print-directory pydensecrf
	touch $@

# The published CRF path. Its source package was written for Cython before 3 and does not say so.
.PHONY: pydensecrf
pydensecrf:
	echo 'cython<3' > .venv/cython.txt
	CYTHON_FORCE_REGEN=1 $(BIN)/python -m pip install --quiet --build-constraint .venv/cython.txt pydensecrf==1.0rc3 \
	  || echo 'pydensecrf could not be built (it needs Python 3.10 to 3.12 and a C++ compiler): going on without it, see book/howto.md'

# The rendered book and its stored outputs; your runs and .venv stay.
clean:
	rm -rf _build

# A table of experiments, e.g. make table TABLE=experiments/camvid.csv; DRY=1 says what it would do and what it lacks.
# PROFILE is one of workflow/profiles; GPUS is for one job; SNAKEMAKE is given on to Snakemake as it is.
TABLE ?= experiments/quickstart.csv
export TABLE
PROFILE ?= local
GPUS ?= 1
.PHONY: table
table: $(READY)
	@plan=.snakemake/plan-$$$$.json; trap 'rm -f "$$plan"' EXIT; \
	$(BIN)/python -m workflow.check $(if $(DRY),,--fetch) --plan "$$plan" "$$TABLE" || exit 1; \
	$(BIN)/python -c 'import snakemake' 2> /dev/null || { echo 'Tables are run by Snakemake, which needs Python 3.11 or newer: rm -r .venv, then make PYTHON=python3.11 table'; exit 1; }; \
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/$(PROFILE) \
	  --config table="$$TABLE" plan="$$plan" gpus=$(GPUS) $(if $(DRY),--dry-run --quiet rules) $(SNAKEMAKE)
