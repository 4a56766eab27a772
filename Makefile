# kvd - one daemon owns all KV-cache pages of a device.  `make help` lists the targets.
#
# The tree decides what is built, so that a new file needs no line here:
#   kvd/core/*.c          pure memory core           -> build/libkvdcore.a
#   kvd/*.c               the daemon's shell         -> build/libkvdshell.a  (main.c -> build/bin/kvd)
#   kvd/cuda/*.c          the GPU's driver, loaded at run time -> in the shell's archive and in libkvd
#   kvd/mover/*.c         the disposable byte mover  -> build/bin/kvd-mover  (main.c; the rest in the shell's archive)
#   engine/*.c engine/*/  the engine                 -> build/libkvengine.a  (main.c -> build/bin/kvengine)
#   client/*.c            libkvd                     -> build/lib/libkvd.so.0, build/libkvd.a
#   client/kvrun/*.c, client/kvctl/*.c               -> build/bin/kvrun, build/bin/kvctl (main.c; the rest in build/libkvcli.a)
#   docs/examples/X.c     foreign programs           -> build/tests/example_X, linked with libkvd.so alone
#   tests/unit/test_X.c   one Check program each     -> build/tests/test_X
#   tests/fuzz/fuzz_X.c   one libFuzzer entry each   -> build/fuzz/X (clang) and build/fuzz/replay_X (any compiler)
#   tests/tools/X.c       helper programs of tests   -> build/tests/X
#   tests/sim/*.c         the simulator, with the core compiled to tell of every store -> build/tests/sim
#   tests/sim/alone_X.c   its other programs         -> build/tests/sim_X
#   tests/fakecuda/*.c    a strict double of libcuda -> build/tests/fakecuda/libcuda.so.1 (where cuda.h is; test_X.c: its tests)
#   tests/preload/X.c     LD_PRELOAD libraries       -> build/tests/X.so
# A file named *_avx2.c or *_avx512.c is compiled for that instruction set alone and chosen at run time.

SAN ?=
O := build$(if $(SAN),/$(SAN))
CC := $(if $(filter fuzz,$(SAN)),clang,gcc)
PKGS := liburing jansson libpcre2-8 libutf8proc inih libxxhash libsystemd
WARN := -Wall -Wextra -Wshadow -Wvla -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
	-Wno-unused-parameter -Wno-missing-field-initializers -Werror
# Never contract: a multiply and an add may fuse only where the kernel says fma (bit-identity).
BASE_CFLAGS := -std=gnu17 -g -O2 -fno-strict-aliasing -ffp-contract=off -fstack-protector-strong \
	-D_GNU_SOURCE -D_FORTIFY_SOURCE=2 -Iinclude -I. $(WARN)
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -U_FORTIFY_SOURCE
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=undefined
# The fences stand between processes, which TSan cannot see anyway; within one, the acquires and releases order.
SAN_tsan := -fsanitize=thread -Wno-tsan
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -U_FORTIFY_SOURCE
SANFLAGS := $(if $(SAN),-DLIMIT_SLOW=10u $(or $(SAN_$(SAN)),$(error SAN must be asan, ubsan, tsan or fuzz)))
# Asked once; where packages are still missing, `make demo` and `make check` install them and call make again.
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
CFLAGS_ALL = $(BASE_CFLAGS) $(CFLAGS) $(SANFLAGS) -fPIC -fvisibility=hidden -MMD -MP $(PKG_CFLAGS)
# The spill file's cipher; what does not spill does not link it.
CRYPTO_LIBS := -Wl,--as-needed $(shell pkg-config --libs libcrypto 2>/dev/null)
LDLIBS_ALL = $(PKG_LIBS) $(CRYPTO_LIBS) -lm -lpthread
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2);)

CORE_SRC   := $(wildcard kvd/core/*.c)
# The GPU's driver, loaded at run time: in every program that asks it.
CUDA_SRC   := $(wildcard kvd/cuda/*.c)
SHELL_SRC  := $(filter-out kvd/main.c,$(wildcard kvd/*.c)) $(filter-out kvd/mover/main.c,$(wildcard kvd/mover/*.c)) $(CUDA_SRC)
ENGINE_SRC := $(filter-out engine/main.c engine/cuda/%,$(wildcard engine/*.c engine/*/*.c))
KERNEL_SRC := $(wildcard engine/cuda/*.cu)
CLIENT_SRC := $(wildcard client/*.c) $(CUDA_SRC)
CLI_SRC    := $(filter-out %/main.c,$(wildcard client/kvrun/*.c client/kvctl/*.c))
TEST_LIB_SRC := $(wildcard tests/lib/*.c)
UNIT_SRC   := $(wildcard tests/unit/test_*.c)
INTEG_SRC  := $(wildcard tests/integration/test_*.c)
TOOL_SRC   := $(wildcard tests/tools/*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
SIM_SRC    := $(filter-out tests/sim/main.c $(wildcard tests/sim/alone_*.c),$(wildcard tests/sim/*.c))
obj = $(patsubst %.c,$(O)/obj/%.o,$(1))

BINS := $(if $(wildcard kvd/main.c),$(O)/bin/kvd) $(if $(wildcard kvd/mover/main.c),$(O)/bin/kvd-mover) \
	$(if $(wildcard engine/main.c),$(O)/bin/kvengine) \
	$(if $(wildcard client/kvrun/*.c),$(O)/bin/kvrun) $(if $(wildcard client/kvctl/*.c),$(O)/bin/kvctl)
SHARED := $(if $(CLIENT_SRC),$(O)/lib/libkvd.so)
# Kernels for sm_80, sm_90 and, as PTX, for what comes after; not under sanitizers, which see nothing of them.
NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
FATBINS := $(if $(NVCC),$(if $(SAN),,$(patsubst %.cu,$(O)/obj/%.fatbin,$(KERNEL_SRC))))
PLUGIN := $(if $(FATBINS),$(O)/lib/libkvd-cuda.so)
EXAMPLES := $(patsubst docs/examples/%.c,$(O)/tests/example_%,$(wildcard docs/examples/*.c))
UNITS := $(patsubst tests/unit/%.c,$(O)/tests/%,$(UNIT_SRC))
INTEGS := $(patsubst tests/integration/%.c,$(O)/tests/%,$(INTEG_SRC))
TOOLS := $(patsubst tests/tools/%.c,$(O)/tests/%,$(TOOL_SRC))
REPLAYS := $(patsubst tests/fuzz/fuzz_%.c,$(O)/fuzz/replay_%,$(FUZZ_SRC))

.PHONY: all help clean
all: $(BINS) $(SHARED) $(PLUGIN) ## build everything (binaries land in build/bin)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

clean: ## remove build/
	rm -rf build

# Kernels are one large function each: under a sanitizer -O3 would take minutes for nothing.
KERNEL_OPT := $(if $(SAN),-O1,-O3)
# instruction-set files; -mprefer-vector-width keeps gcc from guessing narrower vectors
$(O)/obj/%_avx2.o:   ISA := -mavx2 -mfma -mf16c $(KERNEL_OPT)
$(O)/obj/%_avx512.o: ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mprefer-vector-width=512 $(KERNEL_OPT)
$(O)/obj/%_portable.o: ISA := $(KERNEL_OPT)
# The memory core is many small steps: inlined further they take an eighth less time.
$(O)/obj/kvd/core/%.o: ISA := $(if $(SAN),,-O3)

# The fuzzers' parsers never compute: the kernels they link are gcc's, as in the product (clang 14 knows not all it asks).
ifeq ($(SAN),fuzz)
$(O)/obj/engine/cpu/%.o: CC := gcc
$(O)/obj/engine/cpu/%.o: SANFLAGS :=
$(O)/obj/engine/cpu/%.o: KERNEL_OPT := -O3
endif

$(O)/obj/%.o: %.c
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) $(ISA) -c -o $@ $<

# PTX, cubins and what ptxas says stay in kept/, for tests/cuda_gates.py and the PTX interpreter.
# No contraction of a multiply and an add, as on the CPU; a kernel that spills, or keeps anything in local memory,
# is an error.
NVCC_FLAGS := -std=c++17 -no-compress -O3 -fmad=false -I. -Xptxas -Werror,-warn-spills,-warn-lmem-usage \
	-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
.PHONY: cuda
cuda: $(PLUGIN) ## build the GPU's engine backend (needs nvcc, no device)
$(O)/obj/%.fatbin: %.cu
	$(call say,NVCC,$<)mkdir -p $(@D)/kept && $(NVCC) $(NVCC_FLAGS) -Xptxas -v --keep --keep-dir $(@D)/kept \
		-MD -MP -MF $(@:.fatbin=.d) -fatbin -o $@ $< >$(@D)/kept/$(*F).log 2>&1 || { cat $(@D)/kept/$(*F).log; exit 1; }

$(O)/obj/engine/cuda/images.o: engine/cuda/images.S $(FATBINS)
	$(call say,AS,$<)$(CC) -Wa,-I$(@D) -c -o $@ $<
$(O)/lib/libkvd-cuda.so: $(call obj,$(wildcard engine/cuda/*.c) engine/cpu/formats.c $(CUDA_SRC)) $(O)/obj/engine/cuda/images.o
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) $(LDFLAGS) -shared -Wl,-soname,libkvd-cuda.so -Wl,--no-undefined -o $@ $^ -lm -ldl

ar = $(call say,AR,$@)rm -f $@ && ar rcs $@ $^
$(O)/libkvdcore.a:  $(call obj,$(CORE_SRC));   $(ar)
$(O)/libkvdshell.a: $(call obj,$(SHELL_SRC));  $(ar)
$(O)/libkvengine.a: $(call obj,$(ENGINE_SRC)); $(ar)
$(O)/libkvd.a:      $(call obj,$(CLIENT_SRC)); $(ar)
$(O)/libkvcli.a:    $(call obj,$(CLI_SRC)); $(ar)
$(O)/libtest.a:     $(call obj,$(TEST_LIB_SRC)); $(ar)

link = $(call say,LD,$@)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS_ALL) $(EXTRA_LIBS)
$(O)/bin/kvd:       $(call obj,kvd/main.c) $(O)/libkvdshell.a $(O)/libkvdcore.a; $(link)
$(O)/bin/kvd-mover: $(call obj,kvd/mover/main.c) $(O)/libkvdshell.a; $(link)
$(O)/bin/kvengine:  $(call obj,engine/main.c) $(O)/libkvengine.a $(O)/libkvd.a; $(link)
$(O)/bin/kvrun:     $(call obj,client/kvrun/main.c) $(O)/libkvcli.a $(O)/libkvd.a; $(link)
$(O)/bin/kvctl:     $(call obj,client/kvctl/main.c) $(O)/libkvcli.a $(O)/libkvd.a; $(link)
$(O)/lib/libkvd.so.0: $(call obj,$(CLIENT_SRC)) client/libkvd.map
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,libkvd.so.0 \
		-Wl,--version-script=client/libkvd.map -Wl,--no-undefined -o $@ $(filter %.o,$^) -lm
$(O)/lib/libkvd.so: $(O)/lib/libkvd.so.0
	$(Q)ln -sf libkvd.so.0 $@
$(O)/tests/example_%: docs/examples/%.c $(O)/lib/libkvd.so
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) -std=gnu17 -g -O2 $(WARN) $(SANFLAGS) -Iinclude -o $@ $< -L$(O)/lib -lkvd '-Wl,-rpath,$$ORIGIN/../lib'
ALL_LIBS := $(O)/libtest.a $(O)/libkvcli.a $(O)/libkvdshell.a $(O)/libkvdcore.a $(O)/libkvengine.a $(O)/libkvd.a
CHECK_LIBS := $(shell pkg-config --libs check 2>/dev/null)
$(UNITS) $(INTEGS) $(O)/tests/bench_tenants: EXTRA_LIBS = $(CHECK_LIBS)
$(UNITS): $(O)/tests/%: $(O)/obj/tests/unit/%.o $(ALL_LIBS); $(link)
$(INTEGS): $(O)/tests/%: $(O)/obj/tests/integration/%.o $(ALL_LIBS); $(link)
$(O)/tests/test_examples: | $(EXAMPLES)
$(O)/tests/%.so: tests/preload/%.c
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) $(BASE_CFLAGS) -U_FORTIFY_SOURCE -fPIC -shared -fvisibility=hidden -o $@ $< -ldl
$(O)/tests/test_nth_failure: | $(EXAMPLES) $(O)/tests/nth_failure.so
$(O)/tests/test_adopt_calls: | $(O)/tests/nth_failure.so
$(TOOLS): $(O)/tests/%: $(O)/obj/tests/tools/%.o $(ALL_LIBS); $(link)
# The double of the CUDA driver, and what is tested on it: wants the toolkit's header, no device.
CUDA_HOME ?= /usr/local/cuda
CUDA_HEADER := $(wildcard $(CUDA_HOME)/include/cuda.h)
FAKE_TESTS := $(patsubst tests/fakecuda/%.c,$(O)/tests/%,$(wildcard tests/fakecuda/test_*.c))
FAKE_SRC := $(filter-out tests/fakecuda/test_%.c,$(wildcard tests/fakecuda/*.c))
FAKECUDA := $(O)/tests/fakecuda/libcuda.so.1
FAKENVML := $(O)/tests/fakecuda/libnvidia-ml.so.1
$(FAKENVML): $(call obj,tests/fakecuda/nvml/nvml.c tests/fakecuda/slot.c)
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,libnvidia-ml.so.1 -o $@ $^
# What launches call, and the cubins whose parameters they have.
FAKE_KERNELS := $(if $(SAN),,$(O)/tests/fakecuda/libkernels.so $(FATBINS))
CUDA_CHECKS := $(if $(CUDA_HEADER),$(FAKE_TESTS),tests/fakecuda/skipped.sh)
$(O)/obj/tests/fakecuda/%.o: ISA := -isystem $(CUDA_HOME)/include
$(FAKECUDA): $(call obj,$(FAKE_SRC))
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,libcuda.so.1 -o $@ $^ -ldl -lpthread
$(O)/tests/test_driver_rules: $(call obj,$(wildcard tests/fakecuda/rules/*.c))
$(FAKE_TESTS): EXTRA_LIBS = $(CHECK_LIBS) $(FAKECUDA) '-Wl,-rpath,$$ORIGIN/fakecuda'
$(FAKE_TESTS): $(O)/tests/%: $(O)/obj/tests/fakecuda/%.o $(ALL_LIBS) | $(FAKECUDA) $(FAKENVML) $(FAKE_KERNELS); $(link)
$(O)/tests/test_nth_driver: | $(PLUGIN)
$(O)/tests/test_cuda_forward: | $(if $(CUDA_HEADER),$(PLUGIN) $(FAKECUDA) $(FAKE_KERNELS))
$(O)/tests/test_cuda_engine: | $(BINS) $(PLUGIN)
include tests/cuda_emulator/rules.mk
include tests/gpu/rules.mk
# The simulator's core calls core_book_hook() before every store to the book.
SIM_CORE := $(patsubst %.c,$(O)/obj/sim/%.o,$(CORE_SRC))
SIM_WORLD := $(call obj,$(wildcard tests/lib/core_world*.c))
SIMS := $(O)/tests/sim $(patsubst tests/sim/alone_%.c,$(O)/tests/sim_%,$(wildcard tests/sim/alone_*.c))
$(O)/obj/sim/%.o: %.c
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -DCORE_HOOK -c -o $@ $<
$(O)/libkvdcore-sim.a: $(SIM_CORE); $(ar)
$(O)/tests/sim: $(call obj,tests/sim/main.c $(SIM_SRC)) $(SIM_WORLD) $(O)/libkvdcore-sim.a; $(link)
$(O)/tests/sim_%: $(O)/obj/tests/sim/alone_%.o $(call obj,$(SIM_SRC)) $(SIM_WORLD) $(O)/libkvdcore-sim.a; $(link)
# The core's bench on the core that tells of every store, to count them.
$(O)/tests/bench_core_steps: $(O)/obj/tests/tools/bench_core.o $(O)/libkvdcore-sim.a; $(link)
# Functions of the core that alone_mutants.c replaces by broken ones.
WRAPPED := core_fsck core_next_action job_moved frame_retire retire_stamped engine_hangup seq_copied \
	share_moved spill_read claim_find page_may_share page_serves node_find_or_make hold_drop hold_take \
	frame_take extent_assign act_extent promise_kept promise_break_all lookup_take wake_all core_fits \
	act_complete tenant_charge pool_pages act_row seq_release journal_rollback floor_covers
$(O)/tests/sim_mutants: LDFLAGS += $(foreach f,$(WRAPPED),-Wl,--wrap=$(f))
$(O)/tests/sim_noninterference: LDFLAGS += -Wl,--wrap=claim_complete
$(O)/fuzz/replay_%: $(O)/obj/tests/fuzz/fuzz_%.o $(O)/obj/tests/fuzz/replay.o $(ALL_LIBS); $(link)
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,$(O)/fuzz/%,$(FUZZ_SRC))
$(FUZZERS): $(O)/fuzz/%: $(O)/obj/tests/fuzz/fuzz_%.o $(ALL_LIBS)
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $(filter %.o,$^) \
		-Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS_ALL)
.SECONDARY:

.PHONY: units tools check check-run check-san demo serve model bench sim
units: $(UNITS) $(EXAMPLES) ## build the unit tests
tools: $(TOOLS)

check: ## install what is missing, build, run all tests
	@tests/setup.sh $(if $(NVCC),python3-numpy)
	@tests/setup.sh spin || echo "tests/models will be skipped"
	@tests/fetch_model.sh >/dev/null || echo "tests of the real model will be skipped"
	@$(MAKE) --no-print-directory check-run

# These need every processor for themselves: threads that spin, and fences between two of them.
ALONE := $(filter %/test_fences %/test_invariance %/test_wait,$(UNITS))
check-run: $(BINS) $(SHARED) $(EXAMPLES) $(TOOLS) $(UNITS) $(INTEGS) $(REPLAYS) $(SIMS) $(CUDA_CHECKS)
	@tests/run $(O) --together tests/tidy.sh $(if $(SAN),,tests/models/test_models) $(filter-out $(ALONE),$(UNITS)) \
		$(SIMS) $(REPLAYS) $(CUDA_CHECKS) --alone $(ALONE) $(INTEGS) --no-uring $(INTEGS)

# All shapes, formats, mutants and devices of the kernels, every driver call failing, then the integration tests with
# --device cuda.  Emulated kernels are slow: hours, on a machine that has nothing else to do.
.PHONY: check-cuda
check-cuda: ## the GPU's kernels and host code without a GPU, at length; the integration tests on the driver's double
	@tests/setup.sh
	@$(MAKE) --no-print-directory all tools $(CUDA_CHECKS) $(INTEGS) $(EXAMPLES)
	@KVD_CUDA_LONG=1 KVD_NTH_ALL=1 TEST_TIMEOUT=20000 tests/run $(O) $(CUDA_CHECKS) --cuda $(INTEGS)

check-san: ## the tests under ASan and UBSan
	@tests/setup.sh
	@rm -f build/asan/logs/total build/ubsan/logs/total; failed=0; \
	for san in asan ubsan; do $(MAKE) --no-print-directory SAN=$$san check-run || failed=1; done; \
	for san in asan ubsan; do echo "$$san: $$(cat build/$$san/logs/total 2>/dev/null || echo not run)"; done; exit $$failed

sim: $(O)/tests/sim ## simulate the memory core: SEED=N repeats one, TRACE=FILE replays, SIM_ARGS=
	@$(O)/tests/sim --commit $$(git rev-parse --short HEAD 2>/dev/null || echo none) \
		$(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace $(TRACE)) $(SIM_ARGS)

# Kills at named points of the protocol; KILLS=N.
KILLS ?= 1000
.PHONY: chaos
chaos: ## SIGKILL engines, mover and kvd KILLS times under load
	@tests/setup.sh
	@$(MAKE) --no-print-directory all $(O)/tests/test_chaos
	@KVD_TEST_CHAOS=$(KILLS) $(O)/tests/test_chaos

demo: ## install what is missing, build, run the main job on a real model
	@tests/setup.sh
	@$(MAKE) --no-print-directory all tools
	@$(O)/tests/demo

serve: ## the demo's host, left running until Ctrl-C
	@tests/setup.sh
	@$(MAKE) --no-print-directory all tools
	@$(O)/tests/demo --serve

bench: ## engine against llama.cpp, core and daemon against their floors; rows in build/bench.json
	@tests/setup.sh python3-venv cmake
	@$(MAKE) --no-print-directory all tools $(O)/tests/bench_core_steps
	@python3 tests/bench/run.py $(BENCH_ARGS)
	@python3 tests/bench/core.py
	@python3 tests/bench/spill.py

model: ## fetch the real model once; prints its path
	@tests/fetch_model.sh

# Each target runs for FUZZ_SECONDS from its corpus; a finding stays in build/fuzz/X.
FUZZ_SECONDS ?= 20
.PHONY: fuzz fuzz-run
fuzz: ## run each fuzz target for FUZZ_SECONDS (clang)
	@tests/setup.sh clang libclang-rt-dev
	@$(MAKE) --no-print-directory SAN=fuzz fuzz-run
fuzz-run: $(FUZZERS)
	@for f in $(FUZZERS); do n=$$(basename $$f); mkdir -p build/fuzz/$$n; echo "fuzz $$n"; \
		$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -artifact_prefix=build/fuzz/$$n/ \
		build/fuzz/$$n tests/fuzz/corpus/$$n >build/fuzz/$$n.log 2>&1 || { tail -20 build/fuzz/$$n.log; exit 1; }; done

# ---- installation: DESTDIR and PREFIX as everywhere ----
# With PREFIX=/usr units, users and directories go where the distribution keeps them (pkg-config), else below PREFIX:
# systemd looks into /usr/local/lib, too.  kvd.conf goes to SYSCONFDIR, which is /etc for both, and is never overwritten.
PREFIX ?= /usr/local
VERSION := $(shell sed -n 's/^.define KVD_VERSION "\(.*\)"/\1/p' include/kvd/version.h 2>/dev/null)
SYSCONFDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)
unit_dir = $(or $(if $(filter /usr,$(PREFIX)),$(shell pkg-config --variable=$(1) systemd 2>/dev/null)),$(PREFIX)/lib/$(2))
UNITDIR ?= $(call unit_dir,systemdsystemunitdir,systemd/system)
SYSUSERSDIR ?= $(call unit_dir,sysusersdir,sysusers.d)
TMPFILESDIR ?= $(call unit_dir,tmpfilesdir,tmpfiles.d)
MANDIR ?= $(PREFIX)/share/man
UNITS_IN := kvd.service kvd-engine@.service
UNITS_AS_IS := kvd.socket kvd.slice
.PHONY: install uninstall
install: all ## install programs, library, headers, units, manual (DESTDIR=, PREFIX=)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include/kvd $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 0755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 0644 include/kvd/*.h include/kvd/*.def $(DESTDIR)$(PREFIX)/include/kvd
	install -m 0755 $(O)/lib/libkvd.so.0 $(DESTDIR)$(PREFIX)/lib
	ln -sf libkvd.so.0 $(DESTDIR)$(PREFIX)/lib/libkvd.so
	$(if $(PLUGIN),install -m 0755 $(PLUGIN) $(DESTDIR)$(PREFIX)/lib)
	sed -e 's,@PREFIX@,$(PREFIX),; s,@LIBDIR@,$(PREFIX)/lib,; s,@VERSION@,$(VERSION),' client/libkvd.pc.in \
		>$(DESTDIR)$(PREFIX)/lib/pkgconfig/libkvd.pc
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(TMPFILESDIR) $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf.d \
		$(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	for unit in $(UNITS_IN); do sed 's,@BINDIR@,$(PREFIX)/bin,' systemd/$$unit.in >$(DESTDIR)$(UNITDIR)/$$unit && \
		chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -m 0644 $(addprefix systemd/,$(UNITS_AS_IS)) $(DESTDIR)$(UNITDIR)
	install -m 0644 systemd/kvd.sysusers $(DESTDIR)$(SYSUSERSDIR)/kvd.conf
	install -m 0644 systemd/kvd.tmpfiles $(DESTDIR)$(TMPFILESDIR)/kvd.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf || install -m 0644 systemd/kvd.conf $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf
	install -m 0644 man/*.1 $(DESTDIR)$(MANDIR)/man1
	install -m 0644 man/*.5 $(DESTDIR)$(MANDIR)/man5
	install -m 0644 man/*.8 $(DESTDIR)$(MANDIR)/man8
uninstall: ## remove what install put there; a kvd.conf that was changed stays
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(notdir $(BINS)))
	rm -rf $(DESTDIR)$(PREFIX)/include/kvd
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/,libkvd.so libkvd.so.0 libkvd-cuda.so pkgconfig/libkvd.pc)
	rm -f $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS_IN) $(UNITS_AS_IS)) $(DESTDIR)$(SYSUSERSDIR)/kvd.conf \
		$(DESTDIR)$(TMPFILESDIR)/kvd.conf
	! cmp -s systemd/kvd.conf $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf || rm -f $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf
	rmdir $(DESTDIR)$(SYSCONFDIR)/kvd/kvd.conf.d $(DESTDIR)$(SYSCONFDIR)/kvd 2>/dev/null || true
	rm -f $(foreach s,1 5 8,$(addprefix $(DESTDIR)$(MANDIR)/man$(s)/,$(notdir $(wildcard man/*.$(s)))))

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
