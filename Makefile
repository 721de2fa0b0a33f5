# Everything goes through make. It must parse on a machine without PostgreSQL: PGXS is included
# only where it exists, and `make packages` brings it. Paths stay relative, so that a checkout in
# a folder with spaces works.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
SETUP := extension/setup

# PG_CONFIG chooses the server; the default is the newest that is installed.
ifeq ($(strip $(PG_CONFIG)),)
PG_CONFIG := $(shell $(SETUP)/pg_config)
endif
export PG_CONFIG

# Where a recipe calls make again: a line with the variable's own name is run by `make -n` too.
SUBMAKE := $(MAKE)

# Which PyTorch the oracle tests get. A range may bring a CUDA build of several gigabytes.
TORCH ?= torch==2.13.0
export TORCH

# Which Python the virtual environment is made from, python3 by default. PGXS has a PYTHON too.
ifdef PYTHON
override PYTHON := $(PYTHON)
export PYTHON
endif

# what is in tests/ and no test: $(TOOL) bench
TOOL = env PYTHONPATH=tests build/venv/bin/python -m

##@ See it work
.PHONY: help demo tour psql load verify need-model
help:  ## this table
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@printf '\n  PG_CONFIG=/path/to/pg_config chooses the server (now: %s)\n' \
		"$${PG_CONFIG:-none installed}"

demo: extensions  ## set up what is missing, complete a text with the bundled model
	@$(SETUP)/database demo

tour: extensions  ## learn how GPT-2 works, step by step; PAUSE=: without a stop
	@$(SETUP)/database model
	@docs/tour.sh "$$($(SETUP)/cluster dsn)"

psql: extensions  ## open psql on the demo database
	@$(SETUP)/database
	@$(SETUP)/cluster psql

load: need-model extensions  ## load a model: MODEL=<directory or Hugging Face hub id>, ARGS='--replace'
	@$(SETUP)/database
	@dsn=$$($(SETUP)/cluster dsn) && build/venv/bin/gpt2-loader load "$$MODEL" --dsn "$$dsn" $(ARGS)
export MODEL

verify: need-model extensions  ## published figures beside ours: MODEL=openai-community/gpt2
	@$(SETUP)/database
	@dsn=$$($(SETUP)/cluster dsn) && \
		build/venv/bin/gpt2-loader load "$$MODEL" --name verified --replace --dsn "$$dsn" && \
		$(TOOL) verify "$$dsn" verified

need-model:
	@: "$${MODEL:?is missing: make load MODEL=<directory or Hugging Face hub id>}"

##@ Test
WITH_SERVER = $(SETUP)/cluster run
.PHONY: lint lint-python lint-workflows lint-shell lint-sql lint-release
lint: lint-python lint-workflows lint-shell lint-sql lint-release  ## check the sources by their rules; FIGURES=1: and count
lint-python: packages
	@$(SETUP)/python lint
	@build/venv/bin/ruff check --quiet --output-format concise
	@build/venv/bin/ruff format --check --quiet

lint-workflows: packages
	@$(SETUP)/python lint
	@build/venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

# SC2016: a script for another shell stands in single quotes, so that this one leaves it alone
SHELL_SCRIPTS = .ci/run extension/build extension/pg_tle $(wildcard $(SETUP)/*) docs/tour.sh tests/pg_ctl \
	tests/bare/deb tests/bare/machines.sh tests/bare/run \
	tests/bare/docker/docker-entrypoint.sh tests/bare/docker/run packaging/deb \
	packaging/debian/tests/readme $(addprefix packaging/docker/,build entrypoint initdb.sh)
lint-shell:
	@"$$($(SETUP)/shellcheck)" --external-sources --source-path=SCRIPTDIR --exclude=SC2016 $(SHELL_SCRIPTS)

lint-sql: extensions
	@$(WITH_SERVER) $(TOOL) lint $(if $(FIGURES),--figures)

lint-release: build python
	@$(TOOL) release check

# Which error messages no test triggers is asked where all of make test runs.
MESSAGES = $(TOOL) messages
HEARING = PYTHONPATH='$(CURDIR)/tests/hearing' GPT2_MESSAGES='$(CURDIR)/build/messages'
# the tests of a file share databases: a file is one process's
PYTEST = build/venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# all that a server, a browser, PL/Proxy and the poolers are enough for
EVERYTHING = not oracle and not attack and not training and not node
.PHONY: test test-operations test-long messages fuzz attack test-portable test-matrix test-upgrade crash soak \
	test-bare test-oracle test-training bench
test: extensions browser  ## set up what is missing, run the tests: a quarter of an hour
	@$(if $(PYTEST_ARGS),,$(WITH_SERVER) $(MESSAGES) begin)
	@$(WITH_SERVER) $(SUBMAKE) installcheck || ! cat build/regress/regression.diffs
	@$(WITH_SERVER) env $(if $(PYTEST_ARGS),,$(HEARING)) $(PYTEST) $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),,$(WITH_SERVER) $(MESSAGES) check)

test-operations: extensions plproxy poolers  ## packages, releases, dumps, standbys, several servers
	@$(WITH_SERVER) $(PYTEST) -m 'operations and not long' $(PYTEST_ARGS)

test-long: plproxy poolers  ## all of both, whole: every case, four times the examples
	@GPT2_LONG=1 $(SUBMAKE) test PYTEST_ARGS="-m '$(EVERYTHING)' $(PYTEST_ARGS)"

messages: extensions  ## every error message, and whether the last `make test` triggered it
	@$(WITH_SERVER) $(MESSAGES) list

# The two parts are independent: the second runs, whatever the first has found.
FILES ?= 200000
CALLS ?= 100000
SEED ?= 1
FIRST ?= 0
fuzz: extensions  ## broken model files and odd calls: FILES=200000 CALLS=100000 SEED=1, an hour or two
	@status=0; \
		$(TOOL) fuzz --files $(FILES) --first $(FIRST) --seed $(SEED) --keep build/fuzz || status=1; \
		$(WITH_SERVER) $(TOOL) arguments --calls $(CALLS) --seed $(SEED) || status=1; \
		exit $$status

# files that compare no number which a model computes
WITHOUT_NUMBERS := arguments bench clusters concurrency crash edition extension fuzz hostile hub lint \
	loader loader_cli long_words malformed matrix messages pattern peers plan plpython rights sessions \
	several tokenizer
test-portable: extensions  ## the tests of numbers, on a server whose pgvector is compiled otherwise
	@pg_config=$$($(SETUP)/portable) && $(SUBMAKE) test PG_CONFIG="$$pg_config" \
		PYTEST_ARGS='$(WITHOUT_NUMBERS:%=--ignore=tests/test_%.py) $(PYTEST_ARGS)'

# a name of extension/setup/matrix a server
VERSIONS = $(shell $(SETUP)/matrix)
test-matrix: python plproxy poolers  ## test and test-operations with each PostgreSQL: VERSIONS="16 18" for some
	@PYTEST_ARGS="-m '$(EVERYTHING) and not long' $(PYTEST_ARGS)" build/venv/bin/python tests/matrix.py $(VERSIONS)

# FROM is a wheel's server, even where the machine has that version: its own may be a younger minor
# release, which writes what TO's does not know.
FROM ?= 15
TO ?= 17
test-upgrade: python  ## pg_upgrade from one PostgreSQL to another: FROM=15 TO=17
	@new=$$($(SETUP)/matrix $(TO)) && $(SUBMAKE) install PG_CONFIG="$$new" \
		&& old=$$(PG_CONFIG="$$new" $(SETUP)/matrix $(FROM)) \
		&& $(SUBMAKE) test-operations PG_CONFIG="$$old" GPT2_NEW_PG_CONFIG="$$new" PYTEST_ARGS=tests/test_upgrade.py

test-bare:  ## the README's commands in bare machines: as root, debootstrap and an hour
	@tests/bare/run $(ARGS)

# One file a process: the kills keep one busy, the calls another.
attack: extensions  ## short forms of fuzz, crash and soak, in some minutes
	@$(WITH_SERVER) env GPT2_FILES=10000 GPT2_CALLS=2000 build/venv/bin/python -m pytest -n auto \
		--maxprocesses 4 --dist loadfile -m 'not oracle and not long' $(PYTEST_ARGS) \
		tests/test_crash.py tests/test_arguments.py tests/test_fuzz.py
	@$(SUBMAKE) soak SOAK_MINUTES=2

crash: extensions  ## kill backends, clients and servers in the midst of what they do: KILLS=50 of each
	@$(WITH_SERVER) env GPT2_CRASH_KILLS=$(or $(KILLS),50) build/venv/bin/python -m pytest -s \
		-m attack tests/test_crash.py $(PYTEST_ARGS)

soak: extensions  ## 16 sessions call everything, with cancels and timeouts: SOAK_MINUTES=30
	@$(WITH_SERVER) $(TOOL) soak $(or $(SOAK_MINUTES),30)

test-oracle: extensions  ## compare live with PyTorch and transformers (installs them)
	@$(SETUP)/python oracle
	@$(WITH_SERVER) build/venv/bin/python -m pytest -m oracle $(PYTEST_ARGS)

test-training: packages  ## how the bundled model is made, on made-up texts (installs PyTorch)
	@$(SETUP)/python oracle
	@$(SETUP)/python training
	@build/venv/bin/python -m pytest -m training tests/test_training.py $(PYTEST_ARGS)

BENCH_ARGS = $(if $(QUICK),--quick) $(if $(AGAINST),--against "$(AGAINST)") \
	$(if $(PEERS),--peers $(PEERS))
BENCH = $(TOOL) bench
bench: extensions  ## compare speed with PyTorch (installs it); QUICK=1: in short; AGAINST=COMMIT; PEERS=1
	@$(SETUP)/python oracle
	@$(if $(PEERS),$(SETUP)/python peers)
	@$(WITH_SERVER) $(BENCH) $(BENCH_ARGS) --prepare
	@# begin with empty shared buffers: where the weights lie in order a token is a tenth faster
	@$(SETUP)/cluster stop
	@$(WITH_SERVER) $(BENCH) $(BENCH_ARGS)

##@ Many servers
.PHONY: plan plan-check scale
PLAN_ARGS = $(if $(IN),--prompt $(IN)) $(if $(OUT),--tokens $(OUT)) $(if $(SHARE),--share $(SHARE)) \
	$(if $(PLAN_CALLS),--calls $(PLAN_CALLS))
plan: extensions  ## cores and servers for a rate of calls: RATE=5 IN=64 OUT=32 P95=2 (seconds)
	@: "$${RATE:?is missing: make plan RATE=<calls a second> IN=<tokens> OUT=<tokens> P95=<seconds>}"
	@$(if $(SERVICE),,$(SETUP)/database model)
	@$(if $(SERVICE),,$(WITH_SERVER)) $(TOOL) plan --rate $(RATE) $(if $(P95),--p95 $(P95)) \
		$(if $(MODEL),--model $(MODEL)) $(if $(CORES),--cores $(CORES)) \
		$(if $(SERVICE),--service $(SERVICE)) $(PLAN_ARGS)
export RATE

plan-check: extensions poolers  ## what it says beside measured runs: SERVERS="1 2 3" IN=16 OUT=16
	@$(WITH_SERVER) $(TOOL) plan.check $(if $(SERVERS),--servers $(SERVERS)) $(PLAN_ARGS)

PROMPTS ?= 24
scale: extensions plproxy  ## one statement over 1, 2 and 3 servers, in seconds: PROMPTS=6: in short
	@$(WITH_SERVER) $(TOOL) scale --prompts $(PROMPTS)

##@ Release
.PHONY: upgrade release dist deb test-deb test-docker
upgrade: extensions  ## the scripts that lead from the last release to the sources as they are
	@$(WITH_SERVER) $(TOOL) release upgrade

deb:  ## Debian's packages, in build/deb
	@packaging/deb

test-deb:  ## Debian's packages in bare machines: as root, debootstrap and a quarter of an hour
	@tests/bare/deb $(ARGS)

test-docker:  ## the images and the compose file, by Podman: as root, a quarter of an hour
	@tests/bare/docker/run

release: build python  ## freeze the scripts of META.json's version: CONTRIBUTING.md
	@$(TOOL) release freeze

# a playground that was built once is brought up to date
dist: python $(wildcard build/playground/site/index.html)  ## a release's files, with checksums, in build/dist: docs/install.md
	@$(SETUP)/dist

##@ In a browser
.PHONY: playground test-pglite test-playground site
PLAYGROUND = build/playground/site/index.html
PORT ?= 8080
playground: $(PLAYGROUND)  ## the model in a browser tab: builds build/playground/site, serves it; PORT=8080
	@echo 'Open http://localhost:$(PORT)/ (to end: Ctrl-C)'
	@build/venv/bin/python -m http.server --bind 127.0.0.1 --directory build/playground/site $(PORT)

# $(SETUP)/node installs what is missing, and says where node is
WITH_NODE = node=$$($(SETUP)/node) && PATH="$$node:$$PATH"
$(PLAYGROUND): build/gpt2.sql $(wildcard docs/reference.md docs/tour.sql) $(shell find playground \
		loader/gpt2_loader -type f -not -path '*/node_modules/*' -not -path '*/__pycache__/*' \
		2> /dev/null) | python
	@$(WITH_NODE) && playground/node_modules/.bin/tsc --project playground && node playground/build.js

# What the tests of these files ask is SQL, and needs one connection and the bundled model alone.
IN_PGLITE := pglite readme tour tokenizer pattern constraints sampling
test-pglite: extensions $(PLAYGROUND)  ## tests of SQL in PGlite, PostgreSQL as WebAssembly
	@$(WITH_NODE) && GPT2_PGLITE=yes $(WITH_SERVER) build/venv/bin/python -m pytest -n auto \
		--maxprocesses 2 --dist loadfile -m 'not oracle and not long and not attack' \
		$(PYTEST_ARGS) $(IN_PGLITE:%=tests/test_%.py)

test-playground: extensions browser $(PLAYGROUND)  ## the page, in Chromium
	@$(SETUP)/python playground
	@$(WITH_SERVER) build/venv/bin/python -m pytest -m node $(PYTEST_ARGS) tests/test_playground.py

site: $(PLAYGROUND)  ## the documentation with the playground in it, in build/site
	@$(SETUP)/python site
	@$(SETUP)/site

##@ The private server
.PHONY: server dsn env stop
server: packages  ## start it
	@$(SETUP)/cluster start

dsn:  ## print its connection URI (starts it if need be)
	@$(SETUP)/cluster dsn

env:  ## print what makes it the server of this shell's clients: eval "$(make -s env)"
	@$(SETUP)/cluster env

stop:  ## stop it
	@$(SETUP)/cluster stop

##@ The steps of the set-up
.PHONY: packages python pgvector extensions browser plproxy poolers
packages:  ## PostgreSQL, its headers, venv, PL/Python, numpy: by apt, what is missing
	@$(SETUP)/packages

python: packages  ## a virtual environment in build/venv, with the loader in it
	@$(SETUP)/python test

pgvector: packages python  ## the package, or PGXN's, or built from Debian's source
	@$(SETUP)/pgvector

extensions: packages python pgvector build  ## build and install gpt2 and gpt2_plpython3u
	@$(SETUP)/install

browser:  ## Chromium, in which the tests look at the pictures: by apt, where there is none
	@$(SETUP)/browser > /dev/null

plproxy: packages  ## PL/Proxy, which divides calls among servers, for its tests: by apt, where it can be had
	@$(SETUP)/plproxy

poolers:  ## PgBouncer and HAProxy, for the tests of many servers: by apt, where they are missing
	@$(SETUP)/poolers > /dev/null

##@ As with any extension
.PHONY: all build clean-build
EXTVERSION := $(shell awk -F '"' '$$2 == "version" { print $$4; exit }' META.json)
EXTENSION = build/gpt2 build/gpt2_plpython3u
DATA_built = $(EXTENSION:=--$(EXTVERSION).sql)
DATA = $(wildcard extension/releases/*--*--*.sql)
SOURCES := META.json extension/build $(shell find extension sql plpython loader/gpt2_loader \
	-path extension/releases -prune -o \( -name '*.sql' -o -name '*.py' -o -name '*.bpe' -o \
	-name '*.manifest' \) -print 2> /dev/null)
REGRESS := $(patsubst tests/sql/%.sql,%,$(sort $(wildcard tests/sql/*.sql)))
REGRESS_OPTS = --inputdir=tests --outputdir=build/regress \
	--load-extension=vector --load-extension=gpt2
REGRESS_PREP = build/regress

all: build
build: $(EXTENSION:=.control) $(DATA_built) build/gpt2.sql build/gpt2_pg_tle.sql  ## make the scripts in build/
install:  ## into the server of PG_CONFIG
uninstall:  ## from the server of PG_CONFIG
installcheck:  ## run the SQL regression tests there
clean: clean-build  ## stop the private server, remove its data and all that was built

build/%.control: extension/%.control.in META.json
	@mkdir -p build
	@sed 's/@VERSION@/$(EXTVERSION)/' $< > $@

build/%--$(EXTVERSION).sql: extension/%.manifest $(SOURCES)
	@mkdir -p build
	@printf '\\echo Use "CREATE EXTENSION $*" to load this file. \\quit\n' > $@.new
	@extension/build $< >> $@.new
	@mv $@.new $@

# For servers where no extension files can be installed: the same in one plain script, without
# what only an extension's script may say (the files in extension/), after what only such a one has
# to say.
build/gpt2.sql: extension/gpt2.manifest $(SOURCES)
	@mkdir -p build
	@grep -v '^extension/' $< > build/gpt2.manifest
	@(cat extension/plain.sql && extension/build build/gpt2.manifest && printf '\nCOMMIT;\n') > $@.new
	@mv $@.new $@

# For servers with pg_tle, which keeps an extension's scripts in the database.
build/gpt2_pg_tle.sql: extension/pg_tle build/gpt2.control build/gpt2--$(EXTVERSION).sql \
		$(wildcard extension/releases/gpt2--*--*.sql)
	@$^ > $@.new
	@mv $@.new $@

build/regress:
	@mkdir -p $@

clean-build:
	@$(SETUP)/cluster remove
	@rm -rf build

PGXS := $(shell "$(PG_CONFIG)" --pgxs 2> /dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
.PHONY: install uninstall installcheck clean
install uninstall installcheck:
	@echo 'error: PostgreSQL is not installed, or its server headers (PGXS) are not' >&2
	@echo 'Install them with: make packages' >&2
	@false
endif
