/* gguf_file.h - what an open GGUF file is made of: gguf.c fills it, gguf_value.c reads it. */
#ifndef ENGINE_GGUF_FILE_H
#define ENGINE_GGUF_FILE_H

#include "engine/gguf.h"

/* One metadata entry, checked: value lies in the file and has the size its type says. */
struct gguf_entry {
	struct gguf_string key;        /* printable ASCII */
	const uint8_t *value;          /* scalars: their bytes; strings: text; arrays: elements */
	uint64_t bytes;
	uint64_t n;                    /* arrays: number of elements */
	enum gguf_type type;
	enum gguf_type element;        /* arrays: type of the elements */
};

struct gguf {
	char *path;
	const uint8_t *base;
	uint64_t size_bytes;
	bool mapped;                   /* base is ours to munmap */
	struct gguf_identity identity;
	uint64_t alignment;            /* of tensor data, power of two, 8 .. 1 MiB */
	struct gguf_entry *entries;    /* (n_entries), ascending by key, keys distinct */
	uint64_t n_entries;
	struct gguf_tensor *tensors;   /* (n_tensors), ascending by name, names distinct */
	uint64_t n_tensors;
	char *names;                   /* the tensors' names, NUL-terminated, one after the other */
};

/* Bytes of one value of a fixed-size type; 0 for strings, arrays and unknown numbers. */
uint32_t gguf_type_bytes(uint32_t type);
const char *gguf_type_name(uint32_t type);

#endif
