/* handover.pml - pages that one engine's kernels write and another engine's kernels read, on one GPU
 * (docs/gpu-handover.md).
 *
 * A device runs what is queued whenever it likes: an engine's process launches a step and goes on, its kernels write
 * later, and process death ends neither at once.  The writer's host seals a page when it has seen its step complete
 * (its event), or hands the event along for the reader's stream to wait for.  The reader maps, looks the page up,
 * launches.  kvd reuses the frame when the reader's `done` says so, `done` being stored after the step's event; or,
 * when an engine has died, when its process has ended and the device agrees.  The mover scrubs the frame by work that
 * is queued, too, and answers when that work is done.
 *
 * Proven: no kernel reads a page whose writer is still writing it; no kernel reads or writes a frame that is being
 * scrubbed or is free; an extent is unmapped under no kernel; a free frame is zero.
 *
 * Variants that must fail:
 *   BROKEN_SEAL_AT_LAUNCH     a page is sealed when the step is launched, and no event goes with it
 *   BROKEN_EVENT_NOT_WAITED   the event is handed along, and the reader's stream does not wait for it
 *   BROKEN_DONE_AT_LAUNCH     the reader stores `done` when its step is launched
 *   BROKEN_DEATH_IS_QUIET     the end of the process is taken for the end of its kernels
 *   BROKEN_HANGUP_IS_QUIET    so is the closed socket
 *   BROKEN_SCRUB_AT_LAUNCH    the mover answers when its fill is queued
 *   BROKEN_UNMAP_UNSYNCED     the reader unmaps without waiting for its context */

/* What the device has queued, by whom; it may run at any later moment. */
bool write_queued, read_queued, scrub_queued;
bool writer_wrote;         /* the page's bytes are all there */
bool sealed;               /* in the index: a reader may find it */
bool with_event;           /* ... together with an event that its stream must wait for */
bool writer_ended, writer_hung_up, writer_killed;
bool table;                /* the reader's table names the frame */
bool mapped = true;        /* the reader's window has the extent */
bool begun, done;          /* the reader's step counter, as kvd reads it */
bool reader_over, unmap_wanted;
bool other_queued;         /* a later step of the reader, which names other frames */
bool free;                 /* the frame is zero and anybody's */
bool zero;

/* The device: a kernel runs in one piece here; that it may run late is what matters.  A writer's kernel may be in
 * the middle (write_running) when somebody else's begins. */
bool write_running;

active proctype device_writer()
{
end:	do
	:: atomic { write_queued && !write_running -> write_running = true; assert(!free && !scrub_queued) }
	:: atomic { write_running ->
		/* the last byte */
		assert(!free);
		zero = false; writer_wrote = true; write_running = false; write_queued = false }
	od
}

active proctype device_reader()
{
end:	do
	:: atomic { other_queued -> other_queued = false }
	:: atomic { read_queued &&
#ifndef BROKEN_EVENT_NOT_WAITED
		(!with_event || writer_wrote) &&
#endif
		true ->
		assert(mapped);
		assert(!write_queued && !write_running && writer_wrote);
		assert(!free && !scrub_queued);
		read_queued = false }
	od
}

active proctype device_mover()
{
end:	do
	:: atomic { scrub_queued -> zero = true; scrub_queued = false }
	od
}

active proctype writer()
{
	{
	write_queued = true;
	if
#ifdef BROKEN_SEAL_AT_LAUNCH
	:: true -> sealed = true
#endif
	:: writer_wrote -> sealed = true            /* the host saw its event */
	:: atomic { with_event = true; sealed = true }      /* the fast path: the event goes along */
	fi;
	/* it goes on with other things, and may be killed at any moment */
end_alive:
	writer_killed
	} unless { writer_killed };
	writer_hung_up = true;
	/* The kernel closes the socket early in the end of a process; the driver stops what is left of its kernels some
	 * time after the process can be waited for. */
	writer_ended = true;
	/* What was queued and has not begun never will; what runs goes on until it is stopped or done. */
	if
	:: atomic { write_queued && !write_running -> write_queued = false }
	:: !write_queued
	:: write_running
	fi
}

active proctype accident()
{
	if :: writer_killed = true :: skip fi
}

active proctype reader()
{
	/* It looks up; a page of a writer that died before its step was complete is never found (kvd drops it). */
	if
	:: atomic { sealed && !writer_hung_up -> table = true }
	:: atomic { sealed && writer_wrote -> table = true }
	:: atomic { writer_hung_up && !sealed -> reader_over = true; goto over }
	:: atomic { writer_hung_up && sealed && !writer_wrote -> reader_over = true; goto over }
	fi;
	begun = true;
	read_queued = true;
#ifdef BROKEN_DONE_AT_LAUNCH
	done = true;
#endif
	/* The step's event.  A reader that waits for an event whose process died gets an error, and computes the page. */
	if
	:: !read_queued
	:: atomic { read_queued && with_event && !writer_wrote && writer_ended && !write_running && !write_queued ->
		read_queued = false }
	fi;
	done = true;
over:
	table = false;
	reader_over = true;
	if :: other_queued = true :: skip fi;
	/* EXTENT_UNMAP.  Nothing that is queued names the extent, but unmapping is not ordered with what is queued. */
	unmap_wanted;
#ifndef BROKEN_UNMAP_UNSYNCED
	!other_queued && !read_queued;
#endif
	assert(!other_queued && !read_queued);
	mapped = false
}

active proctype kvd()
{
	bool quiet;

	/* The frame goes: reclaimed after the reader, or its writer died with it. */
	if
	:: done
	:: reader_over
	fi;
	/* Nobody may find it any more; what its writer has under way must have ended. */
	sealed = false;
	if
	:: !writer_hung_up && writer_wrote && !write_queued
	:: writer_ended && !write_queued && !write_running         /* pidfd, and the device no longer lists it */
#ifdef BROKEN_DEATH_IS_QUIET
	:: writer_ended
#endif
#ifdef BROKEN_HANGUP_IS_QUIET
	:: writer_hung_up
#endif
	fi;
	quiet = true;
	scrub_queued = true;
#ifndef BROKEN_SCRUB_AT_LAUNCH
	!scrub_queued;
#endif
	assert(zero);
	assert(!write_queued && !write_running);
	free = true;
	unmap_wanted = true
}
