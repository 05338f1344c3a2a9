/* Fibonacci of 20 by calls. */
#include "bench.h"

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls", "no-inline")))
static uint64_t fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--)
		sum = mix(sum, fib(20 + (sum & 1)));
	return sum;
}
