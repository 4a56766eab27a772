/* adopt_order.pml - what a killed kvd leaves and the next one takes: descriptors, the book, replies.
 *
 * kvd may be killed between any two of its statements, KILLS times.  The book is transactional (an
 * undo journal): an atomic{} or d_step that ends with commit is one transaction, and a kill inside
 * an open one rolls back to its begin.  Three things outlive kvd: the book, what the keeper
 * (systemd's fd store or kvd --keeper) holds, and the engine with its copy of the completion ring.
 *
 * Attaching: socket -> keeper -> commit -> reply.  A socket that the keeper has but the book does
 * not know is closed by the next kvd; the engine then asks again.  Verbs: the submission's effect,
 * the ring index up to which kvd has consumed, and the queued completion are one transaction; the
 * completion is published while the transaction that takes it off the queue is open, so that it may
 * be published again, at the same index.  The next kvd gives the engine a fresh ring with what it
 * has not consumed of the old one; the published count comes from the book.
 *
 * Proven: everything that the book names is in the keeper; an engine that was told that it is
 * attached is in the book; each submission takes effect once, and each completion is seen once
 * and only after its effect is committed; nobody waits forever (an invalid end state).
 *
 * Variants that must fail:
 *   BROKEN_STORE_LATE      the keeper gets the socket after the commit
 *   BROKEN_REPLY_EARLY     the engine is told before the commit
 *   BROKEN_HEAD_EARLY      the consumed index is committed before the effect
 *   BROKEN_HEAD_LATE       ... after it
 *   BROKEN_PUBLISH_EARLY   a completion is published before its effect is committed
 *   BROKEN_POP_EARLY       an action is off the queue before it is performed
 *   BROKEN_NO_CARRY        the fresh ring lacks what the engine has not consumed of the old one */
#define KILLS 2
#define TOTAL 2
#define NOTHING 255

/* outlive kvd */
bool kept;                     /* the engine's socket lies in the keeper */
bool book_engine;              /* committed */
byte book_head;                /* submissions consumed */
byte book_effects;             /* their effects */
byte book_tail;                /* completions published */
byte book_queue = NOTHING;     /* the one action not yet performed; 0: reply ATTACHED, k: completion k */
byte sq_tail;                  /* the engine's submissions */
byte ring[TOTAL + 1];          /* the completion ring that the engine reads: index -> completion */
byte ring_tail;
/* die with kvd */
bool alive, asked, connected;  /* the socket's other end is open: by kvd or by the keeper */
bool told;                     /* a reply lies in the socket */
byte kills;

#define ENDED (kills == KILLS)

active proctype killer()
{
	do
	:: kills < KILLS && alive -> alive = false
	:: break
	od
}

active proctype engine()
{
	byte head;

again:	atomic { told = false; asked = true; connected = true };
	if
	:: told
	:: !connected -> goto again        /* hung up before the answer: ask again */
	fi;
	assert(book_engine);               /* acknowledged: never lost */
	do
	:: head == TOTAL -> break
	:: head < TOTAL && sq_tail < TOTAL && sq_tail == head -> sq_tail++
	:: ring_tail > head ->
		assert(ring[head] == head + 1);
		assert(book_effects >= head + 1);
		head++
	od;
	assert(book_effects == TOTAL)
}

active proctype kvd()
{
	bool mine;                     /* this kvd's own descriptor of the socket */
	byte carried;

	do
	:: alive = true;
	{
		/* adoption */
		atomic {
			assert(!book_engine || kept);
			mine = kept && book_engine;
			if
			:: kept && !book_engine -> kept = false; connected = false; asked = false
			:: else
			fi
		};
		if
		:: book_engine ->
			/* a fresh ring: published as the book says, with the old entries carried over */
#ifdef BROKEN_NO_CARRY
			d_step {
				carried = 0;
				do :: carried < TOTAL -> ring[carried] = 0; carried++ :: else -> break od;
				carried = 0
			};
#endif
			ring_tail = book_tail
		:: else
		fi;
		do
		/* one queued action: performed inside the transaction that takes it off the queue */
		:: book_queue == 0 ->
#ifdef BROKEN_POP_EARLY
			book_queue = NOTHING;
#endif
			if :: mine -> told = true :: else fi;
			book_queue = NOTHING
		:: book_queue != 0 && book_queue != NOTHING ->
			carried = book_queue;
#ifdef BROKEN_POP_EARLY
			book_queue = NOTHING;
#endif
			ring[book_tail] = carried;
			ring_tail = book_tail + 1;
			atomic { book_tail = book_tail + 1; book_queue = NOTHING; carried = 0 }
		/* a new engine */
		:: book_queue == NOTHING && asked && !book_engine && !mine ->
			mine = true;                   /* accept() */
#ifdef BROKEN_STORE_LATE
			d_step { book_engine = true; book_queue = 0 };
			kept = true
#else
			kept = true;
#ifdef BROKEN_REPLY_EARLY
			told = true;
#endif
			d_step { book_engine = true; book_queue = 0 }
#endif
		/* a submission */
		:: book_queue == NOTHING && book_engine && book_head < sq_tail ->
#ifdef BROKEN_HEAD_EARLY
			book_head = book_head + 1;
			d_step { book_effects = book_effects + 1; book_queue = book_effects }
#else
#ifdef BROKEN_HEAD_LATE
			d_step { book_effects = book_effects + 1; book_queue = book_effects };
			book_head = book_head + 1
#else
#ifdef BROKEN_PUBLISH_EARLY
			ring[book_tail] = book_effects + 1;
			ring_tail = book_tail + 1;
#endif
			d_step {
				book_effects = book_effects + 1;
				book_head = book_head + 1;
				book_queue = book_effects
			}
#endif
#endif
		:: book_tail == TOTAL && book_queue == NOTHING -> goto done
		od
	} unless { !alive };
		/* killed: what only it held is closed */
		atomic {
			kills++;
			carried = 0;
			if
			:: mine && !kept -> connected = false; asked = false
			:: asked && !mine && !kept -> connected = false; asked = false   /* in the backlog */
			:: else
			fi;
			mine = false
		}
	od;
done:	skip
}
