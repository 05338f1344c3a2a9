/*
 * The boot sector of Bochs' disk. The BIOS jumps to it in real mode at 0x7c00; it enters flat 32-bit segments, reads the
 * kernel and then the boot parameters with the initrd from the disk (ATA, programmed I/O), and enters the kernel by the
 * 32-bit boot protocol.
 *
 * KERNEL_SECTORS, KERNEL, DATA_SECTORS and BOOT_PARAMS are defined on the command line; KERNEL's sectors come first.
 */
	.code16
	.globl _start
_start:
	cli
	xor %ax, %ax
	mov %ax, %ds
	in $0x92, %al			/* A20 */
	or $2, %al
	out %al, $0x92
	lgdtl gdt
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x10, $protected

	.code32
protected:
	mov $0x18, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $0x7c00, %esp
	mov $1, %ebx			/* the next sector */
	mov $KERNEL, %edi
	mov $KERNEL_SECTORS, %ebp
	call read
	mov $BOOT_PARAMS, %edi
	mov $DATA_SECTORS, %ebp
	call read
	mov $BOOT_PARAMS, %esi
	mov $KERNEL, %eax
	xor %ebx, %ebx
	xor %ebp, %ebp
	xor %edi, %edi
	jmp *%eax

/* Reads EBP sectors from EBX on to EDI. */
read:
	mov $0x1f2, %edx
	mov $1, %al			/* one sector */
	out %al, %dx
	mov %ebx, %eax
	inc %edx
	out %al, %dx			/* 28 bits of its address */
	shr $8, %eax
	inc %edx
	out %al, %dx
	shr $8, %eax
	inc %edx
	out %al, %dx
	shr $8, %eax
	or $0xe0, %al
	inc %edx
	out %al, %dx
	inc %edx
	mov $0x20, %al			/* READ SECTORS */
	out %al, %dx
1:	in %dx, %al
	and $0x88, %al			/* BSY clear, DRQ set */
	cmp $0x08, %al
	jne 1b
	mov $0x1f0, %edx
	mov $128, %ecx
	cld
	rep insl
	inc %ebx
	dec %ebp
	jnz read
	ret

	.balign 8
gdt:	.word 31			/* the null descriptor holds the table's address */
	.long gdt
	.word 0
	.quad 0
	.quad 0x00cf9a000000ffff
	.quad 0x00cf92000000ffff

	.org 510
	.word 0xaa55
