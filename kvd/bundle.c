/* bundle.c - see bundle.h.  Owns the items taken over until somebody asks for them. */
#include "kvd/bundle.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "kvd/core/core.h"
#include "kvd/keeper.h"
#include "kvd/limits.h"
#include "kvd/log.h"

/* Every extent, five of each engine, the weights, and what there is one of. */
#define BUNDLE_ITEMS_MAX (LIMIT_EXTENTS + 5u * CORE_ENGINES_MAX + LIMIT_WEIGHTS + 16u)

bool bundle_name_valid(const char *name)
{
	size_t n = strnlen(name, BUNDLE_NAME_MAX);

	for (size_t i = 0; i < n && n < BUNDLE_NAME_MAX; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') && name[i] != '.')
			return false;
	return n > 0 && n < BUNDLE_NAME_MAX;
}

const char *bundle_name(char ret[BUNDLE_NAME_MAX], const char *prefix, uint32_t number)
{
	snprintf(ret, BUNDLE_NAME_MAX, "%s%u", prefix, number);
	return ret;
}

bool bundle_add(struct bundle *bundle, const char *name, int fd)
{
	struct bundle_item *item;

	if (bundle->n_items == bundle->items_max) {
		close(fd);
		return false;
	}
	item = &bundle->items[bundle->n_items++];
	item->fd = fd;
	snprintf(item->name, sizeof(item->name), "%s", name);
	return true;
}

int bundle_open(struct bundle *bundle, bool keeper, const char *socket_path, int *ret_listen_fd,
		char error[BUNDLE_ERROR_MAX])
{
	*bundle = (struct bundle){ .keeper = -1, .items_max = BUNDLE_ITEMS_MAX };
	*ret_listen_fd = -1;
	bundle->items = calloc(bundle->items_max, sizeof(bundle->items[0]));
	if (!bundle->items) {
		snprintf(error, BUNDLE_ERROR_MAX, "out of memory");
		return -1;
	}
	/* Who passes sockets keeps descriptors as well; a second holder would only disagree. */
	if (keeper && sd_listen_fds(0) > 0) {
		log_warn("keeper.unused why=\"a service manager has passed the socket: its fd store keeps "
			 "what a keeper would\"");
		keeper = false;
	}
	return keeper ? keeper_link_open(bundle, socket_path, error)
		      : fdstore_open(bundle, ret_listen_fd, error);
}

int bundle_take(struct bundle *bundle, const char *name)
{
	for (uint32_t i = 0; i < bundle->n_items; i++)
		if (!strcmp(bundle->items[i].name, name)) {
			int fd = bundle->items[i].fd;

			bundle->items[i] = bundle->items[--bundle->n_items];
			return fd;
		}
	return -1;
}

const char *bundle_find(const struct bundle *bundle, const char *prefix)
{
	for (uint32_t i = 0; i < bundle->n_items; i++)
		if (!strncmp(bundle->items[i].name, prefix, strlen(prefix)))
			return bundle->items[i].name;
	return NULL;
}

/* Whoever waits at the other end of a control socket is told at once: the holder's copy would keep it
 * open a moment longer.  shutdown() of anything else says ENOTSOCK. */
static void item_close(const struct bundle_item *item)
{
	if (item->name[0] == 'c')
		(void)shutdown(item->fd, SHUT_RDWR);
	close(item->fd);
}

void bundle_clear(struct bundle *bundle)
{
	if (bundle->kind == BUNDLE_KEEPER)
		keeper_link_say(bundle, KEEPER_CLEAR, NULL);
	for (uint32_t i = 0; i < bundle->n_items; i++) {
		if (bundle->kind == BUNDLE_STORE)
			fdstore_forget(bundle->items[i].name);
		item_close(&bundle->items[i]);
	}
	bundle->n_items = 0;
}

void bundle_drop_rest(struct bundle *bundle)
{
	for (uint32_t i = 0; i < bundle->n_items; i++) {
		bundle_forget(bundle, bundle->items[i].name);
		item_close(&bundle->items[i]);
	}
	bundle->n_items = 0;
}

void bundle_keep_all(struct bundle *bundle, const struct bundle_item *items, uint32_t n)
{
	if (bundle->kind == BUNDLE_KEEPER)
		keeper_link_keep(bundle, items, n);
	for (uint32_t i = 0; bundle->kind == BUNDLE_STORE && i < n; i++)
		fdstore_keep(&items[i]);
}

void bundle_keep(struct bundle *bundle, const char *name, int fd)
{
	struct bundle_item item = { .fd = fd };

	assert(bundle_name_valid(name));
	snprintf(item.name, sizeof(item.name), "%s", name);
	bundle_keep_all(bundle, &item, 1);
}

void bundle_forget(struct bundle *bundle, const char *name)
{
	if (bundle->kind == BUNDLE_KEEPER)
		keeper_link_say(bundle, KEEPER_FORGET, name);
	if (bundle->kind == BUNDLE_STORE)
		fdstore_forget(name);
}

void bundle_release(struct bundle *bundle, uint32_t n_extents)
{
	char name[BUNDLE_NAME_MAX];

	if (bundle->kind == BUNDLE_KEEPER)
		keeper_link_release(bundle);
	if (bundle->kind != BUNDLE_STORE)
		return;
	/* The book first: killed on the way, we have left no bundle. */
	fdstore_forget("book");
	fdstore_forget("mover");
	fdstore_forget("spill");
	for (uint32_t i = 0; i < n_extents; i++)
		fdstore_forget(bundle_name(name, "x", i));
}

void bundle_close(struct bundle *bundle)
{
	for (uint32_t i = 0; i < bundle->n_items; i++)
		item_close(&bundle->items[i]);
	if (bundle->keeper >= 0)
		close(bundle->keeper);
	free(bundle->items);
	*bundle = (struct bundle){ .keeper = -1 };
}
