/* FNV-1a over 4 KiB, byte for byte, by a loop whose instructions lie on both sides of a page boundary. */
#include "bench.h"

#if defined(__x86_64__)
/* uint32_t straddle(uint32_t hash, const uint8_t *data, size_t size) */
asm(".pushsection .text.straddle, \"ax\", @progbits\n"
    ".balign 4096\n"
    ".skip 4096 - 8\n"
    "straddle:\n"
    "	mov %edi, %eax\n"		/* 2 bytes */
    "1:	movzbl (%rsi), %ecx\n"		/* 3 */
    "	xor %ecx, %eax\n"		/* 2: the page ends one byte later */
    "	inc %rsi\n"			/* 3: lies across it */
    "	imul $0x01000193, %eax, %eax\n"
    "	dec %rdx\n"
    "	jnz 1b\n"
    "	ret\n"
    ".popsection\n");
#elif defined(__aarch64__)
asm(".pushsection .text.straddle, \"ax\", @progbits\n"
    ".balign 4096\n"
    ".skip 4096 - 16\n"
    "straddle:\n"
    "	mov w3, #0x0193\n"
    "	movk w3, #0x0100, lsl #16\n"
    "1:	ldrb w4, [x1], #1\n"
    "	eor w0, w0, w4\n"		/* the page ends here */
    "	mul w0, w0, w3\n"
    "	subs x2, x2, #1\n"
    "	b.ne 1b\n"
    "	ret\n"
    ".popsection\n");
#endif
extern uint32_t straddle(uint32_t hash, const uint8_t *data, size_t size) asm("straddle");

static uint8_t data[4096];

static uint64_t work(uint64_t n)
{
	uint32_t hash = 0x811c9dc5;

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = i * 7;
	while (n--)
		hash = straddle(hash, data, sizeof data);
	return hash;
}
