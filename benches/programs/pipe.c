/* Two processes send a byte to each other, 100 times there and back. */
#include "bench.h"
#include <sys/wait.h>

static uint64_t work(uint64_t n)
{
	int to[2], from[2];
	uint64_t sum = 0;
	uint8_t byte = 0;

	if (pipe(to) || pipe(from))
		exit(1);
	pid_t child = fork();
	if (child < 0)
		exit(1);
	if (!child) {
		close(to[1]);
		while (read(to[0], &byte, 1) == 1) {
			byte += 3;
			if (write(from[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	}
	for (uint64_t i = 0; i < 100 * n; i++) {
		if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1)
			exit(1);
		sum += byte;
	}
	close(to[1]);
	waitpid(child, NULL, 0);
	return sum;
}
