/* parts.h - what the files of the core offer each other; outsiders use core.h.
 *
 * Order of the data: tenant -> sequence -> admit -> prefix -> page -> frame -> extent -> retire,
 * with share and reclaim beside it.  Every function runs inside one core_step(). */
#ifndef KVD_CORE_PARTS_H
#define KVD_CORE_PARTS_H

#include "kvd/core/book.h"

/* core.c: the action queue.  A background unit of work begins only when act_room() says that the
 * worst unit fits; the handler of an event has its own share (book.c, items_max). */
bool act_room(const struct core *c);
void act_complete(const struct core *c, uint32_t engine, const struct kvd_cqe *cqe);
void act_row(const struct core *c, uint32_t seq, uint32_t from,
	     uint32_t to); /* publish [from, to) */
void act_entry(const struct core *c, uint32_t seq, uint32_t page);
void act_extent(const struct core *c, enum item_kind kind, uint32_t engine, uint32_t extent,
		bool writable);
void act_move(const struct core *c, uint32_t job);
void act_stamp(const struct core *c);
void act_attached(const struct core *c, uint32_t engine, uint32_t status, uint64_t need,
		  uint64_t have);
void act_pressure(const struct core *c, uint32_t trigger);
enum alarm_kind { ALARM_MERGE_MISMATCH = 1, ALARM_TENANTS_FULL, ALARM_DOMAINS_FULL, ALARM_SPILL_LOST };
void act_steered(const struct core *c, uint32_t status, uint64_t pages, uint64_t bytes, uint64_t need, uint64_t have,
		 bool more);
void act_alarm(const struct core *c, enum alarm_kind kind, uint32_t a, uint32_t b);

/* siphash.c: SipHash-1-3 of whole 64-bit words. */
uint64_t siphash_words(const uint64_t key[2], const uint64_t *words, uint32_t n_words);

/* tenant.c */
bool name_equal(const char a[KVD_NAME_MAX], const char b[KVD_NAME_MAX]);
void tenant_define(const struct core *c, const struct core_event *event);
void domain_use(const struct core *c, uint32_t domain);
void domain_leave(const struct core *c, uint32_t domain);
void tenant_charge(const struct core *c, uint32_t tenant, int64_t rss_bytes, int64_t held_bytes);
void tenant_reserve(const struct core *c, uint32_t tenant, int64_t bytes);
uint64_t tenant_usage(const struct tenant *t);
void tenant_quota(const struct core *c, uint32_t tenant, const struct core_quota *wanted);
enum tenant_dirty { DIRTY_GUARD = 1, DIRTY_HIGH = 2, DIRTY_STALL = 4 };
void tenant_mark(const struct core *c, uint32_t tenant, uint32_t dirty);
void tenants_pump(const struct core *c);
bool tenants_end(const struct core *c);

/* guard.c: what a tenant's min keeps */
void guard_cold(const struct core *c, uint32_t claim);
void guard_release(const struct core *c, uint32_t claim);
bool guard_spares(const struct core *c, uint32_t claim);   /* or it is no candidate any more */
bool guard_settle(const struct core *c, uint32_t tenant);  /* false: there is more to do */

/* psi.c: time that sequences wait for memory */
void stall_changed(const struct core *c, uint32_t seq);
void stall_running_changed(const struct core *c, uint32_t tenant);
bool psi_update_tenant(const struct core *c, uint32_t tenant);     /* true: its state is another one */
struct psi psi_advanced(const struct psi *from, uint64_t now_usec);
void psi_read(const struct psi *from, uint64_t now_usec, struct kvd_row_psi *row);
void psi_pump(const struct core *c, bool changed);
uint64_t psi_tick_usec(const struct core *c);
void trigger_set(const struct core *c, const struct core_event *event);

/* shelf.c: the order of reclaim candidates */
#define HALF_LIFE_USEC 300000000ull            /* of a hit: long against a dialogue, short against a day's turn */
uint32_t hits_now(uint32_t hits_256, uint64_t used_usec, uint64_t now_usec);
uint32_t space_tokens_per_mib(const struct core *c, uint32_t space);
uint64_t space_worth_usec(const struct core *c, uint32_t space);
uint64_t claim_worth_usec(const struct core *c, const struct claim *k);
uint64_t claim_value(const struct core *c, uint32_t claim);
void claim_relist(const struct core *c, uint32_t claim);
void claim_unlist(const struct core *c, uint32_t claim);
void claim_use(const struct core *c, uint32_t claim);
void claim_hit(const struct core *c, uint32_t claim);
void claim_touch(const struct core *c, uint32_t claim);
void shelf_begin(const struct shelf *s, uint32_t cursor[SHELF_LEVELS]);
uint32_t shelf_peek(const struct core *c, const uint32_t cursor[SHELF_LEVELS], uint32_t *ret_level);
uint32_t shelf_first(const struct core *c, uint32_t shelf);
uint32_t shelf_of_heap(const struct core *c, uint32_t group, uint32_t at); /* 0: none there */
uint64_t class_key(uint32_t class, uint64_t value);
uint32_t key_class(uint64_t key);
void shelf_class_changed(const struct core *c, uint32_t tenant);
uint32_t tenant_first(const struct core *c, uint32_t tenant);
uint32_t tenant_last(const struct core *c, uint32_t tenant);

/* engine.c */
void engine_attach(const struct core *c, const struct core_event *event);
void engine_hangup(const struct core *c, uint32_t engine);
void engine_quiet(const struct core *c, uint32_t engine);
void engine_drain(const struct core *c, uint32_t engine);
void engine_maybe_free(const struct core *c, uint32_t engine);
void space_maybe_free(const struct core *c, uint32_t space);
bool spill_space_used(const struct core *c, uint32_t space); /* a region of the file is its (spill_slot.c) */

/* extent.c */
bool extent_assign(const struct core *c, uint32_t group); /* false: none populated */
void extent_map(const struct core *c, uint32_t extent, uint32_t engine);
bool extent_ack(const struct core *c, uint32_t engine, uint32_t extent,
		uint32_t count); /* false: nonsense */
void extent_unmapped(const struct core *c, uint32_t extent, uint32_t engine);
void extent_populated(const struct core *c, uint32_t extent);
void extent_counts_changed(const struct core *c, uint32_t extent, enum kvd_frame_state from,
			   enum kvd_frame_state to);
void extent_owner_died(const struct core *c, uint32_t extent);
void extent_drain(const struct core *c, uint32_t extent);
void extent_evacuate(const struct core *c, uint32_t extent, bool on); /* on: hands out no frames */
void extent_maybe_leave(const struct core *c, uint32_t extent);
void extent_scrubbed(const struct core *c, uint32_t extent, bool ok);
void extent_pump(const struct core *c);
void group_recount(const struct core *c, uint32_t group);
void group_reserve(const struct core *c, uint32_t group, int64_t frames);
bool core_fits(const struct core *c);          /* every reservation can be met */
bool extent_busy(const struct core *c, uint32_t extent);
bool extent_spare(const struct core *c,
		  uint32_t group); /* one more extent for it hurts no reservation */
uint32_t extents_coming(const struct core *c); /* on their way to UNASSIGNED */

/* frame.c */
void frame_move(const struct core *c, uint32_t frame, enum kvd_frame_state to, uint32_t owner);
uint32_t frame_take(const struct core *c, uint32_t group, uint32_t prefer_extent,
		    enum kvd_frame_state to, uint32_t owner); /* CORE_NONE: none usable now */

/* retire.c */
void frame_retire(const struct core *c, uint32_t frame, bool seen); /* seen: a table named it */
void frame_quarantine(const struct core *c, uint32_t frame);
void frame_unpin(const struct core *c, uint32_t frame);
void retire_stamped(const struct core *c, const struct core_event *event);
void retire_done(const struct core *c, const uint64_t *done);
void retire_engine_quiet(const struct core *c, uint32_t engine);
void retire_pump(const struct core *c);
uint32_t job_new(const struct core *c, enum job_kind kind, enum core_move move, uint32_t group,
		 uint32_t source, uint32_t peer,
		 uint32_t target); /* 0: none free; pins source, peer */
uint32_t job_name(const struct core *c, uint32_t job); /* as the mover knows it */
void job_start(const struct core *c, uint32_t job);
void job_moved(const struct core *c, const struct core_event *event);

/* page.c: pages and the table slots that hold them */
uint32_t page_new(const struct core *c, uint32_t frame, uint32_t tenant, uint32_t domain,
		  bool charged);
void page_index(const struct core *c, uint32_t page,
		uint32_t node); /* its content has this identity */
void page_drop(const struct core *c, uint32_t page, bool seen);  /* its frame retires */
void page_cool_list(const struct core *c, uint32_t page, bool on);
void page_tidy(const struct core *c, uint32_t page);             /* nobody holds it: cool or drop */
void copies_temper(const struct core *c, uint32_t node);         /* pins or floors have changed */
void hold_take(const struct core *c, uint32_t seq, uint32_t index, uint32_t page, uint32_t claim);
void hold_claim(const struct core *c, uint32_t seq, uint32_t index, uint32_t claim);
void hold_drop(const struct core *c, uint32_t seq, uint32_t index);
void hold_switch(const struct core *c, uint32_t hold,
		 uint32_t page); /* same content, other frame */
void page_relocate(const struct core *c, uint32_t page, uint32_t frame); /* same bytes, other frame */
bool page_open(const struct core *c, uint32_t seq, uint32_t index);   /* false: no frame now */
bool page_redundant(const struct core *c, uint32_t page);
bool page_holdable(const struct core *c, uint32_t page);              /* without breaking a reservation */
bool page_serves(const struct core *c, uint32_t page, uint32_t tenant, uint32_t domain);
bool page_may_share(const struct core *c, uint32_t page);

/* prefix.c: nodes and claims */
uint64_t node_identity(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens);
uint32_t claim_hash(const struct core *c, uint32_t node, uint32_t domain);
static inline const uint32_t *claim_bucket(const struct core *c, uint32_t hash)
{
	return (const uint32_t *)((const char *)c + c->layout.at_claim_hash) + (hash & (c->layout.buckets_max - 1));
}
static inline const uint32_t *node_bucket(const struct core *c, uint32_t hash)
{
	return (const uint32_t *)((const char *)c + c->layout.at_node_hash) + (hash & (c->layout.buckets_max - 1));
}
uint32_t node_find(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens);
uint32_t node_find_or_make(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens,
			   uint64_t identity /* 0: not known yet */);
/* The nodes of a prompt, one page after the other: what is needed next is on its way from memory meanwhile. */
enum { WALK_AHEAD = 6 };
struct node_walk {
	uint32_t space, n_pages, n_hashed;
	const int32_t *tokens;
	uint64_t identity[2 * WALK_AHEAD];     /* of page i at i % (2 * WALK_AHEAD) */
};
uint32_t node_walk_next(const struct core *c, struct node_walk *walk, uint32_t page, uint32_t parent);
void hold_fetch(const struct core *c, uint32_t seq, uint32_t index); /* it is looked at soon */

bool node_is(const struct core *c, uint32_t node, uint32_t parent, const int32_t *tokens);
uint32_t node_of_prefix(const struct core *c, uint64_t id);  /* 0: nobody has it now */
void node_ref(const struct core *c, uint32_t node);
void node_unref(const struct core *c, uint32_t node);
void node_maybe_free(const struct core *c, uint32_t node);
uint32_t claim_find(const struct core *c, uint32_t node, uint32_t domain);
uint32_t claim_find_or_make(const struct core *c, uint32_t node, uint32_t domain, uint32_t tenant);
void claim_complete(const struct core *c, uint32_t claim, uint32_t tenant, uint32_t home);
void claim_maybe_free(const struct core *c, uint32_t claim);
/* forget it and what the domain has below it; frees what nobody else wants */
void claim_drop(const struct core *c, uint32_t claim);
void node_evict(const struct core *c, uint32_t node); /* every claim on it, and below */
void node_presence(const struct core *c, uint32_t node); /* `present` may have changed */
void node_away(const struct core *c, uint32_t node, bool away); /* its last copy went, its first came */

/* lookup.c: what a sequence may take, what it waits for, promises */
enum probe { PROBE_MISS = 0, PROBE_HIT, PROBE_SHARE, PROBE_ACK, PROBE_PROMISED, PROBE_FETCH };
enum probe lookup_probe(const struct core *c, uint32_t seq, uint32_t index, uint32_t *ret_record);
bool lookup_take(const struct core *c, uint32_t seq);    /* true: it now waits */
bool lookup_wait_promise(const struct core *c, uint32_t seq, uint32_t index);
void promise_break_all(const struct core *c, uint32_t seq);
void promise_kept(const struct core *c, uint32_t claim);
void promise_tick(const struct core *c);
void wake_all(const struct core *c, const struct list *waiters);

/* share.c */
bool share_request(const struct core *c, uint32_t node); /* false: cannot be had */
void share_sealed(const struct core *c, uint32_t page);
void share_tick(const struct core *c);
uint64_t share_tick_usec(const struct core *c);
void share_consider(const struct core *c,
		    uint32_t node); /* after a seal: queue a merge if one is due */
void share_moved(const struct core *c, uint32_t job, const struct core_event *event);
void share_acked(const struct core *c, uint32_t extent);
void share_forget(const struct core *c, uint32_t node);
void share_pump(const struct core *c);
void share_relocated(const struct core *c, uint32_t node); /* its shared copy lies in another extent */

/* steer.c: an administrator's hand */
void plan_row(const struct core *c, uint32_t claim, uint32_t rank, uint64_t now_usec, struct kvd_row_plan *row);
void steer_event(const struct core *c, const struct core_event *event);
void steer_copy(const struct core *c, uint32_t node, uint32_t frame, bool is); /* of a pinned page or not */
void steer_forget(const struct core *c, uint32_t node); /* its last claim has gone */
bool steer_claim_ready(const struct core *c, uint32_t node, uint32_t domain);
uint32_t steer_claim(const struct core *c, uint32_t node, uint32_t domain, uint32_t tenant, uint32_t home);
uint32_t pins_max(const struct core *c);                  /* frames that pins may hold */

/* compact.c */
void compact_pump(const struct core *c);
void compact_stop(const struct core *c);
void compact_moved(const struct core *c, uint32_t job, bool ok);
uint64_t compact_tick_usec(const struct core *c);

/* sequence.c, verbs.c */
void sequence_submit(const struct core *c, const struct core_event *event);
void seq_open(const struct core *c, const struct core_event *event, uint32_t seq);
void seq_grow(const struct core *c, const struct core_event *event, uint32_t seq);
void seq_seal(const struct core *c, const struct core_event *event, uint32_t seq);
void seq_fork(const struct core *c, const struct core_event *event, uint32_t seq);
void seq_truncate(const struct core *c, const struct core_event *event, uint32_t seq);
bool seq_fill(const struct core *c,
	      uint32_t seq); /* true: it has all it waited for, and is answered */
void seq_copied(const struct core *c, uint32_t job, bool ok);
void seq_continue(const struct core *c, uint32_t seq);   /* whatever it waited for may be there */
void seq_complete(const struct core *c, uint32_t seq,
		  uint32_t status); /* answers the pending verb */
void seq_wait(const struct core *c, uint32_t seq, enum seq_wait kind, uint32_t on);
void seq_unwait(const struct core *c, uint32_t seq);
void seq_wake(const struct core *c, uint32_t seq);
void seq_throttle(const struct core *c, uint32_t seq);    /* its tenant's limits keep it in the queue */
void seq_refuse(const struct core *c, uint32_t seq, uint32_t need_pages, uint32_t have_pages); /* TENANT_MAX */
void queued_list(const struct core *c, uint32_t tenant);
void seq_release(const struct core *c, uint32_t seq); /* all holds, reservation, promises, waits */
void seq_end(const struct core *c, uint32_t seq);
void seq_reserve(const struct core *c, uint32_t seq, int64_t pages);
void seq_cut(const struct core *c, uint32_t seq,
	     uint32_t n_pages); /* drop table entries from n_pages on */
void seq_answer(const struct core *c, const struct core_event *event, uint32_t status);
uint32_t seq_new(const struct core *c, uint32_t engine, uint32_t slot, uint32_t tenant,
		 uint32_t domain);
void seq_grow_on(const struct core *c, uint32_t seq);
uint64_t pool_pages(const struct core *c, uint32_t engine);

/* fair.c */
void tenant_active_changed(const struct core *c, uint32_t tenant);
void admit_modest(const struct core *c);
void extent_keep_pump(const struct core *c);
void extent_keep_end(const struct core *c, uint32_t engine);
void extent_keeps_yield(const struct core *c);

/* admit.c */
enum admission { ADMIT_LEFT, ADMIT_BLOCKED, ADMIT_PASSED_BY, ADMIT_THROTTLED };
enum admission admit_try(const struct core *c, uint32_t seq);
void admit_enqueue(const struct core *c, uint32_t seq);
void admit_run(const struct core *c, uint32_t seq);      /* state RUNNING, into the lists by age */
void admit_stop(const struct core *c, uint32_t seq);
void admit_pump(const struct core *c);
void admit_serve(const struct core *c); /* groups whose sequences wait for frames */

/* preempt.c */
void admit_preempt(const struct core *c, uint32_t seq);
bool admit_reserve(const struct core *c, uint32_t seq, uint32_t pages); /* false: seq itself was preempted */
bool max_allows(const struct core *c, uint32_t seq, uint32_t pages);    /* false: preempted or refused */
bool floor_covers(const struct core *c, uint32_t seq, uint32_t pages);
bool floor_preempt(const struct core *c, uint32_t tenant);
bool floors_yield(const struct core *c, uint32_t tenant);

/* rate.c: new pages per second */
bool rate_allows(const struct core *c, uint32_t seq);                   /* false: it waits */
void rate_unlist(const struct core *c, uint32_t tenant);
void rate_pump(const struct core *c);
uint64_t rate_tick_usec(const struct core *c);

/* watermark.c */
void watermark_pump(const struct core *c);
uint64_t available_bytes(const struct core *c);
struct watermarks { uint64_t min_bytes, low_bytes, high_bytes; };
struct watermarks watermarks(const struct core *c);

/* plan.c: the one ranked plan */
struct reclaim_candidate {
	uint32_t claim, node, tenant, class;
	uint64_t used_usec, frees_bytes, charge_bytes;
};
struct reclaim_scope { uint32_t group, tenant; };  /* CORE_NONE: all groups; all tenants */
uint32_t reclaim_plan(const struct core *c, struct reclaim_scope scope, struct reclaim_candidate *ret,
		      uint32_t max);

/* reclaim.c */
enum reclaim_mode {                            /* what if a page would have to be written to disk first? */
	RECLAIM_PATIENT,                       /* then it is; where no more writes can begin, it stays for now */
	RECLAIM_EAGER,                         /* then it is; where no more writes can begin, it is forgotten */
	RECLAIM_NOW                            /* it is forgotten: somebody has waited long enough */
};
uint32_t reclaim_run(const struct core *c, uint32_t group, uint32_t n_frames, enum reclaim_mode mode);
bool reclaim_claim(const struct core *c); /* false: every claim is in use */
/* to disk or forgotten; false: not yet (PATIENT only) */
bool reclaim_out(const struct core *c, uint32_t claim, enum reclaim_mode mode);
bool reclaim_page(const struct core *c, uint32_t page, enum reclaim_mode mode); /* likewise */
uint64_t reclaim_oldest_usec(const struct core *c, uint32_t group);
bool reclaim_tenant(const struct core *c, uint32_t tenant, uint64_t bytes);

/* ledger.c */
void blame(const struct core *c, uint32_t by, enum kvd_reclaim_reason reason); /* of what goes from now on */
void ledger_evicted(const struct core *c, uint32_t claim);
void ghost_add(const struct core *c, uint32_t claim);
void ghost_computed(const struct core *c, uint32_t claim);
const struct ledger_row *ledger_row_at(const struct core *c, uint32_t at);

#endif
