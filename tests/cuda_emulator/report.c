/* report.c - what the emulator found: counts by kind, and the first sentence.
 *
 * Reports are made on a fiber's small stack or in a signal handler, so that the place in the source is
 * looked up only when somebody asks for the sentence. */
#include "tests/cuda_emulator/machine.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static unsigned counts[EMULATED_N_FAULTS];
static char first[1024];
static const void *first_pc;

const char *emulated_fault_name(enum emulated_fault fault)
{
	static const char *const names[EMULATED_N_FAULTS] = {
		"nothing", "race", "race between blocks", "out of bounds", "unset memory read",
		"asynchronous copy not waited for", "asynchronous copy lost", "barrier", "lanes", "alignment",
		"undefined behaviour", "before port_grid_wait()", "address",
	};
	return fault < EMULATED_N_FAULTS ? names[fault] : "unknown";
}

const char *report_meeting_name(enum machine_meeting meeting)
{
	static const char *const names[] = {
		"nothing", "the block's barrier", "__syncwarp", "a shuffle", "a vote", "ldmatrix",
		"ldmatrix (transposed)", "mma bf16", "mma f16", "mma s8 k32", "mma s8 k16", "its end",
	};
	return names[meeting];
}

void report_add(enum emulated_fault fault, const void *pc, const char *format, ...)
{
	char text[600];
	va_list args;

	counts[EMULATED_NONE]++;
	counts[fault]++;
	if (first[0])
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	first_pc = pc;
	snprintf(first, sizeof(first), "%s, block %u,%u,%u, thread %u: %s: %s", machine_kernel, machine_block_index.x,
		 machine_block_index.y, machine_block_index.z, machine_lane ? machine_lane->thread : 0,
		 emulated_fault_name(fault), text);
}

unsigned emulated_found(enum emulated_fault fault)
{
	return fault < EMULATED_N_FAULTS ? counts[fault] : 0;
}

void emulated_forget(void)
{
	memset(counts, 0, sizeof(counts));
	first[0] = '\0';
	first_pc = NULL;
}

/* Append the source line of the first report, by addr2line where it is installed. */
static void first_place(void)
{
	char command[700], line[200];
	size_t used = strlen(first);
	Dl_info info;
	FILE *pipe;

	if (!first_pc || !dladdr(first_pc, &info) || !info.dli_fname)
		return;
	snprintf(command, sizeof(command), "addr2line -s -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
		 (size_t)((const char *)first_pc - (const char *)info.dli_fbase) - 1);
	first_pc = NULL;
	pipe = popen(command, "r");
	if (!pipe)
		return;
	while (fgets(line, sizeof(line), pipe))
		if (strncmp(line, "port_host.h", 11) != 0 && strncmp(line, "device.h", 8) != 0) {
			snprintf(first + used, sizeof(first) - used, " (%.*s)", (int)strcspn(line, " \n"), line);
			break;
		}
	pclose(pipe);
}

const char *emulated_first(void)
{
	first_place();
	return first;
}
