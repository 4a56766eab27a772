/* runtime.c - the few functions of libc that tests/tools/kernels_isa.c calls, without any system.
 *
 * Output goes to the first serial port; memory comes from one array and is never given back.
 * printf knows the conversions that the program uses: s, u, zu, llx, a width, '-' and '0'.  One
 * thread, no interrupts.  Built freestanding by tests/emulate_avx512.sh alone; no part of the test
 * library. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

int main(void);
_Noreturn void runtime_start(void);
_Noreturn void exit(int code);
_Noreturn void __stack_chk_fail(void);
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *p, int byte, size_t n);
int strcmp(const char *a, const char *b);
void *aligned_alloc(size_t alignment, size_t bytes);
void free(void *p);
float fmaf(float a, float b, float c);
float sqrtf(float x);
int __printf_chk(int flag, const char *format, ...);
int __fprintf_chk(void *stream, int flag, const char *format, ...);
int setvbuf(void *stream, char *buffer, int mode, size_t n);
int putchar(int c);
int puts(const char *s);

void *stdout, *stderr;             /* both are the serial port */
static uint8_t heap[160u << 20] __attribute__((aligned(64)));
static size_t heap_used;

static void port_write(uint16_t port, uint8_t byte)
{
	__asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port));
}

/* Until the serial port's status has one of these bits. */
static void serial_wait(uint8_t bits)
{
	uint8_t status;

	do
		__asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((uint16_t)0x3FD));
	while (!(status & bits));
}

int putchar(int c)
{
	serial_wait(0x20);             /* room for a byte */
	port_write(0x3F8, (uint8_t)c);
	return c;
}

int puts(const char *s)
{
	while (*s)
		putchar(*s++);
	return putchar('\n');
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *p = to;

	__asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memset(void *p, int byte, size_t n)
{
	void *at = p;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return p;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a - (unsigned char)*b;
}

float fmaf(float a, float b, float c)
{
	__asm__("vfmadd213ss %2, %1, %0" : "+x"(a) : "x"(b), "x"(c));
	return a;
}

float sqrtf(float x)
{
	__asm__("vsqrtss %0, %0, %0" : "+x"(x));
	return x;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	size_t at = (heap_used + alignment - 1u) & ~(alignment - 1u);

	if (at > sizeof(heap) || bytes > sizeof(heap) - at)
		return NULL;
	heap_used = at + bytes;
	return heap + at;
}

void free(void *p)
{
	(void)p;
}

static void print_padded(const char *s, size_t n, int width, int left, char pad)
{
	for (int i = (int)n; !left && i < width; i++)
		putchar(pad);
	for (size_t i = 0; i < n; i++)
		putchar(s[i]);
	for (int i = (int)n; left && i < width; i++)
		putchar(' ');
}

static void print(const char *f, va_list args)
{
	for (; *f; f++) {
		char digits[24], pad = ' ';
		int left = 0, width = 0, n_long = 0;
		if (*f != '%') {
			putchar(*f);
			continue;
		}
		for (f++; *f == '-' || *f == '0'; f++)
			*f == '-' ? (left = 1) : (pad = '0');
		for (; *f >= '0' && *f <= '9'; f++)
			width = 10 * width + *f - '0';
		for (; *f == 'l' || *f == 'z'; f++)
			n_long++;
		if (*f == 's') {
			const char *s = va_arg(args, const char *);
			size_t n = 0;
			while (s[n])
				n++;
			print_padded(s, n, width, left, ' ');
			continue;
		}
		uint64_t x = n_long ? va_arg(args, uint64_t) : va_arg(args, unsigned);
		const unsigned base = *f == 'x' ? 16 : 10;
		size_t at = sizeof(digits);
		do
			digits[--at] = "0123456789abcdef"[x % base];
		while (x /= base);
		print_padded(digits + at, sizeof(digits) - at, width, left, pad);
	}
}

int __printf_chk(int flag, const char *format, ...)
{
	(void)flag;
	va_list args;

	va_start(args, format);
	print(format, args);
	va_end(args);
	return 0;
}

int __fprintf_chk(void *stream, int flag, const char *format, ...)
{
	(void)flag;
	va_list args;

	(void)stream;
	va_start(args, format);
	print(format, args);
	va_end(args);
	return 0;
}

int setvbuf(void *stream, char *buffer, int mode, size_t n)
{
	(void)stream, (void)buffer, (void)mode, (void)n;
	return 0;
}

/* Bochs ends when this word arrives at this port; any other machine stops. */
_Noreturn void exit(int code)
{
	__printf_chk(0, "exit %u\n", (unsigned)code);
	serial_wait(0x40);             /* everything sent */
	for (const char *s = "Shutdown"; *s; s++)
		port_write(0x8900, (uint8_t)*s);
	for (;;)
		__asm__ volatile("hlt");
}

_Noreturn void __stack_chk_fail(void)
{
	puts("kernels_isa: a kernel wrote beyond its array on the stack");
	exit(3);
}

_Noreturn void runtime_start(void)
{
	port_write(0x3FB, 3);          /* serial port: 8 bits, no parity */
	__builtin_cpu_init();
	exit(main());
}
