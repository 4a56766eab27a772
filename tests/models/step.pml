/* step.pml - step counters and retirement: a frame is never given away while a step may read or
 * write it (kvd/core/retire.c, kvd/daemon.c's look_at_steps(), client/engine_ring.c).
 *
 * Store buffers as in ring.pml.  The engine runs steps: begun = n, fence, one copy of the table
 * entry, page bytes are written through the copy, fence, done = n.  kvd puts the other frame into
 * the table, fence, reads begun, waits for done, zeroes the old frame (it is FREE now) and goes on
 * with it.  Its socket may hang up at any time while the process still computes; then only the end
 * of the process counts.  The engine may be killed between any two of its stores and loads.
 *
 * Proven: no frame is zeroed while a copy names it, and what was zeroed stays so until it is in
 * the table again.
 *
 * Variants that must fail:
 *   BROKEN_ENGINE_FENCE     no fence between begun and the copy
 *   BROKEN_KVD_FENCE        none between the table entry and the look at begun
 *   BROKEN_STAMP_FIRST      begun is read before the entry is stored
 *   BROKEN_DONE_EARLY       done is stored before the last write to the page
 *   BROKEN_HANGUP_IS_DEATH  a closed socket is taken for a quiet engine */
#define STEPS 3
#define ROUNDS 3

#define BEGUN 0
#define DONE 1
#define TABLE 2
#define BYTES 3            /* of frames 0 and 1 */

byte memory[5];
chan engine_stores = [4] of { byte, byte };
chan kvd_stores = [4] of { byte, byte };
bool used[2];              /* ghost: an unfinished step's copy names the frame */
bool free[2];              /* ghost: zeroed and in no table yet */
bool killed, hung_up, quiet;

active proctype drain_engine()
{
	byte word, value;
end:	do
	:: atomic {
		engine_stores?word,value -> memory[word] = value;
		assert(word < BYTES || !free[word - BYTES]);
		word = 0; value = 0
	}
	od
}

active proctype drain_kvd()
{
	byte word, value;
end:	do
	:: atomic { kvd_stores?word,value -> memory[word] = value; word = 0; value = 0 }
	od
}

active proctype accidents()
{
	if :: hung_up = true :: skip fi;
	if :: killed = true :: skip fi
}

active proctype engine()
{
	byte n, copy;

	{
	do
	:: n == STEPS -> break
	:: else ->
		n++;
		engine_stores!BEGUN,n;
#ifndef BROKEN_ENGINE_FENCE
		empty(engine_stores);
#endif
		atomic { copy = memory[TABLE]; used[copy] = true };
		assert(!free[copy]);
#ifdef BROKEN_DONE_EARLY
		engine_stores!DONE,n;
#endif
		engine_stores!(BYTES + copy),n;
#ifndef BROKEN_DONE_EARLY
		empty(engine_stores);
		used[copy] = false;
		engine_stores!DONE,n
#else
		used[copy] = false
#endif
	od
	} unless { killed };
	/* the process is gone: it reads no more, and its stores have happened */
	empty(engine_stores);
	used[0] = false;
	used[1] = false;
	hung_up = true;
	quiet = true
}

active proctype kvd()
{
	byte round, old, stamp;

	do
	:: round == ROUNDS -> break
	:: else ->
		round++;
#ifdef BROKEN_STAMP_FIRST
		stamp = memory[BEGUN];
#endif
		free[1 - old] = false;
		kvd_stores!TABLE,(1 - old);
#ifndef BROKEN_KVD_FENCE
		empty(kvd_stores);
#endif
#ifndef BROKEN_STAMP_FIRST
		stamp = memory[BEGUN];
#endif
		if
		:: !hung_up && memory[DONE] >= stamp
		:: quiet
#ifdef BROKEN_HANGUP_IS_DEATH
		:: hung_up
#endif
		fi;
		/* the mover's work: scrubbed, and FREE */
		assert(!used[old]);
		kvd_stores!(BYTES + old),0;
		empty(kvd_stores);
		atomic { free[old] = true; stamp = 0 };
		assert(memory[BYTES + old] == 0);
		old = 1 - old
	od
}
