# make study | final | test | install | bench | pictures. All packages are installed in .venv; uv is installed in .uv if it is missing.
TRIALS ?= 20
ARGS ?=
NAME ?= training
STUDY ?= studies/quickstart
HARDWARE ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo cuda || echo cpu)

PYTHON := .venv/bin/python
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
OWN_UV := $(filter .uv/bin/uv,$(UV))
SOURCES := pyproject.toml Makefile
# uv also reads the folder of wheels that PIP_FIND_LINKS names; CUDA builds always come from the index.
WHEELS := $(if $(filter cpu,$(HARDWARE)),$(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend=cpu))

# With the CUDA build Triton compiles C code that needs Python's headers. uv's managed interpreters have them; MANAGED= accepts any.
MANAGED := $(if $(filter cuda,$(HARDWARE)),--managed-python)
# Order-only: the machine is checked before the first install, not before every study.
PREFLIGHT := $(if $(wildcard .venv/installed),,preflight)

# Once per machine with a CUDA device: what its workers would meet is told before a study begins.
DOCTOR := $(if $(filter cuda,$(HARDWARE)),.venv/examined)

.PHONY: study final install test bench pictures clean preflight

study: .venv/installed $(DOCTOR)
	$(PYTHON) run_study.py --trials $(TRIALS) $(ARGS)

final: .venv/installed
	$(PYTHON) run_final.py --from-best $(ARGS)

install: .venv/installed

test: .venv/installed-dev
	$(PYTHON) -m pytest -n 2

bench: .venv/installed-bench
	$(PYTHON) -m bench.$(NAME) $(ARGS)

pictures: .venv/installed-dev
	PYTHONPATH=. $(PYTHON) tools/make_pictures.py $(STUDY)

clean:
	rm -rf .venv .uv

.venv/installed: $(SOURCES) | .venv/bin/python $(OWN_UV)
	$(UV) pip install --compile-bytecode --python $(PYTHON) $(WHEELS) -e '.[$(HARDWARE)]'
	touch $@

.venv/examined: .venv/installed
	$(PYTHON) -m mathsft doctor
	touch $@

.venv/installed-dev: .venv/installed
	$(UV) pip install --compile-bytecode --python $(PYTHON) $(WHEELS) -e '.[$(HARDWARE),dev]'
	touch $@

.venv/installed-bench: .venv/installed
	$(UV) pip install --compile-bytecode --python $(PYTHON) $(WHEELS) -e '.[$(HARDWARE),bench]'
	touch $@

.venv/bin/python: | $(PREFLIGHT) $(OWN_UV)
	$(UV) venv --python '>=3.11,<3.15' $(MANAGED) .venv

.uv/bin/uv: | $(PREFLIGHT)
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

preflight:
	@sh tools/preflight.sh $(HARDWARE) "$(UV)"
