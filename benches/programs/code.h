/* Memory for generated code, and the moment at which it may run. */
#include <sys/mman.h>

static uint8_t *code_memory(size_t size)
{
	void *code = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		exit(1);
	return code;
}

#define CODE_IS_WRITTEN(from, to) __builtin___clear_cache((char *)(from), (char *)(to))

#if defined(__x86_64__)
/* add $immediate, %rax after mov %rdi, %rax; ret */
static uint8_t *emit_start(uint8_t *at)
{
	memcpy(at, "\x48\x89\xf8", 3);
	return at + 3;
}
static uint8_t *emit_add(uint8_t *at, uint32_t immediate)
{
	immediate &= 0xfff;
	memcpy(at, "\x48\x05", 2);
	memcpy(at + 2, &immediate, 4);
	return at + 6;
}
static uint8_t *emit_return(uint8_t *at)
{
	*at = 0xc3;
	return at + 1;
}
#elif defined(__aarch64__)
static uint8_t *emit_word(uint8_t *at, uint32_t word)
{
	memcpy(at, &word, 4);
	return at + 4;
}
static uint8_t *emit_start(uint8_t *at)
{
	return at;
}
static uint8_t *emit_add(uint8_t *at, uint32_t immediate)
{
	return emit_word(at, 0x91000000 | (immediate & 0xfff) << 10);
}
static uint8_t *emit_return(uint8_t *at)
{
	return emit_word(at, 0xd65f03c0);
}
#endif
