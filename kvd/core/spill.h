/* spill.h - what spill.c, spill_slot.c and the core's other files offer each other about the spill tier. */
#ifndef KVD_CORE_SPILL_H
#define KVD_CORE_SPILL_H

#include "kvd/core/parts.h"

/* spill_slot.c: places in the file.  Taking one may drop the coldest record, and forget its page. */
uint32_t spill_slot_take(const struct core *c, uint32_t space); /* a record, zero; 0: none to be had */
void spill_slot_return(const struct core *c, uint32_t record);

enum spill_out { SPILL_CANNOT = 0, SPILL_GOES, SPILL_LATER /* all writes there may be are under way */ };
enum spill_out spill_evict(const struct core *c, uint32_t node, bool may_write);
void spill_keep(const struct core *c, uint32_t page);
void spill_page_gone(const struct core *c, uint32_t page);
void spill_forget(const struct core *c, uint32_t node);
void spill_discard(const struct core *c, uint32_t record);
bool spill_serves(const struct core *c, uint32_t record, uint32_t tenant, uint32_t domain);
bool spill_wait(const struct core *c, uint32_t seq, uint32_t index);
bool spill_fill(const struct core *c, uint32_t seq);
void spill_seq_gone(const struct core *c, uint32_t seq);
void spill_written(const struct core *c, uint32_t job, const struct core_event *event);
void spill_read(const struct core *c, uint32_t job, const struct core_event *event);
void spill_gone(const struct core *c);
void spill_tick(const struct core *c);
uint64_t spill_next_usec(const struct core *c);
struct core_spill_place spill_place(const struct core *c, uint32_t record);

#endif
