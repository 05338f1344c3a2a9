/* CRC-32 (IEEE) by table, over 64 KiB. */
#include "bench.h"

static uint32_t table[256];
static uint8_t data[65536];

static uint64_t work(uint64_t n)
{
	uint64_t state = 3, sum = 0;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		table[i] = c;
	}
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = next_random(&state);
	while (n--) {
		uint32_t crc = ~0u;
		for (size_t i = 0; i < sizeof data; i++)
			crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
		sum = mix(sum, ~crc);
		data[n % sizeof data] = sum;
	}
	return sum;
}
