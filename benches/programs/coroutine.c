/* Two stacks that take turns, 200 times, as coroutines and threads of a language do. */
#include "bench.h"

static char stack[16384] __attribute__((aligned(16)));
static void *left[2];
static volatile uint64_t count;

__attribute__((naked, noinline))
static void take_turns(void **from, void *to)
{
	__asm__("push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
		"mov %rsp, (%rdi); mov %rsi, %rsp\n"
		"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret");
}

static void other(void)
{
	for (;;) {
		count += 3;
		take_turns(&left[1], left[0]);
	}
}

static uint64_t work(uint64_t n)
{
	void **top = (void **)(stack + sizeof stack - 64);

	top[6] = (void *)other;
	left[1] = top;
	while (n--)
		for (int i = 0; i < 200; i++) {
			take_turns(&left[0], left[1]);
			count++;
		}
	return count;
}
