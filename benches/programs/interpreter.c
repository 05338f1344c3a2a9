/* A byte-code interpreter of one switch; its program makes 1,000 rounds of ten instructions. */
#include "bench.h"

enum op { LOAD, ADD, SUB, XOR, MUL, SHIFT, MOVE, DECREMENT, JUMP_IF, HALT };
struct instruction {
	uint8_t op, a, b;
	int8_t c;
};

static const struct instruction program[] = {
	{ ADD, 1, 2, 0 }, { XOR, 2, 1, 0 }, { SHIFT, 2, 0, 7 }, { MUL, 3, 2, 0 }, { SUB, 3, 1, 0 },
	{ MOVE, 4, 3, 0 }, { LOAD, 5, 0, 77 }, { ADD, 1, 5, 0 }, { DECREMENT, 0, 0, 0 }, { JUMP_IF, 0, 0, -9 },
	{ HALT, 0, 0, 0 },
};

static void run(uint64_t r[8])
{
	for (const struct instruction *i = program;; i++) {
		switch (i->op) {
		case LOAD: r[i->a] = i->c; break;
		case ADD: r[i->a] += r[i->b]; break;
		case SUB: r[i->a] -= r[i->b]; break;
		case XOR: r[i->a] ^= r[i->b]; break;
		case MUL: r[i->a] *= r[i->b] | 1; break;
		case SHIFT: r[i->a] = r[i->a] << i->c | r[i->a] >> (64 - i->c); break;
		case MOVE: r[i->a] = r[i->b]; break;
		case DECREMENT: r[i->a]--; break;
		case JUMP_IF: if (r[i->a]) i += i->c - 1; break;
		case HALT: return;
		}
	}
}

static uint64_t work(uint64_t n)
{
	uint64_t r[8] = { 0, 1, 2, 3 };

	while (n--) {
		r[0] = 1000;
		run(r);
	}
	return r[4];
}
