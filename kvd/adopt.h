/* adopt.h - taking over from a kvd that was killed: book, extents, mover, engines.
 *
 * In two parts, because the shell is made in between: adopt_book() decides whether there is anything
 * that can be believed; adopt_engines() brings the shell and the book together again.  Any doubt in
 * the first is a cold start, of all; in the second it costs the engine concerned its connection.
 * See docs/decisions/0005-adoption.md. */
#ifndef KVD_ADOPT_H
#define KVD_ADOPT_H

#include <stdbool.h>
#include <stddef.h>

#include "kvd/core/core.h"

struct daemon;

#define ADOPT_WHY_MAX 256

/* Take book and extents out of the bundle; end the killed kvd's mover.
 * expect  this kvd's configuration
 * why     on failure the reason; empty: nobody left anything
 * True: daemon->book, core, kept and every extent of daemon->vmm are there. */
bool adopt_book(struct daemon *daemon, const struct core_config *expect, char why[ADOPT_WHY_MAX]);
/* Engines, handles, weights; the actions that were not performed; what had been handed out and is lost.
 * Loop, mover and peers are open. */
void adopt_engines(struct daemon *daemon);
/* Who uses our tables now?  Once a round while daemon->n_switching. */
void adopt_switches(struct daemon *daemon);

/* ---- adopt_engine.c ---- */
/* Take an engine's pieces over.  False: they are not all there, it must be hung up; engine->process is
 * what is known of its process. */
bool adopt_engine_take(struct daemon *daemon, uint32_t number);
/* Fill its tables, say ADOPTED, repeat what it has not been sent. */
void adopt_engine_tell(struct daemon *daemon, uint32_t number);

#endif
