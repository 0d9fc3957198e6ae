/* Counts allocations of the program that it is loaded into (LD_PRELOAD): malloc, calloc, realloc, aligned ones, mmap and mremap,
 * each under every name that a compiler may call it by. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Atomic uint64_t made;

uint64_t allocations(void)
{
    return atomic_load(&made);
}

void *malloc(size_t n)
{
    made++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t each)
{
    made++;
    return __libc_calloc(n, each);
}

void *realloc(void *old, size_t n)
{
    made++;
    return __libc_realloc(old, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    made++;
    return __libc_memalign(alignment, n);
}

int posix_memalign(void **out, size_t alignment, size_t n)
{
    made++;
    *out = __libc_memalign(alignment, n);
    return *out == NULL ? 12 : 0;
}

void *memalign(size_t alignment, size_t n)
{
    made++;
    return __libc_memalign(alignment, n);
}

void *valloc(size_t n)
{
    made++;
    return __libc_memalign(4096, n);
}

void *mmap64(void *at, size_t n, int rights, int flags, int fd, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap64");
    made++;
    return real(at, n, rights, flags, fd, offset);
}

void *mremap(void *old, size_t size, size_t n, int flags, ...)
{
    static void *(*real)(void *, size_t, size_t, int, ...);
    if (real == NULL)
        real = (void *(*)(void *, size_t, size_t, int, ...))dlsym(RTLD_NEXT, "mremap");
    va_list more;
    va_start(more, flags);
    void *at = flags & MREMAP_FIXED ? va_arg(more, void *) : NULL;
    va_end(more);
    made++;
    return real(old, size, n, flags, at);
}

void *mmap(void *at, size_t n, int rights, int flags, int fd, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    made++;
    return real(at, n, rights, flags, fd, offset);
}
