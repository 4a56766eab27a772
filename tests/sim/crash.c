/* crash.c - kvd is killed at a store to the book. */
#include "tests/sim/sim.h"
void core_book_hook(const void *address, size_t size);
void core_book_hook(const void *address, size_t size)
{
	(void)address; (void)size;
}
