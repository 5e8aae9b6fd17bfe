/* A witness of copies: preloaded into the gateway, it counts what memcpy and memmove are asked to
 * read out of the buffer pools' address range. It shares no code and no count with the gateway.
 *
 *   LD_PRELOAD=copies.so RINGWAY_WITNESS=FILE ringway run ..
 *
 * FILE is mapped and shared: whoever watches reads `struct counts` from it at any time.
 *
 * The range is known by the call that reserves it: the one mapping of many gigabytes without access
 * and without a promise of memory. A program that makes no such call, or two, fails the test.
 *
 * What it cannot see:
 *   - copies that the compiler made without a call: moves of a constant length below 129 bytes, and
 *     loops over single bytes that it left as loops. What copies payload does it by a length known
 *     at run time, and LLVM makes calls of these.
 *   - libc's copies inside itself. realloc is one, but its memory is never the pools': what grows
 *     out of a slot is copied by the program's own allocator, with memcpy.
 *   - the kernel's copies, and ciphers that read here and write there. Ours work in place.
 *
 * The counting neither allocates nor locks nor calls anything, so it may run in any thread, in a
 * signal handler and inside an allocator.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From this length on a copy is one of payload; heads, fields and packet headers are shorter. */
#define LONG_LEN_MIN 200
/* Nothing else in the process reserves as much address space. */
#define RANGE_LEN_MIN ((size_t)4 << 30)
#define SITE_COUNT 64

typedef _Atomic uint64_t count_t;

/* Who copied: the address that the copy returned to, as the program file has it. */
struct site {
    count_t caller, copies, bytes;
};

/* All of it 64-bit words; harness/witness.py reads them in this order. */
struct counts {
    count_t ranges;          /* reservations seen: 1 when all is well */
    count_t range_start;     /* the first one's */
    count_t range_len;       /* written last: nothing is counted before */
    count_t copies, bytes;   /* copies of LONG_LEN_MIN bytes or more out of the range */
    count_t continued;       /* those that went on where the thread's copy before had ended */
    count_t short_copies, short_bytes;
    count_t sites_lost;      /* long copies by callers that found no place in `sites` */
    struct site sites[SITE_COUNT];
};

typedef void *copy_fn(void *, const void *, size_t);

static copy_fn *libc_memcpy, *libc_memmove;
static struct counts *counts;
static uintptr_t program_base;
/* Where this thread's copy out of the range ended. Static TLS: reached without an allocation. */
static __thread const char *copy_end __attribute__((tls_model("initial-exec")));

static void add(count_t *count, uint64_t more)
{
    atomic_fetch_add_explicit(count, more, memory_order_relaxed);
}

static void note_site(uint64_t caller, size_t len)
{
    for (int index = 0; index < SITE_COUNT; index++) {
        struct site *site = &counts->sites[index];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&site->caller, &found, caller) || found == caller) {
            add(&site->copies, 1);
            add(&site->bytes, len);
            return;
        }
    }
    add(&counts->sites_lost, 1);
}

static void note(const char *to, const char *from, size_t len, void *caller)
{
    if (counts == NULL)
        return;
    uint64_t range_len = atomic_load_explicit(&counts->range_len, memory_order_acquire);
    uint64_t start = atomic_load_explicit(&counts->range_start, memory_order_relaxed);
    if ((uintptr_t)from - start >= range_len)
        return;
    if (len < LONG_LEN_MIN) {
        add(&counts->short_copies, 1);
        add(&counts->short_bytes, len);
    } else {
        add(&counts->copies, 1);
        add(&counts->bytes, len);
        add(&counts->continued, to == copy_end);
        note_site((uintptr_t)caller - program_base, len);
    }
    copy_end = to + len;
}

/* Until libc's own is known. Built so that the compiler does not make a memmove of it. */
static void *copy_slowly(char *to, const char *from, size_t len)
{
    if (to < from)
        for (size_t at = 0; at < len; at++)
            to[at] = from[at];
    else
        for (size_t at = len; at > 0; at--)
            to[at - 1] = from[at - 1];
    return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
    note(to, from, len, __builtin_return_address(0));
    return libc_memcpy != NULL ? libc_memcpy(to, from, len) : copy_slowly(to, from, len);
}

void *memmove(void *to, const void *from, size_t len)
{
    note(to, from, len, __builtin_return_address(0));
    return libc_memmove != NULL ? libc_memmove(to, from, len) : copy_slowly(to, from, len);
}

void *mmap(void *at, size_t len, int access, int flags, int file, off_t offset)
{
    void *mapped = (void *)syscall(SYS_mmap, at, len, access, flags, file, offset);
    int is_reserve = access == PROT_NONE && (flags & MAP_NORESERVE) && (flags & MAP_ANONYMOUS);
    if (counts != NULL && mapped != MAP_FAILED && is_reserve && len >= RANGE_LEN_MIN) {
        if (atomic_fetch_add(&counts->ranges, 1) == 0) {
            atomic_store(&counts->range_start, (uintptr_t)mapped);
            atomic_store_explicit(&counts->range_len, len, memory_order_release);
        }
    }
    return mapped;
}

void *mmap64(void *at, size_t len, int access, int flags, int file, off_t offset)
{
    return mmap(at, len, access, flags, file, offset);
}

static int note_base(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    program_base = info->dlpi_addr;
    return 1; /* The program comes first. */
}

__attribute__((constructor)) static void begin(void)
{
    libc_memcpy = (copy_fn *)dlsym(RTLD_NEXT, "memcpy");
    libc_memmove = (copy_fn *)dlsym(RTLD_NEXT, "memmove");
    const char *path = getenv("RINGWAY_WITNESS");
    if (path == NULL)
        return;
    dl_iterate_phdr(note_base, NULL);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *shared = MAP_FAILED;
    if (file >= 0 && ftruncate(file, sizeof *counts) == 0)
        shared = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED)
        abort();
    close(file);
    counts = shared;
}
