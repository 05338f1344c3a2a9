/* 1,000 system calls that do nothing. */
#include "bench.h"
#include <sys/syscall.h>

static uint64_t work(uint64_t n)
{
	long first = syscall(SYS_getpid), same = 0;

	for (uint64_t i = 0; i < 1000 * n; i++)
		same += syscall(SYS_getpid) == first;
	return same;
}
