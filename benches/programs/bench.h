/*
 * The frame of every micro-benchmark: NAME WORK runs work(WORK) between the marker lines "@begin NAME" and
 * "@end NAME CHECKSUM". The checksum depends on WORK only, so that runs on different machines can be compared.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static uint64_t work(uint64_t n);

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x9e3779b97f4a7c15u;
}

/* A linear congruential generator; the high half is the better one. */
static inline uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 32;
}

/* In one write, so that nothing is left in a buffer when a benchmark forks. */
static void say(const char *line)
{
	if (write(1, line, strlen(line)) < 0)
		exit(1);
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	const char *name = slash ? slash + 1 : argv[0];
	char line[128];

	if (argc != 2) {
		fprintf(stderr, "usage: %s WORK\n", argv[0]);
		return 2;
	}
	uint64_t n = strtoull(argv[1], NULL, 0);
	snprintf(line, sizeof line, "@begin %s\n", name);
	say(line);
	/* On a terminal, the line is out before the work begins. */
	tcdrain(1);
	uint64_t sum = work(n);
	snprintf(line, sizeof line, "@end %s %016llx\n", name, (unsigned long long)sum);
	say(line);
	return 0;
}
