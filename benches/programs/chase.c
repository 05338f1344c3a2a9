/* Follows a random cycle of pointers through 1 MiB, 16,384 steps. */
#include "bench.h"

#define COUNT 16384
struct node {
	struct node *next;
	uint64_t value[7];
};
static struct node nodes[COUNT];
static uint32_t order[COUNT];

static uint64_t work(uint64_t n)
{
	uint64_t state = 9, sum = 0;

	for (uint32_t i = 0; i < COUNT; i++)
		order[i] = i;
	for (uint32_t i = COUNT - 1; i; i--) {
		uint32_t j = next_random(&state) % i, t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % COUNT]];
		nodes[i].value[0] = i;
	}
	struct node *at = nodes;
	while (n--)
		for (int i = 0; i < COUNT; i++) {
			sum = sum * 3 + at->value[0];
			at = at->next;
		}
	return sum;
}
