/* 4,096 calls through a table of 16 function pointers in random order. */
#include "bench.h"

#define F(n, expression) __attribute__((noinline)) static uint64_t f##n(uint64_t x) { return expression; }
F(0, x + 1) F(1, x * 3) F(2, x ^ 0x5555) F(3, x << 1 | x >> 63) F(4, x - 7) F(5, ~x) F(6, x * x) F(7, x >> 3)
F(8, x + (x >> 7)) F(9, x ^ x << 13) F(10, x - (x << 5)) F(11, x | 0x10) F(12, x & ~0x20ul) F(13, -x) F(14, x * 5)
F(15, x + 99)
static uint64_t (*const volatile table[16])(uint64_t) = { f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13,
	f14, f15 };
static uint8_t order[4096];

static uint64_t work(uint64_t n)
{
	uint64_t state = 11, x = 1;

	for (size_t i = 0; i < sizeof order; i++)
		order[i] = next_random(&state) & 15;
	while (n--)
		for (size_t i = 0; i < sizeof order; i++)
			x = table[order[i]](x) + 1;
	return x;
}
