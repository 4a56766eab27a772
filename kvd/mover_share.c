/* mover_share.c - how much merging the mover does, and when: as much and then as if every page had its equal.
 *
 * Merging costs time of the processor and of the memory bus, and whoever computes beside it can measure that
 * time: in his first token, between two tokens, in his next request.  He must not learn from it whether
 * another tenant has the pages that he has just sealed.  So
 *   - the core begins to merge one to two rounds after the seal (core/share.c), never while the request runs that
 *     it would betray, and rounds begin at whole multiples of LIMIT_MERGE_USEC, whatever was sealed; what there is
 *     to merge is in our queue when the core says how many pages' round it is;
 *   - in that round each page sealed is due one compare with a copy and one scrub, by the number of pages alone.
 *     What the core has no merge for is covered: the mover does the same work on the same number of bytes
 *     and nothing comes of it.  A merge of two copies is one compare and the scrubs of both; a further copy
 *     one and one; so a merge that is sent takes that much off what is to be covered;
 *   - all of it but scrubs, which others wait for, is done by a thread of the lowest weight (mover/share_thread.c).
 * What is left over, and why, is in docs/operators.md.
 *
 * Owns link->covers.  Loop thread only; does not allocate. */
#include "kvd/mover_link.h"

#include <string.h>

#include "kvd/daemon.h"

static uint32_t add_bounded(uint32_t a, uint64_t b)
{
	return b < LIMIT_COVERS - a ? a + (uint32_t)b : LIMIT_COVERS;
}

void mover_share_due(struct mover_link *link)
{
	struct kvd_geometry geometry;
	uint32_t cursor = 0;
	uint64_t due;

	while (core_read_sealed(link->daemon->core, &cursor, &due, &geometry)) {
		struct mover_cover *cover = &link->covers[cursor - 1];

		if (due < cover->seen || memcmp(&cover->geometry, &geometry, sizeof(geometry))) {
			/* another space of that number, or another kvd's */
			link->n_covers -= cover->compares;
			*cover = (struct mover_cover){ .geometry = geometry, .seen = due };
		}
		if (due == cover->seen)
			continue;
		link->n_covers -= cover->compares;
		cover->compares = add_bounded(cover->compares, due - cover->seen);
		link->n_covers += cover->compares;
		cover->scrubs = add_bounded(cover->scrubs, due - cover->seen);
		cover->seen = due;
	}
}

bool mover_share_cover(struct mover_link *link)
{
	for (uint32_t i = 0; link->n_covers && i < CORE_SPACES_MAX; i++) {
		struct mover_cover *cover = &link->covers[i];

		if (!cover->compares)
			continue;
		cover->compares--;
		link->n_covers--;
		mover_link_push(link, MOVER_COVER, &cover->geometry);
		return true;
	}
	return false;
}

static struct mover_cover *cover_of(struct mover_link *link, const struct kvd_geometry *geometry)
{
	for (uint32_t i = 0; i < CORE_SPACES_MAX; i++)
		if (!memcmp(&link->covers[i].geometry, geometry, sizeof(*geometry)))
			return &link->covers[i];
	return NULL;
}

void mover_share_sent(struct mover_link *link, const struct mover_job *job)
{
	struct mover_cover *cover = cover_of(link, &job->geometry);
	uint32_t scrubs = job->source == job->target ? 1 : 2;

	if (!cover)
		return;
	link->n_covers -= cover->compares > 0;
	cover->compares -= cover->compares > 0;
	cover->scrubs -= cover->scrubs < scrubs ? cover->scrubs : scrubs;
}

void mover_share_covered(struct mover_link *link, const struct mover_job *job)
{
	struct mover_cover *cover = cover_of(link, &job->geometry);

	/* One is on its way at a time for each compare under way: the queue has room for them. */
	if (!cover || !cover->scrubs || link->small.n > link->small.size / 2)
		return;
	cover->scrubs--;
	mover_link_push(link, MOVER_COVER_SCRUB, &job->geometry);
}
