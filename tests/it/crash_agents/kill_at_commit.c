// Kills the process at a commit of SQLite: preloaded into a gateway, it watches what is written to the write-ahead log.
// A commit is the frame whose header has the size of the database in its second word; the page follows the header.
//
// KILL_ARMED    commits count once a file of this path exists
// KILL_AT       the number of the commit, from 1
// KILL_BEFORE   set: the page is not written any more, so that the commit has not happened; else: it is

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 24

static atomic_int commits;
static _Thread_local int page_of_commit;

static int is_log(int fd) {
    char link[64] = "/proc/self/fd/", path[4096], digits[16];
    int at = sizeof(digits);
    do { digits[--at] = '0' + fd % 10; fd /= 10; } while (fd > 0);
    strncat(link, digits + at, sizeof(digits) - at);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    return length > 4 && memcmp(path + length - 4, "-wal", 4) == 0;
}

static void kill_now(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// Whether the write is the page of the commit to be killed at.
static int is_last(int fd, const void *bytes, size_t count) {
    const unsigned char *header = bytes;
    if (count == HEADER_BYTES && is_log(fd)) {
        page_of_commit = (header[4] | header[5] | header[6] | header[7]) != 0;
        return 0;
    }
    if (!page_of_commit) return 0;
    page_of_commit = 0;
    const char *armed = getenv("KILL_ARMED"), *at = getenv("KILL_AT");
    if (armed == NULL || at == NULL || access(armed, F_OK) != 0) return 0;
    return atomic_fetch_add(&commits, 1) + 1 == atoi(at);
}

#define INTERCEPT(name, parameters, arguments)                                             \
    ssize_t name parameters {                                                              \
        static ssize_t (*original) parameters;                                             \
        if (original == NULL) original = dlsym(RTLD_NEXT, #name);                          \
        int last = is_last(fd, bytes, count);                                              \
        if (last && getenv("KILL_BEFORE") != NULL) kill_now();                             \
        ssize_t written = original arguments;                                              \
        if (last) kill_now();                                                              \
        return written;                                                                    \
    }

INTERCEPT(write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
INTERCEPT(pwrite, (int fd, const void *bytes, size_t count, off_t offset), (fd, bytes, count, offset))
INTERCEPT(pwrite64, (int fd, const void *bytes, size_t count, off64_t offset), (fd, bytes, count, offset))
