/* Counts the calls by which a process changes files, and makes the n-th go wrong. Loaded by LD_PRELOAD; see faults.py.

   arm(n, mode): from now on, at the n-th call 1: die, 2: the disk is full, and stays so, 3: EIO, once, 4: write every call to the trace.
   disarm(): the number of calls since.

   A rename that safetensors makes by a system call of its own, of a file beside the one it becomes, is not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int mode = 0, trace = -1;
static long count = 0, at = 0;

void arm(long n, int m) { count = 0; at = n; mode = m; }
long disarm(void) { mode = 0; return count; }
void trace_to(int fd) { trace = fd; }

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t say(const char *op, const char *a, const char *b) {
    char line[9000];
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", op, a, b);
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return real(trace, line, n);
}

/* whether this call is to fail; does not return if it is to die */
static int faulty(const char *op, const char *a, const char *b, int takes_room) {
    if (!mode) return 0;
    count++;
    if (mode == 4) { say(op, a, b); return 0; }
    if (mode == 1 && count == at) _exit(9);
    if (mode == 2 && count >= at && takes_room) { errno = ENOSPC; return 1; }
    if (mode == 3 && count == at) { errno = EIO; return 1; }
    return 0;
}

/* the path and, in `inode`, the number of a regular file or folder, or NULL for pipes, terminals and the trace */
static char inode[32];
static const char *path_of(int fd) {
    static char path[4096];
    char link[64];
    struct stat st;
    if (!mode || fd == trace || fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return NULL;
    path[n] = 0;
    snprintf(inode, sizeof inode, "%lu", (unsigned long)st.st_ino);
    return path;
}

#define ON_FD(type, name, params, args, room) type name params { REAL(name); const char *p = path_of(fd); if (p && faulty(#name, p, inode, room)) return -1; return real args; }
#define ON_PATH(name, params, args, a, b, room) int name params { REAL(name); if (faulty(#name, a, b, room)) return -1; return real args; }

ON_FD(ssize_t, write, (int fd, const void *buf, size_t n), (fd, buf, n), 1)
ON_FD(ssize_t, pwrite, (int fd, const void *buf, size_t n, off_t o), (fd, buf, n, o), 1)
ON_FD(ssize_t, pwrite64, (int fd, const void *buf, size_t n, off64_t o), (fd, buf, n, o), 1)
ON_FD(int, fsync, (int fd), (fd), 0)
ON_FD(int, fdatasync, (int fd), (fd), 0)
ON_FD(int, ftruncate, (int fd, off_t n), (fd, n), 0)
ON_FD(int, ftruncate64, (int fd, off64_t n), (fd, n), 0)
ON_PATH(rename, (const char *a, const char *b), (a, b), a, b, 0)
ON_PATH(renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), a, b, 0)
ON_PATH(mkdir, (const char *a, mode_t m), (a, m), a, "", 1)
ON_PATH(unlink, (const char *a), (a), a, "", 0)
ON_PATH(unlinkat, (int d, const char *a, int f), (d, a, f), a, "", 0)
ON_PATH(rmdir, (const char *a), (a), a, "", 0)
ON_PATH(truncate, (const char *a, off_t n), (a, n), a, "", 0)
