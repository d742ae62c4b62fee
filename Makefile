VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
LDFLAGS := -X github.com/shopmonkeyus/eds/internal/cli.version=$(VERSION:v%=%)
FUZZTIME ?= 5m
COUNT ?= 3

SEED ?= 1
FOR ?= 2m

.PHONY: help build demo test test-fast torture test-nats test-dialects test-lake test-outages race bench fuzz lint sample golden release image chart cross

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

build: ## build ./eds
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o eds .

demo: build ## run HQ, shop, import, stream and comparison on this machine for half a minute
	./eds demo --for 30s

test: ## run all tests with the race detector, the longest first; finds or installs what they need
	./test/run -race -vet=off -timeout 45m ./test/e2e ./test/torture ./test/builds ./... # make lint vets everything
	@$(MAKE) --no-print-directory test-nats

test-fast: ## run the tests that need no server, in less than a minute; installs nothing
	./test/fast -short

test-nats: ## run the program and the tests of the stream against nats-server 2.11, the version of HQ
	cd test/nats211 && go test -vet=off . github.com/shopmonkeyus/eds/internal/source/jetstream

torture: ## break things around the program for FOR (2m), from SEED (1); KINDS=all adds the known faults
	@mkdir -p dist/torture
	./test/run -count 1 -timeout 24h -v -run '^TestTorture$$$(if $(ON),/^$(ON)$$)' -artifacts -outputdir dist/torture ./test/torture -args -seed $(SEED) -for $(FOR) -kinds '$(KINDS)'

race: ## run all tests COUNT times (3) in random order
	./test/run -race -timeout 60m -count $(COUNT) -shuffle on ./...

test-dialects: ## check the SQL for databases without a server in the tests: with sqlfluff, DuckDB and a MySQL 8
	go test -tags grammar -run 'TSQL|Snowflakes' ./internal/drivers/sqlserver ./internal/drivers/snowflake
	cd test/snowflake && go test -race ./...
	cd test/mysql && go test ./...

test-outages: ## stop a destination for ten minutes
	go test -tags outage -run TenMinutes -timeout 24m ./internal/drivers/...

test-lake: ## read the Parquet and NDJSON files of batches with DuckDB
	cd test/lake && go test -race ./...

bench: ## run all benchmarks: of the whole program against real servers, then of its parts
	./test/run -p 1 -run '^$$' -bench . -benchtime 1x -timeout 120m ./test/bench
	./test/run -p 1 -run '^$$' -bench . -benchmem -timeout 60m ./internal/...

fuzz: ## run every fuzz target for FUZZTIME (5m)
	FUZZTIME=$(FUZZTIME) ./test/fuzz

lint: ## check format, vet, static analysis, dead code, modules, structure, prose, and every platform
	@unformatted=$$(go tool gofumpt -l .) && if [ -n "$$unformatted" ]; then echo "gofumpt these files:"; echo "$$unformatted"; exit 1; fi
	GOFLAGS="$$(./test/goflags) -race" go vet ./... # the tests have compiled everything like this already
	GOFLAGS="$$(./test/goflags) -race" go vet -tags 'grammar outage' ./internal/drivers/... # make test does not run these
	GOFLAGS="$$(./test/goflags) -race" "$$(go tool -n staticcheck)" ./...
	@dead=$$(go tool deadcode -test -tags 'grammar outage' ./...) && if [ -n "$$dead" ]; then echo "$$dead"; exit 1; fi
	go mod tidy -diff
	go test ./internal/testing/lint
	@$(MAKE) --no-print-directory cross

golden: ## rewrite the golden files; read the difference before you commit it
	EDS_UPDATE_GOLDEN=1 ./test/run -count 1 $$(grep -rl --include='*_test.go' golden.Compare . | xargs -n 1 dirname | sort -u)

release: ## try a release of every platform: archives, packages, signatures, bills of materials, in dist
	./packaging/release

image: ## build the image without a container engine, check that it works, leave it in dist/image.tar
	VERSION='$(VERSION)' ./packaging/image

chart: ## check the Helm chart
	./packaging/chart

sample: ## print 100 doc comments and 50 sentences of the documents, by SEED, for a reader
	@go run ./internal/testing/lint/sample -seed $(SEED)

cross: ## check that the program compiles for every platform of releases, without generating code
	go run ./internal/testing/lint/cross .
