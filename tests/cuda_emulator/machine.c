/* machine.c - launches: one fiber per CUDA thread, and who runs next.
 *
 * Owns the fibers' stacks, the block's shared memory and the lanes' states.  A lane is ready, rests at a
 * meeting (a barrier of the block, or an operation of its warp), or has ended.  It changes places with
 * another lane only when it rests, ends, or (other orders than forward) when a meeting is complete.
 * When nobody is ready although somebody rests, the meeting can never come about: that is reported and
 * the launch ends.  Signals that the kernel's own code raises end the launch, too.
 *
 * Runs in the thread that launches; a lock keeps others out.  Never runs two lanes at a time: a race is
 * found by shadow.c from what is not ordered, not by luck. */
#include "tests/cuda_emulator/machine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifndef __x86_64__
#error "the emulator's change of fibers is written for x86-64"
#endif

#define GUARD_BYTES 4096u

struct machine_lane *machine_lane;
struct emulated_dim machine_grid_dim, machine_block_dim, machine_block_index;
uint8_t *machine_shared;
uint32_t machine_shared_bytes, machine_n_threads, machine_n_warps, machine_block_number;
struct machine_warp machine_warps[MACHINE_WARPS_MAX];
const char *machine_kernel = "";

static struct machine_lane lanes[MACHINE_THREADS_MAX];
static uint8_t *stacks;
static void *main_stack_pointer, *nowhere;
static uint32_t warps_ready;       /* warps with a lane that is ready */
static uint32_t n_ended, n_at_barrier;
static struct machine_site barrier_site;
static void (*kernel_body)(const void *);
static const void *kernel_params;
static bool abandoned;
static enum emulated_order order;
static uint64_t random_state = 1, order_seed = 1;
static pthread_mutex_t launching = PTHREAD_MUTEX_INITIALIZER;

/* Save the callee's registers and the stack pointer, take another's. */
void machine_switch(void **save, void *load);
__asm__(".text\n.globl machine_switch\n.hidden machine_switch\n.type machine_switch, @function\n"
	"machine_switch:\n"
	"\tpushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n"
	"\tmovq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n"
	"\tpopq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret\n"
	".size machine_switch, .-machine_switch\n");

void emulated_set_order(enum emulated_order o, uint64_t seed)
{
	order = o;
	order_seed = seed * 2 + 1;
}

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) * n >> 32);
}

/* One set bit of a mask that has one, by the order. */
static inline uint32_t pick(uint32_t mask)
{
	uint32_t skip;

	if (order == EMULATED_FORWARD)
		return (uint32_t)__builtin_ctz(mask);
	if (order == EMULATED_REVERSE)
		return 31u - (uint32_t)__builtin_clz(mask);
	for (skip = random_below((uint32_t)__builtin_popcount(mask)); skip > 0; skip--)
		mask &= mask - 1;
	return (uint32_t)__builtin_ctz(mask);
}

void machine_abandon(void)
{
	abandoned = true;
	machine_lane = NULL;
	machine_switch(&nowhere, main_stack_pointer);
	__builtin_unreachable();
}

static const char *state_of(const struct machine_lane *l, char *text, size_t size)
{
	if (!(l->warp->alive >> l->lane & 1))
		snprintf(text, size, "thread %u has ended", l->thread);
	else
		snprintf(text, size, "thread %u waits in %s at %s:%u", l->thread, report_meeting_name(l->meeting),
			 l->site.file, l->site.line);
	return text;
}

/* Nobody can go on: say who waits and who does not come. */
static void __attribute__((noreturn)) stuck(void)
{
	struct machine_lane *waits = NULL, *other = NULL;
	char a[200], b[200];

	for (uint32_t i = 0; i < machine_n_threads; i++) {
		struct machine_lane *l = &lanes[i];

		if (!(l->warp->alive >> l->lane & 1))
			continue;
		if (!waits || (waits->meeting == MEET_BARRIER && l->meeting != MEET_BARRIER))
			waits = l;
	}
	for (uint32_t i = 0; i < machine_n_threads; i++) {
		struct machine_lane *l = &lanes[i];
		bool ended = !(l->warp->alive >> l->lane & 1);

		if (waits->meeting == MEET_BARRIER ? ended || l->meeting != MEET_BARRIER :
		    l->warp == waits->warp && waits->mask >> l->lane & 1 && (ended || l->meeting != waits->meeting)) {
			other = l;
			break;
		}
	}
	report_add(waits->meeting == MEET_BARRIER ? EMULATED_BARRIER : EMULATED_LANES, NULL, "%s; %s",
		   state_of(waits, a, sizeof(a)), other ? state_of(other, b, sizeof(b)) : "nobody else comes");
	machine_abandon();
}

static inline void go_on_with(struct machine_lane *self, void **save)
{
	struct machine_warp *w = self->warp;
	struct machine_lane *next;

	if (!w->ready || order == EMULATED_SEEDED) {
		if (!warps_ready)
			stuck();
		w = &machine_warps[pick(warps_ready)];
	}
	next = &w->lanes[pick(w->ready)];
	if (next == self)
		return;
	machine_lane = next;
	machine_switch(save, next->stack_pointer);
}

static inline void not_ready(struct machine_lane *l)
{
	l->warp->ready &= ~(1u << l->lane);
	if (!l->warp->ready)
		warps_ready &= ~(1u << l->warp->number);
}

/* The running lane rests, or gives way; it goes on when somebody switches back to it. */
static inline void give_way(struct machine_lane *self)
{
	go_on_with(self, &self->stack_pointer);
}

void machine_barrier(struct machine_site site)
{
	struct machine_lane *self = machine_lane;

	if (n_at_barrier == 0)
		barrier_site = site;
	else if (site.line != barrier_site.line || strcmp(site.file, barrier_site.file) != 0) {
		report_add(EMULATED_BARRIER, NULL, "thread %u is at the barrier %s:%u while others wait at %s:%u",
			   self->thread, site.file, site.line, barrier_site.file, barrier_site.line);
		machine_abandon();
	}
	self->meeting = MEET_BARRIER;
	self->site = site;
	if (++n_at_barrier < machine_n_threads) {
		not_ready(self);
		give_way(self);
		return;
	}
	n_at_barrier = 0;
	for (uint32_t i = 0; i < machine_n_warps; i++)
		machine_warps[i].ready = machine_warps[i].alive;
	warps_ready = machine_n_warps == 32 ? ~0u : (1u << machine_n_warps) - 1;
	if (MACHINE_IS_CHECKED)
		shadow_barrier_passed();
	if (order != EMULATED_FORWARD)
		give_way(self);
}

static void check_meeting(const struct machine_lane *self, enum machine_meeting meeting, uint32_t mask,
			  struct machine_site site)
{
	const struct machine_warp *w = self->warp;
	const char *name = report_meeting_name(meeting);
	const struct machine_lane *first;
	char text[200];

	if (!(mask >> self->lane & 1)) {
		report_add(EMULATED_LANES, NULL, "thread %u calls %s at %s:%u with mask %08x that lacks its own lane",
			   self->thread, name, site.file, site.line, mask);
	} else if (mask & ~w->alive) {
		report_add(EMULATED_LANES, NULL,
			   "%s at %s:%u with mask %08x: lane %d of warp %u has ended or never was",
			   name, site.file, site.line, mask, __builtin_ctz(mask & ~w->alive),
			   w->number);
	} else if (w->arrived & mask) {
		first = &w->lanes[__builtin_ctz(w->arrived & mask)];
		if (first->meeting == meeting && first->mask == mask && first->site.line == site.line)
			return;
		report_add(EMULATED_LANES, NULL, "thread %u calls %s at %s:%u with mask %08x while %s with mask %08x",
			   self->thread, name, site.file, site.line, mask, state_of(first, text, sizeof(text)),
			   first->mask);
	} else {
		return;
	}
	machine_abandon();
}

void machine_meet(enum machine_meeting meeting, uint32_t mask, struct machine_site site)
{
	struct machine_lane *self = machine_lane;
	struct machine_warp *w = self->warp;

	check_meeting(self, meeting, mask, site);
	self->meeting = meeting;
	self->site = site;
	self->mask = mask;
	w->arrived |= 1u << self->lane;
	if ((w->arrived & mask) != mask) {
		not_ready(self);
		give_way(self);
		return;
	}
	w->arrived &= ~mask;
	w->ready |= mask;
	warps_ready |= 1u << w->number;
	if (meeting != MEET_SYNCWARP)
		collective_compute(w, meeting, mask);
	else if (mask == w->alive)
		w->epoch++;
	if (order != EMULATED_FORWARD)
		give_way(self);
}

void machine_grid_wait(void)
{
	machine_lane->grid_waited = true;
}

#ifdef MACHINE_CHECKED
void machine_operand(struct machine_warp *warp, uint32_t reg, uint32_t lane, uint32_t value)
{
	warp->in[reg][lane] = value;
}

uint32_t machine_result(const struct machine_warp *warp, uint32_t reg, uint32_t lane)
{
	return warp->out[reg][lane];
}

void machine_address(struct machine_lane *lane, const void *address)
{
	lane->warp->address[lane->lane] = (uint64_t)(uintptr_t)address;
}
#endif

uint64_t machine_atomic(void *address, uint32_t bytes, enum machine_change change, uint64_t value)
{
	uint64_t old = 0, new;

	if ((uintptr_t)address % bytes != 0) {
		report_add(EMULATED_ALIGNMENT, __builtin_return_address(0), "an atomic at an address not aligned to %u",
			   bytes);
		machine_abandon();
	}
	if (MACHINE_IS_CHECKED)
		shadow_access(address, bytes, SHADOW_ATOMIC, __builtin_return_address(0));
	memcpy(&old, address, bytes);
	new = change == MACHINE_ADD ? old + value : change == MACHINE_OR ? old | value :
		change == MACHINE_EXCHANGE ? value : old > value ? old : value;
	memcpy(address, &new, bytes);
	return old;
}

/* A fiber's first function. */
static void lane_run(void)
{
	struct machine_lane *self;

	kernel_body(kernel_params);
	self = machine_lane;
	if (self->n_copies > 0 && MACHINE_IS_CHECKED)
		report_add(EMULATED_COPY_LOST, NULL, "thread %u ended with %u asynchronous copies not waited for",
			   self->thread, self->n_copies);
	self->meeting = MEET_ENDED;
	self->warp->alive &= ~(1u << self->lane);
	not_ready(self);
	if (++n_ended == machine_n_threads) {
		machine_lane = NULL;
		machine_switch(&nowhere, main_stack_pointer);
	}
	go_on_with(self, &nowhere);
	__builtin_unreachable();
}

static void block_begin(void)
{
	struct emulated_dim at = {0, 0, 0};

	n_ended = n_at_barrier = 0;
	for (uint32_t i = 0; i < machine_n_warps; i++) {
		struct machine_warp *w = &machine_warps[i];
		uint32_t n = machine_n_threads - i * MACHINE_LANES;

		w->number = i;
		w->lanes = &lanes[i * MACHINE_LANES];
		w->alive = n >= MACHINE_LANES ? ~0u : (1u << n) - 1;
		w->ready = w->alive;
		w->arrived = 0;
		w->epoch = 0;
	}
	warps_ready = machine_n_warps == 32 ? ~0u : (1u << machine_n_warps) - 1;
	for (uint32_t i = 0; i < machine_n_threads; i++) {
		struct machine_lane *l = &lanes[i];
		void **top;

		l->stack = stacks + (size_t)i * (MACHINE_STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
		/* Lanes' frames at different places of a page: else they would all fall into the
		 * same few cache sets. */
		top = (void **)(l->stack + MACHINE_STACK_BYTES - 64 - i * 7 % 61 * 64);
		top[-2] = (void *)lane_run;
		for (int r = 3; r <= 8; r++)
			top[-r] = NULL;
		l->stack_pointer = &top[-8];
		l->thread_index = at;
		l->thread = i;
		l->lane = i % MACHINE_LANES;
		l->warp = &machine_warps[i / MACHINE_LANES];
		l->meeting = MEET_NONE;
		l->grid_waited = false;
		l->group = 0;
		l->copy_first = l->n_copies = 0;
		if (++at.x == machine_block_dim.x) {
			at.x = 0;
			if (++at.y == machine_block_dim.y) {
				at.y = 0;
				at.z++;
			}
		}
	}
	if (MACHINE_IS_CHECKED)
		shadow_block_begin();
}

static void block_run(void)
{
	struct machine_warp *w;

	block_begin();
	w = &machine_warps[pick(warps_ready)];
	machine_lane = &w->lanes[pick(w->ready)];
	machine_switch(&main_stack_pointer, machine_lane->stack_pointer);
}

/* The signals of wrong code inside a kernel; outside of one they are somebody else's. */
static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
#define N_SIGNALS (sizeof(signals) / sizeof(signals[0]))
static struct sigaction before[N_SIGNALS];
static stack_t stack_before;

static const char *address_text(const void *address, char *text, size_t size)
{
	if (MACHINE_IS_CHECKED)
		return shadow_place(address, text, size);
	snprintf(text, size, "address %p", address);
	return text;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	const ucontext_t *u = context;
	const void *pc = (const void *)u->uc_mcontext.gregs[REG_RIP];
	char place[120];

	if (!machine_lane) {
		for (size_t i = 0; i < N_SIGNALS; i++)
			sigaction(signals[i], &before[i], NULL);
		return;
	}
	if (number == SIGILL)
		report_add(EMULATED_TRAP, pc, "undefined behaviour: an array's bounds, a shift, or an alignment");
	else if ((uint8_t *)info->si_addr >= stacks && (uint8_t *)info->si_addr <
		 stacks + (size_t)MACHINE_THREADS_MAX * (MACHINE_STACK_BYTES + GUARD_BYTES))
		report_add(EMULATED_ADDRESS, pc, "the emulated thread's stack of %u bytes is too small",
			   MACHINE_STACK_BYTES);
	else
		report_add(EMULATED_ADDRESS, pc, "signal %d at %s", number,
			   address_text(info->si_addr, place, sizeof(place)));
	machine_abandon();
}

static int memory_init(void)
{
	size_t bytes = (size_t)MACHINE_THREADS_MAX * (MACHINE_STACK_BYTES + GUARD_BYTES);
	uint8_t *memory;

	if (stacks)
		return 0;
	memory = mmap(NULL, bytes + MACHINE_SHARED_MAX, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -ENOMEM;
	for (uint32_t i = 0; i < MACHINE_THREADS_MAX; i++)
		mprotect(memory + (size_t)i * (MACHINE_STACK_BYTES + GUARD_BYTES), GUARD_BYTES, PROT_NONE);
	machine_shared = memory + bytes;
	stacks = memory;
	return 0;
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
	while (b > 0) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static void blocks_run(void)
{
	uint32_t n = machine_grid_dim.x * machine_grid_dim.y * machine_grid_dim.z, start = 0, step = 1;

	if (order == EMULATED_SEEDED) {
		start = random_below(n);
		do
			step = 1 + random_below(n);
		while (common_divisor(step, n) != 1);
	}
	for (uint32_t i = 0; i < n && !abandoned; i++) {
		uint32_t b = (uint32_t)((start + (uint64_t)i * step) % n);

		if (order == EMULATED_REVERSE)
			b = n - 1 - b;
		machine_block_number = b;
		machine_block_index.x = b % machine_grid_dim.x;
		machine_block_index.y = b / machine_grid_dim.x % machine_grid_dim.y;
		machine_block_index.z = b / machine_grid_dim.x / machine_grid_dim.y;
		block_run();
	}
}

static bool launch_possible(struct emulated_dim grid, struct emulated_dim block, uint32_t shared_bytes)
{
	return grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && block.x >= 1 && block.y >= 1 && block.z >= 1 &&
		grid.y <= 65535 && grid.z <= 65535 && (uint64_t)block.x * block.y * block.z <= MACHINE_THREADS_MAX &&
		shared_bytes <= MACHINE_SHARED_MAX - 1024;
}

int machine_launch(const char *name, void (*body)(const void *), const void *params, struct emulated_dim grid,
		   struct emulated_dim block, uint32_t shared_bytes)
{
	static uint8_t signal_stack[64 << 10];
	stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	unsigned found;

	if (!launch_possible(grid, block, shared_bytes) || memory_init() < 0)
		return -EINVAL;
	pthread_mutex_lock(&launching);
	found = emulated_found(EMULATED_NONE);
	machine_kernel = name;
	kernel_body = body;
	kernel_params = params;
	machine_grid_dim = grid;
	machine_block_dim = block;
	machine_shared_bytes = shared_bytes;
	machine_n_threads = block.x * block.y * block.z;
	machine_n_warps = (machine_n_threads + MACHINE_LANES - 1) / MACHINE_LANES;
	abandoned = false;
	random_state = order_seed * 0x9e3779b97f4a7c15ull | 1;
	sigaltstack(&stack, &stack_before);
	for (size_t i = 0; i < N_SIGNALS; i++)
		sigaction(signals[i], &action, &before[i]);
	if (MACHINE_IS_CHECKED)
		shadow_launch_begin();
	blocks_run();
	for (size_t i = 0; i < N_SIGNALS; i++)
		sigaction(signals[i], &before[i], NULL);
	sigaltstack(&stack_before, NULL);
	found = emulated_found(EMULATED_NONE) - found;
	pthread_mutex_unlock(&launching);
	return (int)found;
}
