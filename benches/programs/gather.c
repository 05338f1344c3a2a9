/* 2,048 look-ups in a table of 4,096 numbers, eight at a time, by AVX2's gathers. */
#include "bench.h"
#include <immintrin.h>

static int table[4096], places[2048];

__attribute__((target("avx2")))
static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	for (int i = 0; i < 4096; i++)
		table[i] = i * i;
	for (int i = 0; i < 2048; i++)
		places[i] = i * 797 & 4095;
	while (n--) {
		__m256i total = _mm256_setzero_si256();
		for (int i = 0; i < 2048; i += 8) {
			__m256i at = _mm256_loadu_si256((const __m256i *)(places + i));
			total = _mm256_add_epi32(total, _mm256_i32gather_epi32(table, at, 4));
		}
		sum = mix(sum, _mm256_extract_epi64(total, 0));
	}
	return sum;
}
