/* fsck_index.c - the checker's other half: nodes, claims, charges; sequences, holds, waits. */
#include "kvd/core/fsck.h"

static uint32_t claim_holds_counted(const struct core *c, const struct node *n, uint32_t claim)
{
	uint32_t holds = 0;
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		for (uint32_t h = list_first(&page_at(c, p)->holders); h != CORE_NONE;
		     h = list_next(c, LIST_HOLDERS, h))
			holds += hold_at(c, h)->claim == claim;
	return holds;
}

/* The node's claim of a domain, by its list: without a hash, most often in the next cache line.  That the hash
 * finds it too is checked once, with the claim. */
static uint32_t claim_listed(const struct core *c, uint32_t node, uint32_t domain)
{
	uint32_t q = list_first(&node_at(c, node)->claims), steps = 0;
	while (q != CORE_NONE && steps++ <= c->claims.high) {
		if (claim_at(c, q)->domain == domain)
			return q;
		q = list_next(c, LIST_NODE_CLAIMS, q);
	}
	return 0;
}

static uint32_t claim_children_counted(const struct core *c, const struct node *n, uint32_t domain,
				       uint32_t *ret_near, uint32_t *ret_guarded)
{
	uint32_t children = 0;
	*ret_near = 0;
	for (uint32_t child = list_first(&n->children); child != CORE_NONE;
	     child = list_next(c, LIST_CHILDREN, child)) {
		uint32_t claim = claim_listed(c, child, domain);
		if (!claim || !claim_at(c, claim)->complete)
			continue;
		children++;
		*ret_near += node_at(c, child)->present;
		*ret_guarded += claim_at(c, claim)->guarded;
	}
	return children;
}

static void charge(const struct core *c, uint32_t tenant, uint64_t rss, uint64_t held)
{
	struct tenant *t =
		(struct tenant *)(uintptr_t)tenant_at(c, tenant); /* check_ fields only */
	t->check_rss += rss;
	t->check_held += held;
}

static void check_claim(struct check *k, uint32_t number, const struct node *n)
{
	const struct core *c = k->c;
	const struct claim *claim = claim_at(c, number);
	fsck_check(k, claim_find(c, claim->node, claim->domain) == number,
		   "a claim is not found by its hash, or twice there", number);
	fsck_check(k, claim->complete || claim->promiser,
		   "a claim is nobody's, though others may wait for it", number);
	if (!claim->complete) {
		fsck_check(k, !claim->holds && !claim->children && !claim->shelf && !claim->guarded,
			   "a mere promise is used as a claim", number);
		return;
	}
	fsck_check(k, !claim->promiser && !claim->waiters.count,
		   "a complete claim is still promised or waited for", number);
	fsck_check(k, n->copies.count || n->spill, "a claim's page has no copy", number);
	uint32_t parent = n->parent ? claim_listed(c, n->parent, claim->domain) : 0;
	fsck_check(k, !n->parent || (parent && claim_at(c, parent)->complete),
		   "a claim's chain does not reach its root", number);
	fsck_check(k, claim->holds == claim_holds_counted(c, n, number),
		   "a claim's holds are not its table slots", number);
	uint32_t near, guarded = 0, children = claim_children_counted(c, n, claim->domain, &near, &guarded);
	fsck_check(k, claim->children == children, "a claim's count of children is wrong", number);
	fsck_check(k, claim->near == near, "a claim's count of children in memory is wrong", number);
	fsck_check(k, claim->guarded_children == guarded,
		   "a claim's count of children that floors keep is wrong", number);
	fsck_check(k, n->copies.count || !claim->holds, "a page on disk alone is held", number);
	fsck_claim(k, number, n);
	uint64_t bytes = page_bytes_of_space(c, n->space);
	if (n->copies.count)
		charge(c, claim->tenant, bytes, claim->holds ? bytes : 0);
	else
		((struct tenant *)(uintptr_t)tenant_at(c, claim->tenant))->check_spilled += bytes;
}

/* The lists that are walked for one node.  False: walking them may not end. */
static bool node_lists_hold(struct check *k, const struct node *n)
{
	const struct core *c = k->c;
	bool hold = fsck_list(k, LIST_COPIES, &n->copies, c->pages.high + 1, "a node's list of copies is broken") &&
		    fsck_list(k, LIST_NODE_CLAIMS, &n->claims, c->claims.high + 1,
			      "a node's list of claims is broken") &&
		    fsck_list(k, LIST_CHILDREN, &n->children, c->nodes.high + 1,
			      "a node's list of children is broken") &&
		    fsck_list(k, LIST_WAITERS, &n->waiters, c->config.seqs_max + 1,
			      "a node's list of waiters is broken");
	for (uint32_t p = list_first(&n->copies); hold && p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		hold = fsck_list(k, LIST_HOLDERS, &page_at(c, p)->holders, c->config.holds_max,
				 "a page's list of holders is broken");
	return hold;
}

static void check_node(struct check *k, uint32_t number)
{
	const struct core *c = k->c;
	const struct node *n = node_at(c, number);
	uint32_t complete = 0;
	if (!node_lists_hold(k, n)) {
		k->broken = true;
		return;
	}
	fsck_check(k, node_find(c, n->space, n->parent, n->tokens) == number,
		   "a node is not found by its hash, or twice there", number);
	fsck_check(k,
		   !n->parent ||
			   (node_at(c, n->parent)->live && !node_at(c, n->parent)->next_free &&
			    node_at(c, n->parent)->depth + 1 == n->depth),
		   "a node's parent is gone", number);
	fsck_check(k, n->refs || n->copies.count || n->children.count || n->claims.count || n->job || n->spill,
		   "a node is nobody's", number);
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p)) {
		bool shared = !FRAME_COLOUR(frame_at(c, page_at(c, p)->frame)->word);
		fsck_check(k, page_at(c, p)->node == number, "a copy does not name its node", p);
		fsck_check(k, shared == (n->shared == p), "a node does not know its shared copy", number);
	}
	for (uint32_t q = list_first(&n->claims); q != CORE_NONE; q = list_next(c, LIST_NODE_CLAIMS, q)) {
		fsck_check(k, claim_at(c, q)->node == number, "a claim does not name its node", q);
		complete += !!claim_at(c, q)->complete;
		check_claim(k, q, n);
	}
	fsck_check(k, complete == n->n_complete, "a node's count of claims is wrong", number);
	fsck_check(k,
		   !n->job || (c->job[n->job].kind == JOB_SHARE && c->job[n->job].node == number),
		   "a node's job is not its own", number);
}

void fsck_node(struct check *k, uint32_t number)
{
	check_node(k, number);
}

void fsck_index(struct check *k)
{
	const struct core *c = k->c;
	uint32_t nodes = 0, claims = 0;
	for (uint32_t t = 0; t < c->n_tenants; t++) {
		struct tenant *tenant = (struct tenant *)(uintptr_t)tenant_at(c, t);
		tenant->check_rss = tenant->check_held = tenant->check_reserved = 0;
		tenant->check_spilled = tenant->check_guarded = 0;
	}
	for (uint32_t i = 1; i <= c->nodes.high; i++) {
		if (node_at(c, i)->next_free || !node_at(c, i)->live)
			continue;
		nodes++;
		claims += node_at(c, i)->claims.count;
		check_node(k, i);
	}
	fsck_check(k, nodes == c->nodes.count, "the number of nodes is wrong", nodes);
	fsck_check(k, claims == c->claims.count, "the number of claims is wrong", claims);
	for (uint32_t i = 1; i <= c->pages.high; i++) {
		const struct page *p = page_at(c, i);
		if (p->next_free || p->state != PAGE_RESIDENT || p->node)
			continue;
		uint64_t bytes = page_bytes_of_space(c, group_of_frame(c, p->frame)->space);
		charge(c, p->tenant, bytes, bytes);
	}
	for (uint32_t t = 0; t < c->n_tenants; t++) {
		const struct tenant *tenant = tenant_at(c, t);
		fsck_check(k, tenant->rss_bytes == tenant->check_rss,
			   "a tenant's charge is not what it has", t);
		fsck_check(k, tenant->spilled_bytes == tenant->check_spilled,
			   "a tenant's spilled bytes are not its claims' on disk", t);
		fsck_check(k, tenant->held_bytes == tenant->check_held,
			   "a tenant's held bytes are not what its sequences hold", t);
	}
}

/* One table row: holds point at pages that list them, sealed in front, open behind. */
static uint64_t check_row(struct check *k, uint32_t seq, const struct seq *s, uint64_t *ret_refs)
{
	const struct core *c = k->c;
	const struct engine *e = &c->engines[s->engine];
	uint64_t bytes = 0;
	fsck_check(k, s->n_sealed <= s->n_pages && s->n_pages <= e->max_pages,
		   "a sequence has more pages than its row", seq);
	for (uint32_t i = 0; i < e->max_pages; i++) {
		const struct hold *h = hold_at(c, s->row + i);
		*ret_refs += !!h->node;
		fsck_check(k, !!h->node == (i < s->n_nodes),
			   "a table slot names a prompt page beyond the prompt, or lacks one", seq);
		fsck_check(k, !!h->page == (i < s->n_pages), "a table row has a hole or a tail",
			   seq);
		fsck_check(k, !h->node || node_at(c, h->node)->parent == (i ? hold_at(c, s->row + i - 1)->node : 0),
			   "a prompt's pages are no chain", seq);
		if (!h->page || i >= s->n_pages)
			continue;
		const struct page *p = page_at(c, h->page);
		enum kvd_frame_state state = frame_state(c, p->frame);
		bool copied = s->copy_from && s->copy_page == i;
		fsck_check(k, p->state == PAGE_RESIDENT && !p->next_free && h->seq == seq,
			   "a table slot names a page that is gone", seq);
		fsck_check(
			k,
			state == (i < s->n_sealed || copied ? KVD_FRAME_SEALED : KVD_FRAME_OPEN) ||
				(copied && state == KVD_FRAME_OPEN),
			"a table entry's frame is neither sealed in front nor open behind",
			p->frame);
		fsck_check(k, !h->claim || claim_at(c, h->claim)->node == p->node,
			   "a table slot's claim is on another page", seq);
		fsck_check(k, !h->claim == !p->node,
			   "a table slot uses an indexed page without a claim", seq);
		uint32_t x = extent_of(c, p->frame),
			 colour = FRAME_COLOUR(frame_at(c, p->frame)->word);
		fsck_check(k, !colour || colour == s->engine + 1,
			   "a sequence's table names another engine's frame", p->frame);
		fsck_check(k, extent_at(c, x)->acked >> s->engine & 1u,
			   "a table names a frame that the engine has not mapped", p->frame);
		bytes += page_bytes_of_space(c, e->space);
	}
	return bytes;
}

static void check_wait(struct check *k, uint32_t seq, const struct seq *s)
{
	bool waiting = s->wait != WAIT_NONE;
	fsck_check(k, waiting == !!s->pending,
		   "a sequence waits without owing an answer, or owes one and waits for nothing",
		   seq);
	fsck_check(k,
		   s->state != SEQ_WAITING || s->pending == KVD_SEQ_OPEN ||
			   s->pending == KVD_SEQ_RESUME,
		   "a sequence in the queue was not opened or resumed", seq);
	fsck_check(k, s->state == SEQ_RUNNING || s->state == SEQ_WAITING || !waiting,
		   "a sequence that does not run waits", seq);
	fsck_check(k, s->wait != WAIT_PROMISE || !s->promises.count,
		   "a sequence waits for a promise and holds promises", seq);
	fsck_check(k,
		   s->state == SEQ_RUNNING || (!s->n_pages && !s->reserved && !s->promises.count),
		   "a sequence that does not run holds memory or promises", seq);
	if (fsck_list(k, LIST_PROMISES, &s->promises, k->c->claims.high + 1,
		      "a list of promises is broken"))
		for (uint32_t q = list_first(&s->promises); q != CORE_NONE;
		     q = list_next(k->c, LIST_PROMISES, q))
			fsck_check(k, claim_at(k->c, q)->promiser == seq,
				   "a promise is another sequence's", q);
}

void fsck_sequences(struct check *k)
{
	const struct core *c = k->c;
	uint64_t holds = 0, held_bytes = 0, refs = 0, node_refs = 0, page_holds = 0,
		 claim_bytes = 0;
	uint64_t reserved[GROUPS_MAX] = { 0 };
	uint32_t running = 0, waiting = 0;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		uint32_t live = 0;
		for (uint32_t n = 0; e->state == ENGINE_LIVE && n < e->max_seqs; n++) {
			const struct seq *s = seq_at(c, e->seq_base + n);
			if (s->state == SEQ_EMPTY)
				continue;
			live++;
			held_bytes += check_row(k, e->seq_base + n, s, &refs);
			check_wait(k, e->seq_base + n, s);
			holds += s->n_pages;
			reserved[i] += s->reserved;
			((struct tenant *)(uintptr_t)tenant_at(c, s->tenant))->check_reserved +=
				s->reserved * page_bytes_of_space(c, e->space);
			running += s->state == SEQ_RUNNING;
			waiting += s->wait == WAIT_QUEUE || s->wait == WAIT_MEMORY;
		}
		fsck_check(k, e->state != ENGINE_LIVE || live == e->n_seqs,
			   "an engine's number of sequences is wrong", i);
	}
	for (uint32_t i = 1; i <= c->pages.high; i++) {
		const struct page *p = page_at(c, i);
		if (p->next_free || p->state != PAGE_RESIDENT)
			continue;
		page_holds += p->holders.count;
		if (fsck_list(k, LIST_HOLDERS, &p->holders, c->config.holds_max,
			      "a page's list of holders is broken"))
			for (uint32_t h = list_first(&p->holders); h != CORE_NONE;
			     h = list_next(c, LIST_HOLDERS, h))
				fsck_check(k, hold_at(c, h)->page == i,
					   "a page's holder holds another page", i);
	}
	for (uint32_t i = 1; i <= c->nodes.high; i++)
		node_refs += node_at(c, i)->next_free ? 0 : node_at(c, i)->refs;
	for (uint32_t i = 1; i <= c->claims.high; i++)
		if (!claim_at(c, i)->next_free && claim_at(c, i)->complete &&
		    !claim_at(c, i)->holds && node_at(c, claim_at(c, i)->node)->copies.count)
			claim_bytes +=
				page_bytes_of_space(c, node_at(c, claim_at(c, i)->node)->space);
	fsck_check(k, holds == page_holds, "table entries and pages' holders differ in number",
		   page_holds);
	fsck_check(k, refs == node_refs, "table slots and nodes' references differ in number",
		   node_refs);
	fsck_check(k, c->logical_bytes == held_bytes + claim_bytes,
		   "logical bytes are not table entries plus cached claims", c->logical_bytes);
	fsck_check(k, c->running.count == running, "running sequences are not all listed", running);
	fsck_check(k, c->waiting == waiting, "the number of waiting sequences is wrong", waiting);
	for (uint32_t i = 0; i < GROUPS_MAX; i++)
		fsck_check(k, c->groups[i].reserved == reserved[i],
			   "a group's reservations are not its sequences'", i);
	for (uint32_t t = 0; t < c->n_tenants; t++)
		fsck_check(k, tenant_at(c, t)->reserved_bytes == tenant_at(c, t)->check_reserved,
			   "a tenant's reservations are not its sequences'", t);
	fsck_list(k, LIST_WAITERS, &c->queue, c->config.seqs_max + 1, "the queue is broken");
	fsck_list(k, LIST_RUNNING, &c->running, c->config.seqs_max + 1,
		  "the list of running sequences is broken");
	fsck_list(k, LIST_PROMISERS, &c->promisers, c->config.seqs_max + 1,
		  "the list of promisers is broken");
}
