/* adopt_tables.pml - tables, stamps and the mover across a kvd's death.
 *
 * kvd may be killed between any two of its statements, KILLS times.  The next one makes a fresh table
 * from the book (the dead one's is frozen for ever) and waits for the old mover's end before it
 * gives a new one work.  The engine changes to the fresh table between two steps and says so
 * (comp_generation); until then kvd lets no stamp and no look at `done` pass: this engine may copy the
 * frozen table at any time.  The engine's stores pass a store buffer as in ring.pml.
 *
 * The keeper holds one mover's pidfd: a kvd ends that mover, starts its own, lends the keeper its pidfd,
 * and only then gives it a job; a mover without a job is harmless whoever knows of it.
 *
 * One table entry, two frames.  kvd takes the frame out of the table and puts the other in,
 * retires it, has it zeroed by the mover, and only then is it FREE to be put in again.
 *
 * Proven: no frame is zeroed while an unfinished step's copy names it; the mover writes to no frame
 * that is not its to write; every retired frame becomes free in the end (else the engine waits for its
 * last table change: an invalid end state).
 *
 * Variants that must fail:
 *   BROKEN_NO_WITHHOLD     step counters of an engine on the frozen table are believed
 *   BROKEN_SAYS_EARLY      the engine says that it has changed and copies the frozen table once more
 *   BROKEN_MOVER_LIVES     new jobs start while the old mover still writes
 *   BROKEN_MOVER_UNKNOWN   ... before the keeper has their mover's pidfd
 *   BROKEN_STAMP_LOST      the stamp that was pending is not asked again
 *   BROKEN_JOB_LOST        the job that was in flight is not given again */
#define KILLS 2
#define ROUNDS 2
#define STEPS 3

/* the engine's half, through its store buffer */
#define BEGUN 0
#define DONE 1
#define GENERATION 2
byte memory[3];
chan engine_stores = [4] of { byte, byte };

byte table[3];                 /* one per kvd; of the dead ones none changes again */
byte newest;                   /* generation announced to the engine (ADOPTED) */

/* the book */
byte book_entry;               /* the frame in the table */
byte book_rounds;
mtype = { FREE, INTABLE, FRESH, STAMPED, SCRUB };
mtype state[2];
byte stamp;                    /* begun as of the stamp */

/* the mover of each kvd: the frame of its job + 1 */
byte job[3];
bool mover_dead[3];
byte kept_mover;               /* whose pidfd the keeper holds; survives kvd */
bool answered[3];              /* a MOVED that this kvd has not read */

bool used[2];                  /* ghost */
bool alive;
byte kills;

active proctype drain()
{
	byte word, value;
end:	do
	:: atomic { engine_stores?word,value -> memory[word] = value; word = 0; value = 0 }
	od
}

active proctype killer()
{
	do
	:: kills < KILLS && alive -> alive = false
	:: break
	od
}

proctype mover(byte me)
{
	{
end:	do
	:: job[me] != 0 ->
		d_step {                       /* the write itself */
			assert(!used[job[me] - 1]);
			assert(state[job[me] - 1] == SCRUB)
		};
		atomic { job[me] = 0; answered[me] = true }
	od
	} unless { mover_dead[me] }
}

active proctype engine()
{
	byte n, said, mine, copy;

	do
	:: n == STEPS -> break
	:: n < STEPS ->
		/* between two steps: change to the newest table */
		if
		:: newest != said ->
			said = newest;
#ifndef BROKEN_SAYS_EARLY
			mine = said;
#endif
			engine_stores!GENERATION,said
		:: true
		fi;
		n++;
		engine_stores!BEGUN,n;
		empty(engine_stores);
		atomic { copy = table[mine]; used[copy] = true };
		empty(engine_stores);
		used[copy] = false;
		engine_stores!DONE,n
#ifdef BROKEN_SAYS_EARLY
		; mine = said
#endif
	od;
	/* idle: it still notices a new kvd */
end:	do
	:: newest != said -> said = newest; mine = said; engine_stores!GENERATION,said
	od
}

/* May the counters of the engine be believed? */
#ifdef BROKEN_NO_WITHHOLD
#define BELIEVED(me) true
#else
#define BELIEVED(me) (memory[GENERATION] == me)
#endif
#define OTHER (1 - book_entry)

active proctype kvd()
{
	byte me;

	d_step { state[0] = INTABLE; state[1] = FREE };
	do
	:: alive = true;
	{
		if
		:: me == 0
		:: me > 0 ->
#ifndef BROKEN_MOVER_LIVES
			mover_dead[kept_mover] = true; /* killed and awaited */
#endif
			table[me] = book_entry
		fi;
		run mover(me);
#ifndef BROKEN_MOVER_UNKNOWN
		kept_mover = me;
#endif
		if
		:: me == 0
		:: me > 0 ->
#ifndef BROKEN_JOB_LOST
			if
			:: state[0] == SCRUB -> job[me] = 1
			:: state[1] == SCRUB -> job[me] = 2
			:: else
			fi;
#endif
#ifdef BROKEN_STAMP_LOST
			if
			:: state[0] == FRESH -> state[0] = STAMPED; stamp = 255
			:: state[1] == FRESH -> state[1] = STAMPED; stamp = 255
			:: else
			fi;
#endif
			newest = me
		fi;
#ifdef BROKEN_MOVER_UNKNOWN
		kept_mover = me;
#endif
		do
		:: book_rounds < ROUNDS && state[OTHER] == FREE ->
			/* one transaction; then the action ENTRY is performed */
			d_step {
				state[OTHER] = INTABLE;
				state[book_entry] = FRESH;
				book_entry = OTHER;
				book_rounds++
			};
			table[me] = book_entry
		:: state[OTHER] == FRESH && table[me] == book_entry && BELIEVED(me) ->
			atomic { stamp = memory[BEGUN]; state[OTHER] = STAMPED }
		:: state[OTHER] == STAMPED && BELIEVED(me) && memory[DONE] >= stamp ->
			d_step { state[OTHER] = SCRUB; stamp = 0 };
			job[me] = OTHER + 1
		:: answered[me] ->
			d_step { answered[me] = false; state[OTHER] = FREE }
		:: book_rounds == ROUNDS && state[OTHER] == FREE -> goto done
		od
	} unless { !alive };
		atomic { kills++; me++ }
	od;
done:	mover_dead[me] = true
}
