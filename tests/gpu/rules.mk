# rules.mk - make gpu-check: the probes of a real device (tests/gpu/gpu_check.py says what they ask).
#
# Everything is built here or on the machine with the device, whichever has the compilers: a carried tree with its
# build/ needs neither there (`python3 tests/gpu/gpu_check.py`).
GPU_PROBES := $(addprefix $(O)/tests/,gpu_quiet gpu_lessons gpu_bench)
GPU_FATBIN := $(if $(NVCC),$(O)/obj/tests/gpu/kernels.fatbin)
GPU_LIBS := $(call obj,tests/gpu/gpu.c $(CUDA_SRC))
$(O)/tests/gpu_quiet $(O)/tests/gpu_lessons: $(O)/tests/%: $(O)/obj/tests/gpu/%.o $(GPU_LIBS) | $(GPU_FATBIN)
	$(link)
# The engine's own launches.
$(O)/tests/gpu_bench: $(O)/obj/tests/gpu/gpu_bench.o $(GPU_LIBS) \
		$(if $(FATBINS),$(call obj,engine/cuda/device.c) $(O)/obj/engine/cuda/images.o) | $(GPU_FATBIN)
	$(link)
$(O)/tests/fakecuda/libprobes.so: $(O)/obj/tests/gpu/emulated.o
	$(call say,LD,$@)mkdir -p $(@D) && $(CC) -shared -o $@ $^

GPU_CHECKS := $(if $(FATBINS),$(GPU_PROBES) $(O)/tests/test_cuda_forward $(O)/tests/test_cuda_engine)
.PHONY: gpu-check
gpu-check: ## ask and test this machine's GPU, within 8 minutes; build/gpu-report.md, build/gpu.json (GPU_ARGS=--double: the double)
	@$(MAKE) --no-print-directory all tools $(GPU_CHECKS) $(INTEGS) $(if $(CUDA_HEADER),$(FAKECUDA) $(FAKENVML) \
		$(O)/tests/fakecuda/libprobes.so $(FAKE_KERNELS))
	@python3 tests/gpu/gpu_check.py $(GPU_ARGS)
