/* images.S - the compiled kernels, as the driver loads them, inside the plugin. */
	.section .rodata
	.macro image name, file
	.globl device_image_\name
	.hidden device_image_\name
	.balign 64
device_image_\name:
	.incbin "\file"
	.endm
	image rows, "rows.fatbin"
	image product, "product.fatbin"
	image attention, "attention.fatbin"
	.section .note.GNU-stack, "", @progbits
