/* As nbody, with a body that lies across a page's end. nbody.c is in the folder already: it comes earlier. */
#define BEFORE (4096 - 256)
#define ALIGNED __attribute__((aligned(4096)))
#include "nbody.c"
