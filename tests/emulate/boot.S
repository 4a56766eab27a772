/* boot.S - from a Multiboot loader into 64-bit code with AVX-512 enabled.
 *
 * The first GiB is mapped to itself in 2 MiB pages; interrupts stay off and there is no interrupt
 * table, so that any exception ends the machine.  Used by tests/emulate_avx512.sh alone. */
	.section .multiboot, "a"
	.balign 4
	.long 0x1BADB002, 0, -0x1BADB002

	.text
	.code32
	.globl start
start:
	cli
	movl $stack_end, %esp
	/* page tables: one entry, one entry, 512 pages of 2 MiB (present, writable, large) */
	movl $directories + 3, tables
	movl $pages + 3, directories
	xorl %ecx, %ecx
1:	movl %ecx, %eax
	shll $21, %eax
	orl $0x83, %eax
	movl %eax, pages(, %ecx, 8)
	incl %ecx
	cmpl $512, %ecx
	jne 1b
	movl $tables, %eax
	movl %eax, %cr3
	movl $0x40620, %eax            /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
	movl %eax, %cr4
	movl $0xC0000080, %ecx         /* EFER: long mode */
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl %cr0, %eax
	andl $~0xC, %eax               /* neither EM nor TS */
	orl $0x80000022, %eax          /* paging, NE, MP */
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $start64

	.code64
start64:
	xorl %eax, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %ecx, %ecx
	xorl %edx, %edx
	movl $0xE7, %eax               /* x87, SSE, AVX, all of AVX-512 */
	xsetbv
	movl $0xC0000100, %ecx         /* FS: where compiled code looks for the stack guard */
	movl $thread_block, %eax
	xorl %edx, %edx
	wrmsr
	movq $stack_end, %rsp
	xorl %ebp, %ebp
	call runtime_start
2:	hlt
	jmp 2b

	.data
	.balign 8
gdt:	.quad 0, 0x00AF9A000000FFFF
gdt_pointer:
	.word 15
	.long gdt

	.bss
	.balign 4096
tables:	.skip 4096
directories: .skip 4096
pages:	.skip 4096
thread_block: .skip 4096
stack:	.skip 1 << 20
stack_end:
	.section .note.GNU-stack, "", @progbits
