/* kept.c - see kept.h.  Holds nothing. */
#include "kvd/kept.h"

#include <string.h>
#include <sys/stat.h>

#include "kvd/attach.h"

_Static_assert(KEPT_OUT >= LIMIT_OUT_PER_ENGINE && (KEPT_OUT & (KEPT_OUT - 1)) == 0, "a ring of numbers");
_Static_assert(offsetof(struct kept, extent_inodes) % sizeof(uint64_t) == 0, "words");

/* To be raised when the meaning of a field changes and no size does. */
#define KEPT_REVISION 1u

uint64_t kept_version(void)
{
	static const uint64_t sizes[] = {
		KEPT_REVISION, sizeof(struct kept), sizeof(struct kept_engine), sizeof(struct segment_shape),
		sizeof(struct kept_stream), sizeof(struct kept_weights), KVD_PROTO_MAX, KVD_SHM_VERSION,
	};
	uint64_t h = 14695981039346656037ull;

	for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		h = (h ^ sizes[i]) * 1099511628211ull;
	return h;
}

uint64_t kept_inode(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static bool text_valid(const char *text)
{
	return memchr(text, 0, KVD_NAME_MAX) != NULL;
}

static bool engine_valid(const struct kept_engine *e)
{
	struct segment_shape shape;

	if (e->state == ATTACHED_FREE)
		return true;
	return (e->state == ATTACHED_LIVE || e->state == ATTACHED_DYING) && text_valid(e->name) &&
	       text_valid(e->model) && text_valid(e->program) && text_valid(e->tenant) && text_valid(e->domain) &&
	       e->shape.max_seqs && e->shape.max_seqs <= LIMIT_SLOTS && e->shape.max_pages &&
	       e->shape.max_pages <= LIMIT_MAX_PAGES && e->shape.sq_entries &&
	       (e->shape.sq_entries & (e->shape.sq_entries - 1)) == 0 &&
	       segment_shape(e->shape.sq_entries, e->shape.max_seqs, e->shape.max_pages, &shape) == 0 &&
	       !memcmp(&shape, &e->shape, sizeof(shape)) && e->out_seq - e->sent_seq <= KEPT_OUT;
}

bool kept_valid(const struct kept *kept, const char **ret_why)
{
	*ret_why = "the shell's part of it is another version's";
	if (kept->version != kept_version())
		return false;
	*ret_why = "an engine in it makes no sense";
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (!engine_valid(&kept->engines[i]))
			return false;
	*ret_why = "a client's handle in it makes no sense";
	if (kept->streams_high > LIMIT_STREAMS || kept->streams_free > kept->streams_high)
		return false;
	for (uint32_t i = 0; i < kept->streams_high; i++) {
		const struct kept_stream *s = &kept->streams[i];

		if (s->engine > CORE_ENGINES_MAX || s->next > kept->streams_high || s->tenant >= LIMIT_TENANTS ||
		    (s->engine && kept->engines[s->engine - 1].state != ATTACHED_LIVE))
			return false;
	}
	*ret_why = "a model's weights in it make no sense";
	for (uint32_t i = 0; i < LIMIT_WEIGHTS; i++)
		if (kept->weights[i].inode && !text_valid(kept->weights[i].layout))
			return false;
	return true;
}
