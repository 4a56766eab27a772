/* test_gguf.c - the container: what it gives back, and that no lie in it gets through. */
#include "engine/gguf.h"

#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/lib/gguf_maker.h"
#include "tests/lib/suite.h"

/* Open what the maker holds; the result lives until close_made(). */
static uint8_t *made;

static int open_made(const struct gguf_maker *m, struct gguf **ret_gguf, char err[512])
{
	size_t size;

	free(made);
	made = maker_file(m, &size);
	err[0] = '\0';
	return gguf_open_memory(made, size, "made", ret_gguf, err, 512);
}

static void expect_refusal(struct gguf_maker *m, const char *words)
{
	struct gguf *g;
	char err[512];
	int rc = open_made(m, &g, err);

	ck_assert_msg(rc == -EINVAL, "accepted what should say \"%s\"", words);
	ck_assert_msg(strstr(err, words), "\"%s\" does not say \"%s\"", err, words);
	ck_assert_msg(!strncmp(err, "made: ", 6), "\"%s\" does not name the file", err);
	maker_free(m);
}

START_TEST(gives_back_what_was_written)
{
	const char *const words[] = { "", "two", "drei" };
	const int32_t numbers[] = { -1, 7 };
	const int64_t negative = -5;
	const uint64_t large = 1ull << 40, fits = 77;
	const double wide = 2.5;
	struct gguf_maker m;
	struct gguf_array array;
	struct gguf_string s;
	struct gguf *g;
	uint32_t u;
	float f;
	bool b;
	char err[512];

	maker_init(&m);
	maker_u32(&m, "z.u32", 42);
	maker_f32(&m, "a.f32", 1.5f);
	maker_bool(&m, "m.bool", true);
	maker_string(&m, "m.string", "text");
	maker_strings(&m, "m.words", words, 3);
	maker_array(&m, "m.numbers", GGUF_I32, 2, numbers, sizeof numbers);
	maker_raw(&m, "m.negative", GGUF_I64, &negative, 8);
	maker_raw(&m, "m.large", GGUF_U64, &large, 8);
	maker_raw(&m, "m.fits", GGUF_U64, &fits, 8);
	maker_raw(&m, "m.wide", GGUF_F64, &wide, 8);
	ck_assert_msg(!open_made(&m, &g, err), "%s", err);
	ck_assert(!gguf_get_u32(g, "z.u32", &u, err, sizeof err) && u == 42);
	ck_assert(!gguf_get_u32(g, "m.fits", &u, err, sizeof err) && u == 77);
	ck_assert(!gguf_get_f32(g, "a.f32", &f, err, sizeof err) && f == 1.5f);
	ck_assert(!gguf_get_f32(g, "m.wide", &f, err, sizeof err) && f == 2.5f);
	ck_assert(!gguf_get_bool(g, "m.bool", &b, err, sizeof err) && b);
	ck_assert(!gguf_get_string(g, "m.string", &s, err, sizeof err) && gguf_string_is(s, "tex"
											    "t"));
	ck_assert(!gguf_get_array(g, "m.numbers", GGUF_I32, &array, err, sizeof err));
	ck_assert(array.n == 2 && array.bytes == 8 && !memcmp(array.data, numbers, 8));
	ck_assert(!gguf_get_array(g, "m.words", GGUF_STRING, &array, err, sizeof err));
	for (unsigned i = 0; i < 3; i++)
		ck_assert(gguf_next_string(&array, &s) && gguf_string_is(s, words[i]));
	ck_assert(!gguf_next_string(&array, &s) && array.bytes == 0);

	strcpy(err, "untouched");
	ck_assert_int_eq(gguf_get_u32(g, "m.absent", &u, err, sizeof err), GGUF_E_ABSENT);
	ck_assert_str_eq(err, "untouched");
	ck_assert_int_eq(gguf_get_u32(g, "m.negative", &u, err, sizeof err), -EINVAL);
	ck_assert_str_eq(err, "made: m.negative is negative, expected a whole number from 0 to "
			      "2^32-1");
	ck_assert_int_eq(gguf_get_u32(g, "m.large", &u, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_u32(g, "a.f32", &u, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_f32(g, "z.u32", &f, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_bool(g, "z.u32", &b, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_string(g, "z.u32", &s, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_array(g, "z.u32", GGUF_I32, &array, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_array(g, "m.words", GGUF_I32, &array, err, sizeof err), -EINVAL);
	ck_assert_str_eq(err, "made: m.words is array of string, expected array of i32");
	gguf_close(g);
	maker_free(&m);
}
END_TEST

START_TEST(floats_that_are_no_numbers)
{
	const double too_wide = 1e300;
	struct gguf_maker m;
	struct gguf *g;
	float f;
	char err[512];

	maker_init(&m);
	maker_f32(&m, "nan", NAN);
	maker_f32(&m, "inf", INFINITY);
	maker_raw(&m, "wide", GGUF_F64, &too_wide, 8);
	ck_assert_msg(!open_made(&m, &g, err), "%s", err);
	ck_assert_int_eq(gguf_get_f32(g, "nan", &f, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_f32(g, "inf", &f, err, sizeof err), -EINVAL);
	ck_assert_int_eq(gguf_get_f32(g, "wide", &f, err, sizeof err), -EINVAL);
	ck_assert_str_eq(err, "made: wide is not a finite number");
	gguf_close(g);
	maker_free(&m);
}
END_TEST

START_TEST(tensors_lie_where_they_should)
{
	const float values[4] = { 1, 2, 3, 4 };
	struct gguf_maker m;
	const struct gguf_tensor *t;
	struct gguf *g;
	char err[512];

	maker_init(&m);
	maker_tensor(&m, "b", 64, 3, 8, NULL); /* Q8_0 */
	maker_tensor(&m, "a", 2, 2, 0, values);
	ck_assert_msg(!open_made(&m, &g, err), "%s", err);
	ck_assert_uint_eq(gguf_n_tensors(g), 2);
	t = gguf_find_tensor(g, "a");
	ck_assert(t && t->bytes == 16 && !memcmp(t->data, values, 16));
	ck_assert(t->dims[0] == 2 && t->dims[1] == 2 && t->dims[2] == 1 && t->dims[3] == 1);
	t = gguf_find_tensor(g, "b");
	ck_assert(t && t->bytes == 64 / 32 * 34 * 3 && t->type == 8);
	ck_assert(!gguf_find_tensor(g, "c"));
	ck_assert(gguf_tensor_at(g, 1) == t && !gguf_tensor_at(g, 2));
	gguf_close(g);
	maker_free(&m);
}
END_TEST

START_TEST(headers_that_lie)
{
	struct gguf_maker m;
	struct gguf *g;
	char err[512];

	maker_init(&m);
	m.version = 1;
	expect_refusal(&m, "version is 1, supported are 2 and 3");
	m.version = 0x03000000;
	expect_refusal(&m, "big-endian");
	m.n_entries = 4097;
	expect_refusal(&m, "claims 4097 metadata entries");
	m.n_entries = UINT64_MAX;
	expect_refusal(&m, "metadata entries");
	m.n_tensors = UINT64_MAX;
	expect_refusal(&m, "claims 18446744073709551615 tensors");
	maker_u32(&m, "key", 1);
	m.n_tensors = 200;
	expect_refusal(&m, "claims 200 tensors; at most 262144 are allowed and 40 bytes are left");
	ck_assert_int_eq(gguf_open_memory("GGML....", 8, "made", &g, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "begins with bytes 47 47 4d 4c"));
	ck_assert_int_eq(gguf_open_memory("", 0, "made", &g, err, sizeof err), -EINVAL);
}
END_TEST

START_TEST(metadata_that_lies)
{
	const uint64_t huge = UINT64_MAX;
	const uint8_t two = 2;
	uint8_t bytes[64] = { 0 };
	char key[300];
	struct gguf_maker m;

	maker_init(&m);
	maker_u32(&m, "twice", 1);
	maker_u32(&m, "other", 1);
	maker_u32(&m, "twice", 2);
	expect_refusal(&m, "\"twice\" stands in the file twice");
	maker_u32(&m, "", 1);
	expect_refusal(&m, "entry 1 of 1 has a key of 0 bytes");
	maker_u32(&m, "a\nb", 1);
	expect_refusal(&m, "\"a?b\", expected 1 to 255 printable");
	memset(key, 'k', 256);
	key[256] = '\0';
	maker_u32(&m, key, 1);
	expect_refusal(&m, "key of 256 bytes");
	maker_raw(&m, "key", 13, bytes, 8);
	expect_refusal(&m, "value type 13");
	maker_raw(&m, "key", GGUF_BOOL, &two, 1);
	expect_refusal(&m, "bool with value 2");
	maker_raw(&m, "key", GGUF_STRING, &huge, 8);
	expect_refusal(&m, "file ends");
	maker_array(&m, "key", GGUF_ARRAY, 1, bytes, 32);
	expect_refusal(&m, "array of arrays");
	maker_array(&m, "key", 99, 1, bytes, 32);
	expect_refusal(&m, "array of an unknown type");
	maker_array(&m, "key", GGUF_U32, 1ull << 62, bytes, 32); /* times 4 wraps to 0 */
	expect_refusal(&m, "claims 4611686018427387904 elements of type u32, but only 45 bytes");
	maker_array(&m, "key", GGUF_STRING, 1ull << 61, bytes, 32);
	expect_refusal(&m, "elements of type string");
	memset(bytes + 8, 0xff, 8); /* the second string's length */
	maker_array(&m, "key", GGUF_STRING, 2, bytes, 32);
	expect_refusal(&m, "string 1 of 2 in metadata \"key\" reaches past the end");
}
END_TEST

START_TEST(alignments_that_lie)
{
	static const uint32_t bad[] = { 0, 1, 4, 24, 33, 1u << 21, UINT32_MAX };
	struct gguf_maker m;

	maker_init(&m);
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		maker_u32(&m, "general.alignment", bad[i]);
		expect_refusal(&m, "general.alignment is");
	}
	maker_string(&m, "general.alignment", "32");
	expect_refusal(&m, "general.alignment is string");
}
END_TEST

static void expect_row_refusal(const char *name, uint32_t n_dims, const uint64_t *dims,
			       uint32_t type, uint64_t offset, const char *words)
{
	struct gguf_maker m;

	maker_init(&m);
	maker_tensor(&m, "sound", 32, 2, 0, NULL); /* 256 bytes at offset 0 */
	maker_tensor_row(&m, name, n_dims, dims, type, offset);
	expect_refusal(&m, words);
}

START_TEST(tensors_that_lie)
{
	const uint64_t ok[4] = { 32, 1, 1, 1 }, zero[2] = { 32, 0 }, odd[1] = { 33 };
	const uint64_t product[3] = { 1ull << 32, 1ull << 32, 2 }, size[1] = { 1ull << 63 };
	const uint64_t large[2] = { 1ull << 40, 4 };
	char name[130];

	expect_row_refusal("t", 0, ok, 0, 0, "tensor t has 0 dimensions");
	expect_row_refusal("t", 5, (const uint64_t[5]){ 32, 1, 1, 1, 1 }, 0, 0,
			   "tensor t has 5 dimensions");
	expect_row_refusal("t", 2, zero, 0, 256, "dimension 1 of size 0");
	expect_row_refusal("t", 1, ok, 4, 256, "element type 4, which is not a known");
	expect_row_refusal("t", 1, ok, 255, 256, "element type 255");
	expect_row_refusal("t", 1, odd, 8, 256,
			   "rows of 33 elements, type Q8_0 needs a multiple of 32");
	expect_row_refusal("t", 3, product, 0, 256, "product overflows");
	expect_row_refusal("t", 1, size, 0, 256, "size in bytes overflows");
	expect_row_refusal("t", 2, large, 0, 256, "needs 17592186044416 bytes at offset 256");
	expect_row_refusal("t", 1, ok, 0, 8, "not a multiple of the alignment 32");
	expect_row_refusal("t", 1, ok, 0, 256, "needs 128 bytes at offset 256");
	expect_row_refusal("t", 1, ok, 0, UINT64_MAX - 31,
			   "needs 128 bytes at offset 18446744073709551584");
	expect_row_refusal("t", 1, ok, 0, 224, "needs 128 bytes at offset 224");
	expect_row_refusal("t", 1, ok, 0, 128, "within the bytes of tensor sound");
	expect_row_refusal("t", 1, ok, 0, 0, "within the bytes of tensor");
	expect_row_refusal("", 1, ok, 0, 0, "name of 0 bytes");
	expect_row_refusal("a\x1b[2J", 1, ok, 0, 0, "\"a?[2J\"");
	memset(name, 'n', 128);
	name[128] = '\0';
	expect_row_refusal(name, 1, ok, 0, 0, "name of 128 bytes");
}
END_TEST

START_TEST(one_name_for_two_tensors)
{
	struct gguf_maker m;

	maker_init(&m);
	maker_tensor(&m, "same", 32, 2, 0, NULL);
	maker_tensor(&m, "same", 32, 2, 0, NULL);
	expect_refusal(&m, "tensor same stands in the file twice");
}
END_TEST

START_TEST(a_file_that_goes_on)
{
	const uint8_t more[64] = { 0 };
	struct gguf_maker m;
	struct gguf *g;
	char err[512];

	maker_init(&m);
	maker_tensor(&m, "t", 8, 1, 0, NULL); /* 32 bytes: no padding */
	maker_append(&m.data, more, 31);
	ck_assert_msg(!open_made(&m, &g, err), "%s", err);
	gguf_close(g);
	maker_append(&m.data, more, 1);
	expect_refusal(&m, "the file goes on for 32 bytes after its last tensor");
	maker_u32(&m, "key", 1);
	maker_append(&m.data, more, 64);
	expect_refusal(&m, "the file goes on for 64 bytes after its last tensor");
}
END_TEST

/* Everything a reader can meet: all value types and a tensor. */
static uint8_t *make_rich(size_t *ret_size)
{
	const char *const words[] = { "one", "", "three" };
	const uint16_t shorts[3] = { 1, 2, 3 };
	struct gguf_maker m;
	uint8_t *file;

	maker_init(&m);
	maker_string(&m, "general.architecture", "llama");
	maker_strings(&m, "words", words, 3);
	maker_array(&m, "shorts", GGUF_U16, 3, shorts, sizeof shorts);
	maker_bool(&m, "yes", true);
	maker_f32(&m, "half", 0.5f);
	maker_u32(&m, "general.alignment", 32);
	maker_tensor(&m, "x", 32, 2, 8, NULL);
	maker_tensor(&m, "y", 4, 1, 0, NULL);
	file = maker_file(&m, ret_size);
	maker_free(&m);
	return file;
}

START_TEST(cut_off_anywhere)
{
	size_t size;
	uint8_t *file = make_rich(&size);
	size_t last = size - 16; /* the maker pads the last tensor, which has 16 bytes, to 32 */
	struct gguf *g;
	char err[512];

	for (size_t n = 0; n < last; n++) {
		uint8_t *part =
			malloc(n ? n : 1); /* of its own, so that a sanitizer sees its end */

		memcpy(part, file, n);
		err[0] = '\0';
		ck_assert_int_eq(gguf_open_memory(part, n, "made", &g, err, sizeof err), -EINVAL);
		ck_assert(err[0]);
		free(part);
	}
	ck_assert_int_eq(gguf_open_memory(file, last, "made", &g, err, sizeof err), 0);
	gguf_close(g);
	free(file);
}
END_TEST

START_TEST(any_byte_changed)
{
	size_t size, n_refused = 0;
	uint8_t *file = make_rich(&size);
	struct gguf *g;
	char err[512];

	for (size_t at = 0; at < size; at++) {
		for (unsigned value = 0; value < 256; value++) {
			uint8_t before = file[at];

			file[at] = (uint8_t)value;
			if (gguf_open_memory(file, size, "made", &g, err, sizeof err)) {
				n_refused++;
			} else {
				const struct gguf_tensor *t;

				/* what is accepted can be read to its last byte */
				for (uint64_t i = 0; (t = gguf_tensor_at(g, i)); i++)
					ck_assert(t->data >= file &&
						  t->data + t->bytes <= file + size);
				gguf_close(g);
			}
			file[at] = before;
		}
	}
	ck_assert_uint_gt(n_refused, 24 * 200);
	free(file);
}
END_TEST

START_TEST(things_that_are_no_files)
{
	char directory[] = "/tmp/test_gguf.XXXXXX", path[64], err[512];
	struct gguf *g;
	FILE *f;

	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(gguf_open(directory, &g, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "not a regular file"));
	snprintf(path, sizeof path, "%s/x", directory);
	ck_assert_int_eq(gguf_open(path, &g, err, sizeof err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "No such file"));
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(gguf_open(path, &g, err, sizeof err), -EINVAL); /* and does not wait */
	unlink(path);
	f = fopen(path, "w");
	fclose(f);
	ck_assert_int_eq(gguf_open(path, &g, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "is empty"));
	unlink(path);
	rmdir(directory);
}
END_TEST

START_TEST(a_file_knows_its_identity)
{
	char path[] = "/tmp/test_gguf.XXXXXX", err[512];
	int fd = mkstemp(path);
	size_t size;
	uint8_t *file = make_rich(&size);
	struct gguf *g;
	struct stat st;

	ck_assert_int_eq(write(fd, file, size), (ssize_t)size);
	fstat(fd, &st);
	close(fd);
	ck_assert_msg(!gguf_open(path, &g, err, sizeof err), "%s", err);
	ck_assert_str_eq(gguf_path(g), path);
	ck_assert(gguf_identity(g)->inode == st.st_ino && gguf_identity(g)->size_bytes == size);
	unlink(path); /* the mapping outlives the name */
	ck_assert_uint_eq(gguf_find_tensor(g, "y")->bytes, 16);
	gguf_close(g);
	free(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("gguf");
	TCase *tc = tcase_create("gguf");
	int failed;

	tcase_add_test(tc, gives_back_what_was_written);
	tcase_add_test(tc, floats_that_are_no_numbers);
	tcase_add_test(tc, tensors_lie_where_they_should);
	tcase_add_test(tc, headers_that_lie);
	tcase_add_test(tc, metadata_that_lies);
	tcase_add_test(tc, alignments_that_lie);
	tcase_add_test(tc, tensors_that_lie);
	tcase_add_test(tc, one_name_for_two_tensors);
	tcase_add_test(tc, a_file_that_goes_on);
	tcase_add_test(tc, cut_off_anywhere);
	tcase_add_test(tc, any_byte_changed);
	tcase_add_test(tc, things_that_are_no_files);
	tcase_add_test(tc, a_file_knows_its_identity);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	failed = suite_result(suite);
	free(made);
	return failed;
}
