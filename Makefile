# Sealane. `make help` lists the targets. Everything but Go itself is pinned in
# go.mod and tools/go.mod.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BINARIES := sealane-hub sealane-agent sealane
TOOL     := go tool -modfile=tools/go.mod
FUZZTIME ?= 10s
# What images are built for; for example "linux/amd64 linux/arm64".
PLATFORMS ?= linux/$(shell go env GOARCH)
# Build, lint and e2e compile the dependencies with the same settings, hence once.
SETTINGS := CGO_ENABLED=0 GOFLAGS="$(GOFLAGS) -trimpath"

# Files that `make generate` owns.
GENERATED := '*.pb.go' '*zz_generated*.go' api/v1alpha1/crds docs/reference

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: build
build: ## Build bin/sealane-hub, bin/sealane-agent and bin/sealane
	$(SETTINGS) go build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ $(BINARIES:%=./cmd/%)

.PHONY: kubectl
kubectl: ## Build bin/kubectl for those who have none
	$(SETTINGS) go build -C tools -ldflags '-s -w' -o ../bin/ ./kubectl

.PHONY: generate
generate: ## Regenerate protobuf code, deep copies, CRDs and docs/reference
	$(TOOL) buf lint
	$(TOOL) buf generate
	$(TOOL) controller-gen object crd:generateEmbeddedObjectMeta=false output:crd:dir=api/v1alpha1/crds paths=./api/v1alpha1
	$(TOOL) crd-ref-docs --log-level=ERROR --source-path=api/v1alpha1 --config=tools/crd-ref-docs/config.yaml \
		--templates-dir=tools/crd-ref-docs/templates --renderer=markdown --output-path=docs/reference/v1alpha1.md

.PHONY: lint
lint: ## Check style and import rules with golangci-lint
	$(SETTINGS) $(TOOL) golangci-lint run ./...

# Most tests wait for servers most of the time, hence more of them at once than there are cores.
.PHONY: test
test: ## Run every test with the race detector, which needs a C compiler (ARGS="-run NAME ./agent")
	GORACE="suppressions=$(CURDIR)/.race-suppressions $(GORACE)" go test -race -parallel 4 -timeout 20m $(or $(ARGS),./...)

.PHONY: e2e
e2e: build images ## Test on kind clusters (installs docker.io and starts it where none runs; ARGS="-run NAME")
	$(SETTINGS) go test -tags e2e -count=1 -timeout 35m -v ./e2e/kind $(ARGS)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (10s)
	@grep -roE --include='*_test.go' '^func Fuzz\w+' . | while IFS=: read -r file fn; do \
		set -x; go test -run '^$$' -fuzz "^$${fn#func }\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; { set +x; } 2>/dev/null; done

.PHONY: bench
bench: build ## Measure a federation on this machine against NATS alone, the hub with a fleet (FLEET="-members 1000"), a region of 200 sites, and the planner
	go run ./e2e/bench
	go run ./e2e/fleet $(FLEET)
	go run ./e2e/sites
	go test -run '^$$' -bench '1000|OneBridge' -benchmem ./topology

.PHONY: demo
demo: build ## Build, then run the demo until Ctrl-C (ARGS=--exit ends it)
	bin/sealane demo $(ARGS)

# The hub of a cluster uses that cluster's API: without one built in it takes less memory.
.PHONY: images
images: ## Write container images to bin/images, without an engine (PLATFORMS="linux/amd64 linux/arm64")
	@for p in $(PLATFORMS); do dir=bin/images/$${p//\//-}; mkdir -p "$$dir"; \
		(set -x; GOOS=$${p%/*} GOARCH=$${p#*/} $(SETTINGS) go build -tags noapiserver -ldflags '-s -w -X main.version=$(VERSION)' -o "$$dir/" ./cmd/sealane-hub ./cmd/sealane-agent); \
		go run ./images --platform "$$p" --binaries "$$dir" --out bin/images --version "$(VERSION)" --revision "$$(git rev-parse HEAD 2>/dev/null)" \
			--created "$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)}"; done

.PHONY: verify
verify: generate ## Regenerate and fail if a generated file is not as committed
	@changed=$$(git status --porcelain -- $(GENERATED)); \
	if [ -n "$$changed" ]; then \
		git --no-pager diff -- $(GENERATED); \
		echo "generated files are not up to date; run 'make generate' and commit:"; echo "$$changed"; exit 1; fi

.PHONY: vuln
vuln: ## Look for known vulnerabilities (asks vuln.go.dev)
	$(TOOL) govulncheck ./...

.PHONY: clean
clean: ## Remove bin/
	rm -rf bin
