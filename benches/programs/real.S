/*
 * A multiboot kernel that goes to real-address mode and runs there what programs of that time consist of. WORK is defined on
 * the command line.
 */
#define BLOB 0x1000			/* the segment that the 16-bit code runs in */
#define OTHER (BLOB + 1)		/* another one, which begins 16 bytes later */
#define NODES 0x3000			/* where a list of far pointers begins */
#define NEAR(label) ((label) - blob)

	.section .text
	.align 4
header:
	.long 0x1badb002, 0, -0x1badb002

	.globl _start
	.code32
_start:
	cli
	cld
	mov $blob, %esi
	mov $(BLOB << 4), %edi
	mov $(end - blob), %ecx
	rep movsb
	lgdt gdt_pointer
	ljmp $8, $NEAR(segmented)
	.align 8
gdt:	.quad 0, 0x00009b000000ffff + (BLOB << 20), 0x000093000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.code16
blob:
segmented:
	mov $0x10, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov %cr0, %eax
	and $0xfe, %al
	mov %eax, %cr0
	ljmp $BLOB, $NEAR(real)
idt:	.word 0x3ff, 0, 0
real:
	mov %cs, %ax
	mov %ax, %ds
	mov %ax, %es
	lidt NEAR(idt)
	mov $0x2000, %ax
	mov %ax, %ss
	mov $0x8000, %sp
	mov $NEAR(up), %si
	call say
	mov $NEAR(rows), %di
1:	mov (%di), %bx			/* the row's code, and its name */
	test %bx, %bx
	jz off
	add $2, %di
	mov $NEAR(begin), %si
	call say
	mov %di, %si
	call say_name
	mov $'\n', %al
	call put
	push %di
	xor %ax, %ax
	mov $WORK, %ebp
	call *%bx
	pop %di
	push %ax
	mov $NEAR(ends), %si
	call say
	mov %di, %si
	call say_name
	mov %si, %di
	mov $' ', %al
	call put
	pop %bx
	mov $4, %cx
2:	rol $4, %bx
	mov %bl, %al
	and $15, %al
	add $'a', %al
	call put
	loop 2b
	mov $'\n', %al
	call put
	jmp 1b
off:	mov $0xfe, %al			/* the keyboard controller's reset */
	out %al, $0x64
	hlt
	jmp off

say:	mov $'\n', %al
	call put
say_name:
1:	lodsb
	test %al, %al
	jz 2f
	call put
	jmp 1b
2:	ret
put:	push %ax
	push %dx
	push %ax
	mov $0x3fd, %dx
1:	in %dx, %al
	test $0x20, %al
	jz 1b
	pop %ax
	mov $0x3f8, %dx
	out %al, %dx
	pop %dx
	pop %ax
	ret
up:	.asciz "RINGWORLD-USERSPACE\n"
begin:	.asciz "@begin "
ends:	.asciz "@end "

rows:	.word NEAR(words)
	.asciz "words"
	.word NEAR(far_data)
	.asciz "far-data"
	.word NEAR(segments)
	.asciz "segments"
	.word NEAR(far_calls)
	.asciz "far-calls"
	.word NEAR(registers)
	.asciz "registers"
	.word NEAR(interrupts)
	.asciz "interrupts"
	.word 0

	.align 16
/* Sums of an array of words. */
words:	xor %si, %si
	shl $2, %ebp
1:	add 0x8000(%si), %ax
	rol $1, %ax
	add %bp, 0x8000(%si)
	add $2, %si
	and $0xfff, %si
	dec %ebp
	jnz 1b
	ret

/* A list of 64 nodes in as many segments: next, and a word. */
far_data:
	mov $64, %cx
	mov $NODES, %dx
1:	mov %dx, %es
	add $0x41, %dx
	movw $8, %es:(8)
	mov %dx, %es:(10)
	mov %cx, %es:(12)
	loop 1b
	movw $NODES, %es:(10)
	mov $8, %bx
2:	add %es:4(%bx), %ax
	les %es:(%bx), %bx
	dec %ebp
	jnz 2b
	push %ds
	pop %es
	ret

/* Words copied from segment to segment, by pointers in memory. */
segments:
1:	push %ds
	les NEAR(to), %di
	lds NEAR(from), %si
	mov (%si), %dx
	add %bp, %dx
	mov %dx, %es:(%di)
	add %dx, %ax
	mov %ss, %dx
	mov %dx, %es
	pop %ds
	dec %ebp
	jnz 1b
	push %ds
	pop %es
	ret
from:	.word 0x10, NODES
to:	.word 0x20, NODES + 0x800

far_calls:
1:	lcall $OTHER, $(NEAR(function) - 16)
	lcall *NEAR(pointer)
	dec %ebp
	jnz 1b
	ret
pointer: .word NEAR(another), BLOB
function:
	add %bp, %ax
	lret
another:
	xor %bp, %ax
	lret

/* As handlers of interrupts begin and end. */
registers:
1:	call 2f
	dec %ebp
	jnz 1b
	ret
2:	pusha
	push %ds
	push %es
	mov %ss, %dx
	mov %dx, %ds
	add %ax, 0x100
	mov 0x100, %dx
	pop %es
	pop %ds
	popa
	add %bp, %ax
	ret

interrupts:
	push %ds
	xor %dx, %dx
	mov %dx, %ds
	movw $NEAR(handler), 0x180
	movw $BLOB, 0x182
	pop %ds
	shr $2, %ebp
1:	int $0x60
	dec %ebp
	jnz 1b
	ret
handler:
	add %bp, %ax
	iret
end:
