/*
 * REP MOVSB of 1 MiB, upwards and downwards, between places 16 MiB apart, REPE CMPSB of both and REPNE SCASB for a byte
 * at the end.
 */
#include "bench.h"

#define SIZE (1 << 20)
#define APART (16 << 20)
static uint8_t bytes[APART + SIZE] __attribute__((aligned(4096)));

static uint64_t work(uint64_t n)
{
	uint8_t *from = bytes, *to = bytes + APART;
	uint64_t state = 5, sum = 0;

	for (size_t i = 0; i < SIZE; i++)
		from[i] = next_random(&state) % 255;
	from[SIZE - 1] = 255;
	while (n--) {
		uint8_t *d = to, *s = from;
		size_t count = SIZE;

		from[n % (SIZE - 1)] ^= 1;
		if (n & 1) {
			asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
		} else {
			d += SIZE - 1, s += SIZE - 1;
			asm volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
		}
		to[n % 4096 * 255]++;
		d = to, s = from, count = SIZE;
		asm volatile("repe cmpsb" : "+D"(d), "+S"(s), "+c"(count) : : "memory", "cc");
		sum = mix(sum, count);
		d = to, count = SIZE;
		asm volatile("repne scasb" : "+D"(d), "+c"(count) : "a"(255) : "memory", "cc");
		sum = mix(sum, count);
	}
	return sum;
}
