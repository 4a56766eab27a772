/* image.c - what the driver reads of a fatbin or cubin: the kernels' names, their parameters' places and sizes
 * and what they need (.nv.info, .nv.shared).  The code itself is never looked at.
 * Of a fatbin that cubin is taken which fits compute capability 9.0; PTX alone is refused. */
#include "tests/fakecuda/fake.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define FATBIN_MAGIC 0xba55ed50u
enum { CAPABILITY = 90, FUNCTIONS_MAX = 200, KIND_ELF = 2 };
/* Attributes of .nv.info, and the form in which one has a size and a payload. */
enum { INFO_MAX_THREADS = 0x05, INFO_PARAMETER_BYTES = 0x19, INFO_PARAMETER = 0x17, INFO_REGISTERS = 0x2f,
       INFO_FRAME = 0x11, FORM_SIZED = 4, FORM_HALF = 3 };

struct fatbin { uint32_t magic; uint16_t version, header_bytes; uint64_t bytes; };
struct fat_entry { uint16_t kind, version; uint32_t header_bytes; uint64_t bytes; uint32_t packed_bytes, unused;
		   uint16_t minor, major; uint32_t capability; };

struct elf {
	const unsigned char *start;
	size_t bytes;
	const Elf64_Ehdr *head;
	const Elf64_Shdr *sections;
};

static const void *within(const struct elf *e, uint64_t offset, uint64_t bytes)
{
	return offset <= e->bytes && bytes <= e->bytes - offset ? e->start + offset : NULL;
}

static const Elf64_Shdr *section_of(const struct elf *e, const char *prefix, const char *name)
{
	const Elf64_Shdr *names = &e->sections[e->head->e_shstrndx];
	const char *text = within(e, names->sh_offset, names->sh_size);
	size_t n = strlen(prefix);

	for (unsigned i = 0; text && i < e->head->e_shnum; i++) {
		const char *s = e->sections[i].sh_name < names->sh_size ? text + e->sections[i].sh_name : "";

		if (!strncmp(s, prefix, n) && !strcmp(s + n, name))
			return &e->sections[i];
	}
	return NULL;
}

static uint32_t word_at(const unsigned char *p)
{
	uint32_t w;

	memcpy(&w, p, 4);
	return w;
}

/* The words of one function; symbol != 0: those of all functions that name this one. */
static void read_info(const struct elf *e, const Elf64_Shdr *section, uint32_t symbol, struct function *f)
{
	const unsigned char *p = section ? within(e, section->sh_offset, section->sh_size) : NULL;
	const unsigned char *end = p ? p + section->sh_size : NULL;

	while (p && end - p >= 4) {
		unsigned form = p[0], attribute = p[1], bytes = (unsigned)(p[2] | p[3] << 8);
		const unsigned char *payload = p + 4;

		p += 4;
		if (form != FORM_SIZED) {
			if (form == FORM_HALF && attribute == INFO_PARAMETER_BYTES)
				f->parameter_bytes = bytes;
			continue;
		}
		if (bytes > (size_t)(end - p))
			return;
		p += bytes;
		if (attribute == INFO_MAX_THREADS && bytes >= 12 && !symbol)
			f->max_threads = word_at(payload) * word_at(payload + 4) * word_at(payload + 8);
		if (attribute == INFO_REGISTERS && bytes >= 8 && symbol && word_at(payload) == symbol)
			f->registers = word_at(payload + 4);
		if (attribute == INFO_FRAME && bytes >= 8 && symbol && word_at(payload) == symbol)
			f->local_bytes = word_at(payload + 4);
		if (attribute == INFO_PARAMETER && bytes >= 12 && !symbol) {
			unsigned ordinal = word_at(payload + 4) & 0xffff;

			if (ordinal >= PARAMETERS_MAX)
				return;
			f->parameters[ordinal].offset = word_at(payload + 4) >> 16;
			f->parameters[ordinal].bytes = word_at(payload + 8) >> 18;
			if (ordinal >= f->n_parameters)
				f->n_parameters = ordinal + 1;
		}
	}
}

static CUresult read_functions(const struct elf *e, const Elf64_Shdr *table, struct module *m)
{
	const Elf64_Sym *symbols = within(e, table->sh_offset, table->sh_size);
	const Elf64_Shdr *names = table->sh_link < e->head->e_shnum ? &e->sections[table->sh_link] : NULL;
	const char *text = names ? within(e, names->sh_offset, names->sh_size) : NULL;

	if (!symbols || !text)
		return CUDA_ERROR_INVALID_IMAGE;
	for (unsigned i = 0; i < table->sh_size / sizeof(*symbols); i++) {
		const char *name = symbols[i].st_name < names->sh_size ? text + symbols[i].st_name : "";
		const Elf64_Shdr *shared;
		struct function *f = &m->functions[m->n_functions];

		/* An entry, not a function that entries call: bit 4 of st_other. */
		if (ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC || !(symbols[i].st_other & 0x10))
			continue;
		if (m->n_functions == FUNCTIONS_MAX || strlen(name) >= sizeof(f->name))
			return CUDA_ERROR_INVALID_IMAGE;
		strcpy(f->name, name);
		f->max_threads = 1024;
		read_info(e, section_of(e, ".nv.info.", name), 0, f);
		read_info(e, section_of(e, ".nv.info", ""), i, f);
		shared = section_of(e, ".nv.shared.", name);
		/* sm_90 keeps 1 KiB of each block for itself. */
		f->shared_bytes = shared && shared->sh_size > 1024 ? (unsigned)shared->sh_size - 1024 : 0;
		f->dynamic_bytes_max = 49152 - f->shared_bytes;
		m->n_functions++;
	}
	return CUDA_SUCCESS;
}

static CUresult parse_elf(const unsigned char *start, size_t bytes, struct module *m)
{
	struct elf e = { .start = start, .bytes = bytes, .head = (const Elf64_Ehdr *)start };
	const Elf64_Shdr *symbols;

	if (bytes < sizeof(*e.head) || memcmp(start, ELFMAG, SELFMAG) || e.head->e_machine != EM_CUDA)
		return CUDA_ERROR_INVALID_IMAGE;
	e.sections = within(&e, e.head->e_shoff, (uint64_t)e.head->e_shnum * sizeof(*e.sections));
	if (!e.sections || e.head->e_shstrndx >= e.head->e_shnum)
		return CUDA_ERROR_INVALID_IMAGE;
	symbols = section_of(&e, ".symtab", "");
	if (!symbols)
		return CUDA_ERROR_INVALID_IMAGE;
	m->functions = calloc(FUNCTIONS_MAX + 1, sizeof(*m->functions));
	return m->functions ? read_functions(&e, symbols, m) : CUDA_ERROR_OUT_OF_MEMORY;
}

static size_t elf_bytes(const unsigned char *start)
{
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)start;
	size_t sections = h->e_shoff + (size_t)h->e_shnum * sizeof(Elf64_Shdr);
	size_t programs = h->e_phoff + (size_t)h->e_phnum * sizeof(Elf64_Phdr);

	return sections > programs ? sections : programs;
}

CUresult image_parse(const void *image, struct module *ret)
{
	const unsigned char *start = image, *best = NULL;
	const struct fatbin *fat = image;
	size_t best_bytes = 0, at;

	if (!memcmp(start, ELFMAG, SELFMAG))
		return parse_elf(start, elf_bytes(start), ret);
	if (fat->magic != FATBIN_MAGIC)
		return CUDA_ERROR_INVALID_IMAGE;
	for (at = fat->header_bytes; at + sizeof(struct fat_entry) <= fat->header_bytes + fat->bytes;) {
		const struct fat_entry *e = (const void *)(start + at);

		if (e->header_bytes < sizeof(*e) || e->bytes > fat->header_bytes + fat->bytes - at - e->header_bytes)
			return CUDA_ERROR_INVALID_IMAGE;
		if (e->kind == KIND_ELF && e->packed_bytes == 0 && e->capability / 10 == CAPABILITY / 10 &&
		    e->capability <= CAPABILITY) {
			best = start + at + e->header_bytes;
			best_bytes = e->bytes;
		}
		at += e->header_bytes + e->bytes;
	}
	if (!best) {
		fake_log("no cubin of the image fits capability %d (uncompressed; PTX is not "
			 "compiled here)",
			 CAPABILITY);
		return CUDA_ERROR_NO_BINARY_FOR_GPU;
	}
	return parse_elf(best, best_bytes, ret);
}
