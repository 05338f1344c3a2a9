/* 100 signals to oneself. */
#include "bench.h"
#include <signal.h>

static volatile uint64_t count;

static void handler(int number)
{
	count += number;
}

static uint64_t work(uint64_t n)
{
	struct sigaction action = { .sa_handler = handler };

	sigaction(SIGUSR1, &action, NULL);
	for (uint64_t i = 0; i < 100 * n; i++)
		kill(getpid(), SIGUSR1);
	return count;
}
