/* ring.pml - the rings and the wake-up between an engine and kvd (kvd/ring.c, client/engine_ring.c).
 *
 * Spin's memory is sequentially consistent, the processor's is not: every store to shared memory
 * enters its process's FIFO store buffer (x86's TSO) and reaches memory whenever `drain` takes it
 * out; a fence waits until the buffer is empty.  No word has two writers, so nobody reads his own
 * buffered stores.  A killed process's buffer still drains; its socket closes after that.
 *
 * Who sleeps is woken in one of two ways: by a byte, which lies in the socket until it is read, or by a word
 * (futex): the kernel begins to wait only if the word is still the value that was seen, a wake takes the
 * waiter off its list or is lost, and a wait that is under way stays when something else wakes the sleeper.  kvd
 * may also look again and again (spin-usec) before it asks to be woken.
 *
 * Proven for every interleaving, with either process killed between any two of its stores and
 * loads: what is submitted arrives once and in order, so does what is completed, and nobody sleeps
 * (an invalid end state) while there is something for him or while the other is gone.
 *
 * Variants that must fail:
 *   BROKEN_SUBMIT_FENCE    engine: no fence between its index and its look at kvd_sleeps
 *   BROKEN_PUBLISH_FENCE   kvd: none between its index and its look at engine_sleeps
 *   BROKEN_KVD_SLEEP_FENCE, BROKEN_ENGINE_SLEEP_FENCE   none between the flag and the second look
 *   BROKEN_NO_SECOND_LOOK  kvd waits without looking at the ring again
 *   BROKEN_INDEX_FIRST     engine: the index is stored before the entry
 *   BROKEN_HEAD_FIRST      kvd: the entry is given back before it is copied
 *   BROKEN_DRAIN_LATE      kvd: the doorbell is taken off the socket just before the wait, unread
 *                          words and all, instead of before the look at the ring
 *   BROKEN_KVD_WORD_FRESH  kvd waits for the word to be another than it is now, not than it has seen
 *   BROKEN_ENGINE_WORD_FRESH   likewise the engine
 *   BROKEN_WORD_ONCE       kvd takes a wait that has ended for one under way
 *   BROKEN_WORD_AS_BYTE    engine: wakes the word although kvd waits for a byte
 *   BROKEN_SPIN_NO_FLAG    kvd sleeps after it has spun and has not asked to be woken */
#define SQ_SIZE 2
#define SQ_MOD 4           /* indexes run freely; here they wrap within the run */
#define CQ_SIZE 4
#define CQ_MOD 8
#define TOTAL 3

#define SQ_TAIL 0
#define CQ_HEAD 1
#define ENGINE_SLEEPS 2
#define SQ_HEAD 3
#define CQ_TAIL 4
#define KVD_SLEEPS 5
#define SQES 6
#define CQES 8

byte memory[12];
chan engine_stores = [4] of { byte, byte };
chan kvd_stores = [4] of { byte, byte };
bool bell_for_kvd, bell_for_engine;        /* a byte lies in the socket */
bool kvd_waits, engine_waits;              /* on the kernel's list of the word */
bool kvd_woken, engine_woken;              /* the wait has ended, it has not looked yet */
#define BYTE 1
#define WORD 2
byte how;                                  /* both sleep in one of these ways */
#define CHOOSE atomic { if :: how == 0 -> if :: how = BYTE :: how = WORD fi :: else fi }
bool engine_killed, kvd_killed, engine_gone, kvd_gone;

active proctype drain_engine()
{
	byte word, value;
end:	do
	:: atomic { engine_stores?word,value -> memory[word] = value; word = 0; value = 0 }
	od
}

active proctype drain_kvd()
{
	byte word, value;
end:	do
	:: atomic { kvd_stores?word,value -> memory[word] = value; word = 0; value = 0 }
	od
}

/* One of them may be killed, at any time. */
active proctype killer()
{
	if
	:: engine_killed = true
	:: kvd_killed = true
	:: skip
	fi
}

#define WAKE(waits, woken) atomic { if :: waits -> waits = false; woken = true :: else fi }
/* The kernel compares and queues under one lock. */
#define WAIT(waits, woken, word, value) atomic { if :: word == value -> waits = true :: else -> woken = true fi }

active proctype engine()
{
	byte tail, published, head, submitted, received;

	CHOOSE;
	{
	do
	:: received == TOTAL || kvd_gone -> break
	:: else ->
		do
		:: submitted < TOTAL && (tail + SQ_MOD - memory[SQ_HEAD]) % SQ_MOD < SQ_SIZE ->
			submitted++;
#ifdef BROKEN_INDEX_FIRST
			engine_stores!SQ_TAIL,((tail + 1) % SQ_MOD);
#endif
			engine_stores!(SQES + tail % SQ_SIZE),submitted;
			tail = (tail + 1) % SQ_MOD
		:: break
		od;
		if
		:: tail != published ->
			engine_stores!SQ_TAIL,tail;
			published = tail;
#ifndef BROKEN_SUBMIT_FENCE
			empty(engine_stores);
#endif
			if
#ifdef BROKEN_WORD_AS_BYTE
			:: memory[KVD_SLEEPS] != 0 -> WAKE(kvd_waits, kvd_woken)
#else
			:: memory[KVD_SLEEPS] == BYTE -> bell_for_kvd = true
			:: memory[KVD_SLEEPS] == WORD -> WAKE(kvd_waits, kvd_woken)
#endif
			:: else
			fi
		:: else
		fi;
		do
		:: memory[CQ_TAIL] != head ->
			received++;
			assert(memory[CQES + head % CQ_SIZE] == received);
			head = (head + 1) % CQ_MOD;
			engine_stores!CQ_HEAD,head
		:: else -> break
		od;
		if
		:: submitted > received ->
			engine_stores!ENGINE_SLEEPS,how;
#ifndef BROKEN_ENGINE_SLEEP_FENCE
			empty(engine_stores);
#endif
			if
			:: memory[CQ_TAIL] == head ->
				if
				:: how == WORD && !engine_waits ->
#ifdef BROKEN_ENGINE_WORD_FRESH
					WAIT(engine_waits, engine_woken, memory[CQ_TAIL], memory[CQ_TAIL])
#else
					WAIT(engine_waits, engine_woken, memory[CQ_TAIL], head)
#endif
				:: else
				fi;
				bell_for_engine || engine_woken || kvd_gone;
				atomic { bell_for_engine = false; engine_woken = false }
			:: else
			fi;
			engine_stores!ENGINE_SLEEPS,0
		:: true
		fi
	od
	} unless { engine_killed };
	empty(engine_stores);
	engine_gone = true
}

active proctype kvd()
{
	byte head, tail, taken, answered, entry;
	bool rings;
#ifdef BROKEN_WORD_ONCE
	bool believes;
#endif

	CHOOSE;
	{
	do
	:: answered == TOTAL || (engine_gone && memory[SQ_TAIL] == head) -> break
	:: else ->
		do
		:: memory[SQ_TAIL] != head ->
#ifdef BROKEN_HEAD_FIRST
			kvd_stores!SQ_HEAD,((head + 1) % SQ_MOD);
#endif
			entry = memory[SQES + head % SQ_SIZE];
			taken++;
			assert(entry == taken);
			head = (head + 1) % SQ_MOD;
#ifndef BROKEN_HEAD_FIRST
			kvd_stores!SQ_HEAD,head
#endif
		:: else -> break
		od;
		do             /* answers may come late */
		:: answered < taken ->
			assert((tail + CQ_MOD - memory[CQ_HEAD]) % CQ_MOD < CQ_SIZE);
			answered++;
			kvd_stores!(CQES + tail % CQ_SIZE),answered;
			tail = (tail + 1) % CQ_MOD;
			kvd_stores!CQ_TAIL,tail;
			rings = true
		:: break
		od;
		if
		:: rings ->
			rings = false;
#ifndef BROKEN_PUBLISH_FENCE
			empty(kvd_stores);
#endif
			if
			:: memory[ENGINE_SLEEPS] == BYTE -> bell_for_engine = true
			:: memory[ENGINE_SLEEPS] == WORD -> WAKE(engine_waits, engine_woken)
			:: else
			fi
		:: else
		fi;
		if
		:: answered == taken && answered < TOTAL ->
			do             /* as long as it likes: nobody is asked to wake it meanwhile */
			:: memory[SQ_TAIL] == head
			:: break
			od;
#ifdef BROKEN_SPIN_NO_FLAG
			if
			:: true
			:: kvd_stores!KVD_SLEEPS,how
			fi;
#else
			kvd_stores!KVD_SLEEPS,how;
#endif
#ifndef BROKEN_KVD_SLEEP_FENCE
			empty(kvd_stores);
#endif
			if
#ifndef BROKEN_NO_SECOND_LOOK
			:: memory[SQ_TAIL] != head
			:: else ->
#else
			:: true ->
#endif
#ifdef BROKEN_DRAIN_LATE
				bell_for_kvd = false;
#endif
				if
#ifdef BROKEN_WORD_ONCE
				:: how == WORD && !believes ->
					believes = true;
					WAIT(kvd_waits, kvd_woken, memory[SQ_TAIL], head)
#else
				:: how == WORD && !kvd_waits ->
#ifdef BROKEN_KVD_WORD_FRESH
					WAIT(kvd_waits, kvd_woken, memory[SQ_TAIL], memory[SQ_TAIL])
#else
					WAIT(kvd_waits, kvd_woken, memory[SQ_TAIL], head)
#endif
#endif
				:: else
				fi;
				bell_for_kvd || kvd_woken || engine_gone;
				atomic { bell_for_kvd = false; kvd_woken = false }
			fi;
			kvd_stores!KVD_SLEEPS,0
		:: else
		fi
	od
	} unless { kvd_killed };
	empty(kvd_stores);
	kvd_gone = true
}
