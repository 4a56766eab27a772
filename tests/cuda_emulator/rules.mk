# rules.mk - the GPU's kernels without a GPU: emulated by fibers (g++ alone), interpreted and measured (nvcc).
#
#   build/tests/fakecuda/libkernels.so          every kernel of engine/cuda, fast, nothing checked
#   build/tests/fakecuda/libkernels-checked.so  the same with every access watched
#   build/tests/test_cuda_planted               planted faults, each of which must be found
#   build/tests/test_cuda_kernels_*             the real kernels against plain C in double precision
#   tests/cuda_emulator/test_ptx.py             the same launches through the PTX that nvcc made
#   tests/cuda_emulator/test_mutants.py         faults planted into copies of the real kernels
#   tests/cuda_gates.py                         what the compiler made of the kernels
# Not under sanitizers: fibers and foreign __tsan_* functions do not mix with them.
EMULATOR := tests/cuda_emulator
EMULATOR_C := machine collective copies report
# What the machine has: fmaf() is one instruction then, with the same result as libm's.
EMULATOR_ISA := $(if $(shell grep -m1 -o '\bfma\b' /proc/cpuinfo 2>/dev/null),-mfma)
EMULATOR_CFLAGS := -std=gnu17 -g -fno-strict-aliasing -ffp-contract=off -D_GNU_SOURCE -Iinclude -I. $(WARN) -fPIC \
	-fvisibility=hidden -MMD -MP
EMULATOR_CXXFLAGS := -std=gnu++17 -g -fno-strict-aliasing -ffp-contract=off -fno-exceptions -fno-rtti -D_GNU_SOURCE \
	-DKVD_EMULATE -Iinclude -I. -Wall -Wextra -Wno-unknown-pragmas -Wno-unused-parameter -Wno-missing-field-initializers \
	-Wno-unused-function -Wno-maybe-uninitialized -Werror -fPIC -fvisibility=hidden -MMD -MP $(EMULATOR_ISA)
EMULATOR_fast := -O2
# libtsan is not linked: shadow.c has the functions that gcc's instrumentation calls.
EMULATOR_checked := -O1 -DMACHINE_CHECKED -fsanitize=thread --param tsan-instrument-func-entry-exit=0 \
	-fsanitize=alignment,bounds,shift -fsanitize-undefined-trap-on-error -fno-tree-loop-distribute-patterns

ifeq ($(SAN),)
CUDA_CHECKS += $(O)/tests/test_cuda_planted
emulator_c = $(patsubst %,$(O)/emulator/$(1)/%.o,$(EMULATOR_C) $(if $(filter checked,$(1)),shadow))
emulator_cu = $(patsubst %.cu,$(O)/emulator/$(1)/%.o,$(2))

$(O)/emulator/fast/%.o: $(EMULATOR)/%.c
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(EMULATOR_CFLAGS) -O2 -c -o $@ $<
$(O)/emulator/checked/%.o: $(EMULATOR)/%.c
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(EMULATOR_CFLAGS) -O2 -DMACHINE_CHECKED -c -o $@ $<
$(O)/emulator/fast/%.o: %.cu
	$(call say,EMULATE,$<)mkdir -p $(@D) && g++ -x c++ $(EMULATOR_CXXFLAGS) $(EMULATOR_fast) -c -o $@ $<
$(O)/emulator/checked/%.o: %.cu
	$(call say,CHECK,$<)mkdir -p $(@D) && g++ -x c++ $(EMULATOR_CXXFLAGS) $(EMULATOR_checked) -c -o $@ $<
$(O)/emulator/%.ii: %.cu
	$(call say,CPP,$<)mkdir -p $(@D) && g++ -x c++ $(EMULATOR_CXXFLAGS) -E -MT $@ -MF $(@:.ii=.ii.d) -o $@ $<
$(O)/emulator/kernels.cc: $(EMULATOR)/table.py $(patsubst %.cu,$(O)/emulator/%.ii,$(KERNEL_SRC))
	$(Q)python3 $(EMULATOR)/table.py engine/cuda/args.h $(filter %.ii,$^) >$@.new && mv $@.new $@
$(O)/emulator/planted_table.cc: $(EMULATOR)/table.py $(O)/emulator/$(EMULATOR)/planted.ii
	$(Q)python3 $(EMULATOR)/table.py $(EMULATOR)/planted.h $(filter %.ii,$^) >$@.new && mv $@.new $@
$(O)/emulator/fast/%.o: $(O)/emulator/%.cc
	$(Q)g++ $(EMULATOR_CXXFLAGS) -O2 -c -o $@ $<
$(O)/emulator/checked/%.o: $(O)/emulator/%.cc
	$(Q)g++ $(EMULATOR_CXXFLAGS) -O2 -DMACHINE_CHECKED -c -o $@ $<

emulator_so = $(call say,LD,$@)mkdir -p $(@D) && gcc -shared -Wl,--no-undefined -o $@ $(filter %.o,$^) -lm -lpthread -ldl
ifneq ($(KERNEL_SRC),)
KERNEL_TESTS := $(patsubst $(EMULATOR)/test_%.c,$(O)/tests/test_cuda_%,$(wildcard $(EMULATOR)/test_kernels_*.c))
CUDA_CHECKS += $(KERNEL_TESTS) $(EMULATOR)/test_mutants.py $(EMULATOR)/test_ptx.py tests/cuda_gates.py
$(EMULATOR)/test_mutants.py: | $(KERNEL_TESTS)
$(EMULATOR)/test_ptx.py: | $(KERNEL_TESTS) $(PLUGIN)
tests/cuda_gates.py: | $(PLUGIN)
$(O)/tests/fakecuda/libkernels.so: $(call emulator_c,fast) $(call emulator_cu,fast,$(KERNEL_SRC)) $(O)/emulator/fast/kernels.o
	$(emulator_so)
$(O)/tests/fakecuda/libkernels-checked.so: $(call emulator_c,checked) $(call emulator_cu,checked,$(KERNEL_SRC)) \
		$(O)/emulator/checked/kernels.o
	$(emulator_so)
endif
emulator_test = $(call say,LD,$@)mkdir -p $(@D) && gcc -o $@ $(filter %.o,$^) $(CHECK_LIBS) -lm -lpthread -ldl
$(O)/tests/test_cuda_planted: $(call emulator_c,checked) $(call emulator_cu,checked,$(EMULATOR)/planted.cu) \
		$(O)/emulator/checked/planted_table.o $(O)/emulator/checked/test_planted.o
	$(emulator_test)
$(KERNEL_TESTS): $(O)/tests/test_cuda_%: $(call emulator_c,checked) $(call emulator_cu,checked,$(KERNEL_SRC)) \
		$(O)/emulator/checked/kernels.o $(O)/emulator/checked/cases.o $(O)/emulator/checked/test_%.o \
		$(call obj,engine/cuda/layout.c engine/cpu/formats.c)
	$(emulator_test)
-include $(wildcard $(O)/emulator/*.d $(O)/emulator/*/*.d $(O)/emulator/*/*/*/*.d $(O)/emulator/*/*/*.d)
endif

.PHONY: emulator-flags
emulator-flags:
	@echo $(filter-out -MMD -MP -Werror,$(EMULATOR_CXXFLAGS)) $(EMULATOR_checked)
