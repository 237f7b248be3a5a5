# tidemill: build, test and run. `make help` lists the targets.
#
# The two commands a newcomer needs are `make run` and `make test`; both
# install what is missing first (tools/deps.sh says what and why).

BUILD   ?= build
BIN     ?= tidemill
PREFIX  ?= /usr/local
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

LIBS    := lua5.4 rdkafka libcurl libmariadb libmicrohttpd gmp libsodium zlib readline
PKG     := $(shell pkg-config --cflags $(LIBS) 2>/dev/null)
PKGLIB  := $(shell pkg-config --libs $(LIBS) 2>/dev/null)

# Messages are made by librdkafka's threads and freed by ours: the C library's
# allocator takes a contended lock for each. Sanitizers bring their own: ALLOC=
ALLOC   ?= -Wl,--no-as-needed -lmimalloc -Wl,--as-needed
OPT     ?= -O2 -g
# The macros some packages pass would narrow what the C library declares.
CFLAGS  += -std=c11 -D_GNU_SOURCE $(OPT) $(filter-out -D_XOPEN_SOURCE%,$(PKG)) \
           -Wall -Wextra -Wshadow -Wconversion -Wwrite-strings \
           -Wmissing-prototypes -Wformat=2 -Werror -fstack-protector-strong \
           -Ihost -DTIDEMILL_VERSION='"$(VERSION)"' \
           -DTIDEMILL_SHARE='"$(PREFIX)/share/tidemill"' -pthread
LDFLAGS += -pthread
# 128-bit integers and libraries' own headers are outside -Wpedantic.

# The fail points belong to the test build alone: see `make faults`.
FAULTS  ?=
ifeq ($(FAULTS),)
SOURCES := $(filter-out host/failpoint.c,$(sort $(wildcard host/*.c)))
else
SOURCES := $(sort $(wildcard host/*.c))
CFLAGS  += -DTIDEMILL_FAULTS
endif
OBJECTS := $(SOURCES:host/%.c=$(BUILD)/%.o) $(BUILD)/modules.o
# What a sanitizer needs besides: see `make asan` and `make tsan`. The child of a
# clone shares our memory, where ThreadSanitizer must note nothing about it.
WITH    ?=
OBJECTS += $(WITH:%=$(BUILD)/%.o)
ifeq ($(WITH),tsan_threads)
$(BUILD)/spawn.o: CFLAGS += -fno-sanitize=thread
endif
PURE    := decimal wide exact scan moment batch decode_plan decode delta notes store spool spool_file spool_read upsert sqltext \
           clock_core metrics_core metrics_text
# Objects depend on the flags only through `make clean`; sanitizers build apart.
CTESTS  := $(patsubst spec/c/%.c,$(BUILD)/c/%,$(wildcard spec/c/*_test.c))

.PHONY: all
all: $(BIN)

.PHONY: help
help:
	@echo "make run        install, build, run everything on embedded servers (ARGS=..., LIVE=1)"
	@echo "make test       install, build, run all tests; test-unit: without real servers"
	@echo "make            build ./$(BIN)"
	@echo "make lint asan  warnings, luacheck, layers, formatting; the unit specs under sanitizers"
	@echo "make tsan       the host's threads under ThreadSanitizer"
	@echo "make valgrind   the modules and the C tests under memcheck"
	@echo "make asan-all   all specs under sanitizers, those of real servers too"
	@echo "make servers    start real Kafka, MySQL and MariaDB; servers-down stops them"
	@echo "make bench      measure against controls, with the real servers (NAME=whole takes one)"
	@echo "make bench-micro  nanoseconds of the decoder, the window store, a script's functions"
	@echo "make bench-plots  draw the plots of doc/ from the last \`make bench NAME=curves\`"
	@echo "make bench-peers  the same job on Kafka Streams, Flink, Spark, Bytewax, Quix, Python"
	@echo "make faults     build ./tidemill-faults, which can be stopped at named points"
	@echo "make soak       the whole job at a steady rate: is it flat? (MINUTES=30)"
	@echo "make fuzz       fuzz the pure layer (SECONDS=20 a target)"
	@echo "make chaos      faults against real servers, every row judged (MINUTES=10 SEED=... ROUND=...)"
	@echo "make chaos-mutations  would it notice? checks are left out one by one"
	@echo "make outage     database, Kafka, both away for MINUTES=10 while rows go on coming"
	@echo "make format install clean"

$(BIN): $(OBJECTS)
	@echo "LINK $@"
	@$(CC) $(LDFLAGS) $(ALLOC) -Wl,-E -o $@ $^ $(PKGLIB) -lm -ldl

$(WITH:%=$(BUILD)/%.o): $(BUILD)/%.o: tools/%.c | $(BUILD)
	@echo "CC   $<"
	@$(CC) $(CFLAGS) -c -o $@ $<

# The same program with allocations that fail on request: spec/heap.
HEAPWRAP := malloc calloc realloc strdup modules_preload
$(BIN)-heap: $(OBJECTS) spec/heap/heapfault.c
	@echo "LINK $@"
	@$(CC) $(CFLAGS) $(LDFLAGS) -Wl,-E $(HEAPWRAP:%=-Wl,--wrap=%) -o $@ \
	  spec/heap/heapfault.c $(OBJECTS) $(PKGLIB) -lm -ldl

$(BUILD)/%.o: host/%.c | $(BUILD)
	@echo "CC   $<"
	@$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/modules.c: $(SOURCES) tools/modules.sh | $(BUILD)
	@tools/modules.sh $(SOURCES) > $@

$(BUILD)/modules.o: $(BUILD)/modules.c
	@echo "CC   $<"
	@$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD):
	@mkdir -p $(BUILD)/c

-include $(wildcard $(BUILD)/*.d)

# C tests link only the pure layer: what they need must not know Lua.
PUREOBJ := $(patsubst %,$(BUILD)/%.o,$(filter $(PURE),$(SOURCES:host/%.c=%)))

$(BUILD)/c/%: spec/c/%.c spec/c/check.h $(PUREOBJ) | $(BUILD)
	@echo "TEST $<"
	@mkdir -p $(BUILD)/c
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(PUREOBJ) -lgmp -lsodium -lm

.PHONY: ctests
ctests: $(CTESTS)

.PHONY: test-unit
test-unit: $(BIN) $(BIN)-heap ctests
	@TIDEMILL=$(abspath $(BIN)) tools/test.sh $(BUILD) spec/host spec/mill spec/cmd spec/runbook spec/bugs

# --- the two commands ---------------------------------------------------------

# Install, build, and run the whole pipeline on embedded servers.
# ARGS="--for 25s --json" ends by itself; LIVE=1 asks the real exchange.
.PHONY: run
run:
	@tools/deps.sh run >&2
	@$(MAKE) -s all >&2
	@exec ./$(BIN) up --dev $(ARGS)

# Install, build, and run all tests; those of real servers run where TIDEMILL_KAFKA
# and the databases' addresses are set (see `make servers`).
.PHONY: test
test:
	@tools/deps.sh run test
	@$(MAKE) -s all ctests
	@$(MAKE) -s faults
	@TIDEMILL=$(abspath $(BIN)) tools/test.sh $(BUILD) spec

# --- checks -------------------------------------------------------------------

.PHONY: lint
lint:
	@tools/deps.sh build lint
	@$(MAKE) -s all ctests
	@luacheck -q .
	@tools/lint.sh

.PHONY: format
format:
	@clang-format -i $(wildcard host/*.[ch] spec/c/*.[ch] bench/*.[ch] fuzz/*.[ch] tools/*.c)

# AddressSanitizer and UBSan over the C tests and the unit specs; SPECS=spec for
# all specs, those of real servers too. Reports are in var/asan, one a process;
# what libraries keep for themselves is listed in tools/lsan.supp.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SPECS    ?= spec/host spec/mill spec/bugs
.PHONY: asan
asan:
	@tools/deps.sh build test
	@$(MAKE) -s BUILD=build-asan BIN=tidemill-asan ALLOC= WITH=ubsan_report OPT="-O1 -g $(SANITIZE)" \
	  LDFLAGS="-pthread $(SANITIZE)" all tidemill-asan-heap ctests
	@tools/sanitize.sh asan $(CURDIR)/tidemill-asan build-asan $(SPECS)

# The same over everything, on real servers.
.PHONY: asan-all
asan-all:
	@tools/deps.sh run test servers
	@eval "$$(tools/servers.sh up)" && $(MAKE) -s asan SPECS=spec

# ThreadSanitizer over the threads of the host: the HTTP server's, those that
# dial MySQL, those that wait for librdkafka, the spool's. Libraries are not instrumented.
# The limits of the server are about time, which a sanitizer has not.
TSANSPECS ?= $(sort $(patsubst %,spec/host/%_spec.lua,mysql metrics spool) \
             $(filter-out %_limits_spec.lua,$(wildcard spec/host/kafka*_spec.lua \
             spec/host/http*_spec.lua)))
.PHONY: tsan
tsan:
	@tools/deps.sh run test
	@$(MAKE) -s BUILD=build-tsan BIN=tidemill-tsan ALLOC= WITH=tsan_threads \
	  OPT="-O1 -g -fsanitize=thread -fno-omit-frame-pointer" \
	  LDFLAGS="-pthread -fsanitize=thread" all
	@tools/sanitize.sh tsan $(CURDIR)/tidemill-tsan build-tsan $(TSANSPECS)

# memcheck over the C tests and the modules that face Lua. Debian 12's valgrind
# lets a program start no child, so specs that must are left out; MySQL, MariaDB
# and Kafka are servers started beforehand, and their specs are those of
# spec/real that need no more than an address.
GRIND      := batch decimal digest gzip heap http_client http_server json jsontestsuite kafka \
              kafka_consumer kafka_group kafka_producer kafka_reader metrics moment spool window
GRINDSPECS ?= $(GRIND:%=spec/host/%_spec.lua) spec/real/mysql_spec.lua spec/real/kafka_spec.lua \
  spec/real/static_member_spec.lua
.PHONY: valgrind
valgrind:
	@tools/deps.sh build test servers valgrind
	@$(MAKE) -s BUILD=build-grind BIN=tidemill-grind ALLOC= all ctests
	@eval "$$(tools/servers.sh up)" && \
	  tools/sanitize.sh valgrind $(CURDIR)/tidemill-grind build-grind $(GRINDSPECS)

# A test build that can be stopped at named points and made to leave checks
# out; host/failpoint.c tells how.
.PHONY: faults
faults:
	@tools/deps.sh build >&2
	@$(MAKE) -s BUILD=build-faults BIN=tidemill-faults FAULTS=1 all

# --- fuzzing: one libFuzzer target for each fuzz/*.c, by clang -----------------

# SECONDS a target, SEED=... repeats a run's choices, TARGETS="scan wide" takes
# some. Findings are saved in var/fuzz; tools/fuzz.sh tells how to repeat one.
SECONDS  ?= 20
FUZZERS  := $(patsubst fuzz/%.c,%,$(sort $(wildcard fuzz/*.c)))
FUZZCORE := $(patsubst %,$(BUILD)/%.o,gzip handle opts fail field interrupt)

$(BUILD)/fuzz/%: fuzz/%.c fuzz/fuzz.h $(PUREOBJ) $(FUZZCORE) | $(BUILD)
	@echo "FUZZ $<"
	@mkdir -p $(BUILD)/fuzz
	@$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< $(filter %.o,$^) \
	  $(shell pkg-config --libs lua5.4 gmp libsodium zlib $(FUZZLIBS)) -lm

# The HTTP server's target has the module with its libraries.
$(BUILD)/fuzz/http: $(patsubst %,$(BUILD)/%.o,http http_client http_request http_server \
                      http_daemon http_watch http_message)
$(BUILD)/fuzz/http: FUZZLIBS := libcurl libmicrohttpd

.PHONY: fuzzers
fuzzers: $(FUZZERS:%=$(BUILD)/fuzz/%)

.PHONY: fuzz
fuzz:
	@tools/deps.sh build fuzz >&2
	@$(MAKE) -s all $(BIN)-heap >&2
	@$(MAKE) -s BUILD=build-fuzz CC=clang LDFLAGS="-pthread $(SANITIZE)" \
	  OPT="-O1 -g $(SANITIZE) -fsanitize=fuzzer-no-link -DDELTA_NEAR=0" fuzzers >&2
	@TIDEMILL=$(abspath $(BIN)) tools/fuzz.sh build-fuzz $(SECONDS) "$(SEED)" \
	  $(or $(TARGETS),$(FUZZERS) differential modules heap)

# --- the fault laboratory ------------------------------------------------------

# Rounds of faults against servers of its own, each judged row by row (see
# spec/chaos/main.py). SEED=... repeats a run's plan, ROUND=... one round of it,
# KINDS=kill,mysql-cut takes some faults. It takes Debian's Python, whose
# clients of Kafka and MySQL it uses.
PYTHON   ?= /usr/bin/python3
.PHONY: chaos
chaos:
	@tools/deps.sh run servers chaos >&2
	@$(MAKE) -s all faults >&2
	@exec $(PYTHON) -B spec/chaos/main.py --minutes $(or $(MINUTES),10) $(SEED:%=--seed %) \
	  $(ROUNDS:%=--rounds %) $(ROUND:%=--round %) $(KINDS:%=--kinds %)

# The laboratory's own test: checks are left out of the test build one by one,
# and each has to be caught (spec/chaos/mutations.py). ONLY=fencing takes one.
.PHONY: chaos-mutations
chaos-mutations:
	@tools/deps.sh run servers chaos >&2
	@$(MAKE) -s all faults >&2
	@exec $(PYTHON) -B spec/chaos/mutations.py $(SEED:%=--seed %) \
	  $(ROUNDS:%=--rounds %) $(ONLY:%=--only %)

# --- benchmarks: each prints a ratio against a control in the same run ---------
# The controls have the program's allocator too: a drain gains by it as well.

BENCH := fill expect drain produce upsert latency transactions measure
BENCHOBJ := bench/bench.c bench/gen.c bench/db.c

$(BUILD)/bench/%: bench/%.c $(BENCHOBJ) $(wildcard bench/*.h) | $(BUILD)
	@echo "BENCH $<"
	@mkdir -p $(BUILD)/bench
	@$(CC) $(CFLAGS) $(ALLOC) -Ibench -o $@ $< $(BENCHOBJ) $(shell pkg-config --libs rdkafka libmariadb zlib) -lm

# Without servers: nanoseconds of the decoder, of the window store and of a script's functions.
BENCHMICRO := decode_bench store_bench

$(BENCHMICRO:%=$(BUILD)/bench/%): $(BUILD)/bench/%: bench/%.c $(PUREOBJ) | $(BUILD)
	@echo "BENCH $<"
	@mkdir -p $(BUILD)/bench
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(PUREOBJ) -lgmp -lsodium -lm

.PHONY: bench-micro
bench-micro: $(BENCHMICRO:%=$(BUILD)/bench/%) $(BIN)
	@for bench in $(BENCHMICRO:%=$(BUILD)/bench/%) "./$(BIN) exec bench/lua.lua"; do \
	  $$bench || exit 1; done

# NAME=whole takes some of bench/cases, ARGS="--runs 5 --scale 0.1 --server mysql" options; real
# servers are started, and stopped again if this target started them.
.PHONY: bench
bench:
	@tools/deps.sh run servers >&2
	@$(MAKE) -s all $(BENCH:%=$(BUILD)/bench/%) >&2
	@BIN=$(BIN) BUILD=$(BUILD) tools/bench.sh $(NAME) $(ARGS)

# The plots of doc/ from the last `make bench NAME=curves`.
.PHONY: bench-plots
bench-plots: $(BIN)
	@tools/deps.sh soak >&2
	@./$(BIN) exec bench/plot.lua

# The same job on other systems, fetched on first use by Maven and pip.
.PHONY: bench-peers
bench-peers:
	@tools/deps.sh peers >&2
	@$(MAKE) -s bench NAME="peers peers-latency" ARGS="$(ARGS)"

# Real servers, a steady load, and whether every process stays flat: samples and
# soak.png in var/soak. ARGS="--rate 2000 --churn 500 --every 5s --json"
.PHONY: soak
soak:
	@tools/deps.sh run servers soak >&2
	@$(MAKE) -s all >&2
	@BIN=$(BIN) tools/soak.sh $(or $(MINUTES),30) $(ARGS)

# Database, Kafka, and both away for MINUTES while rows go on coming.
.PHONY: outage
outage:
	@tools/deps.sh run test servers >&2
	@$(MAKE) -s all >&2
	@OUTAGE_MINUTES=$(or $(MINUTES),10) TIDEMILL=$(abspath $(BIN)) ./$(BIN) exec spec/run.lua \
	  -o plainTerminal spec/real/outage_spec.lua

.PHONY: clean
clean:
	rm -rf build build-asan build-tsan build-grind build-faults build-fuzz $(BUILD) $(BIN) $(BIN)-heap \
	  tidemill-asan tidemill-asan-heap tidemill-tsan tidemill-grind tidemill-faults

# --- installation and real servers -------------------------------------------

# Missing Debian packages of a group: build, run, test, valgrind, fuzz, chaos, lint, soak, servers.
.PHONY: deps
deps:
	@tools/deps.sh build run test valgrind fuzz chaos lint soak servers

# eval "$(make -s servers)" gives a shell the addresses.
.PHONY: servers
servers:
	@tools/deps.sh servers
	@tools/servers.sh up

.PHONY: servers-down
servers-down:
	@tools/servers.sh down

.PHONY: install
install: $(BIN)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/tidemill
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tidemill
	cp -R lib scripts runbook sql $(DESTDIR)$(PREFIX)/share/tidemill/
	install -d $(DESTDIR)$(PREFIX)/share/doc/tidemill
	-cp -R README.md doc $(DESTDIR)$(PREFIX)/share/doc/tidemill/
