/* A disk that fails on order: preloaded before libc, it counts the calls by which a process
 * changes files below one folder, writes a line for each to a log, and at a chosen one kills
 * the process or refuses. SQLite, Arrow and Python all come past here; stores to mapped memory
 * do not. Driven by tests/fakes/faults_disk.py, which says what the modes mean.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { PASS, KILL_BEFORE, KILL_WITHIN, FAIL_FULL, FAIL_IO, FAIL_READ_ONLY, SHORT };

static char below[PATH_MAX], hold[PATH_MAX];
static size_t below_length;
static enum mode mode;
static long first_call, failing_calls, calls;
static int log_handle = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* From the next call on: calls `first` to `first + count - 1` fail (count 0: all later ones), but
 * only while the file `held` exists, unless that is empty. */
void faulty_disk(const char *folder, const char *log, const char *held, int how, long first,
                 long count)
{
    pthread_mutex_lock(&order);
    snprintf(below, sizeof below, "%s/", folder);
    snprintf(hold, sizeof hold, "%s", held);
    mode = (enum mode)how;
    first_call = first;
    failing_calls = count;
    calls = 0;
    log_handle = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    below_length = strlen(below);
    pthread_mutex_unlock(&order);
}

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("FAULTY_DISK");
    char folder[PATH_MAX], log[PATH_MAX], held[PATH_MAX];
    int how;
    long first, count;
    if (!getenv("FAULTY_DISK_CHILDREN"))
        unsetenv("LD_PRELOAD"); /* what this process starts is not meant */
    if (text && sscanf(text, "%4095[^|]|%4095[^|]|%4095[^|]|%d|%ld|%ld", folder, log, held, &how,
                       &first, &count) == 6)
        faulty_disk(folder, log, strcmp(held, "-") ? held : "", how, first, count);
}

static int meant(const char *path)
{
    return below_length && path && strncmp(path, below, below_length) == 0;
}

static const char *path_of(int handle, char *buffer)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    if (length < 0)
        return NULL;
    buffer[length] = 0;
    return buffer;
}

static const char *path_at(int folder, const char *path, char *buffer)
{
    char base[PATH_MAX];
    if (path[0] == '/' || folder == AT_FDCWD)
        return path;
    if (!path_of(folder, base))
        return NULL;
    if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX)
        return NULL;
    return buffer;
}

/* Counts a call. Answers PASS, or what is to become of it; does not return from a death. */
static enum mode count(const char *what, const char *path)
{
    char line[PATH_MAX + 64];
    enum mode chosen = PASS;
    pthread_mutex_lock(&order);
    long number = calls++;
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path + below_length);
    if (log_handle >= 0)
        syscall(SYS_write, log_handle, line, (size_t)length);
    int due = number >= first_call && (failing_calls == 0 || number < first_call + failing_calls);
    if (due && (!hold[0] || syscall(SYS_faccessat, AT_FDCWD, hold, F_OK) == 0))
        chosen = mode;
    if (chosen == KILL_BEFORE)
        syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
    pthread_mutex_unlock(&order);
    return chosen;
}

static void die(void)
{
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
}

/* -1 with errno where a call of this sort fails in this mode; 0 where it goes on. */
static int refused(enum mode chosen, int takes_space, int may_be_full)
{
    if (chosen == FAIL_FULL && takes_space && may_be_full)
        errno = ENOSPC;
    else if (chosen == FAIL_IO)
        errno = EIO;
    else if (chosen == FAIL_READ_ONLY)
        errno = EROFS;
    else
        return 0;
    return -1;
}

#define ON_PATH(what, path, space, call)                                                          \
    enum mode chosen = meant(path) ? count(what, path) : PASS;                                    \
    if (refused(chosen, 1, space))                                                                \
        return -1;                                                                                \
    int answer = call;                                                                            \
    if (chosen == KILL_WITHIN)                                                                    \
        die();                                                                                    \
    return answer;

#define ON_HANDLE(what, handle, space, call)                                                      \
    char buffer[PATH_MAX];                                                                        \
    const char *path = below_length ? path_of(handle, buffer) : NULL;                             \
    ON_PATH(what, path, space, call)

#define WRITES(what, handle, size, call_of)                                                       \
    char buffer[PATH_MAX];                                                                        \
    const char *path = below_length ? path_of(handle, buffer) : NULL;                             \
    enum mode chosen = meant(path) ? count(what, path) : PASS;                                    \
    if (refused(chosen, 1, 1))                                                                    \
        return -1;                                                                                \
    int part = (chosen == KILL_WITHIN || chosen == SHORT) && (size) > 1;                          \
    ssize_t answer = call_of(part ? (size) / 2 : (size));                                         \
    if (chosen == KILL_WITHIN)                                                                    \
        die();                                                                                    \
    return answer;

ssize_t write(int handle, const void *data, size_t size)
{
#define CALL(length) REAL(write)(handle, data, length)
    WRITES("write", handle, size, CALL)
#undef CALL
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t at)
{
#define CALL(length) REAL(pwrite)(handle, data, length, at)
    WRITES("pwrite", handle, size, CALL)
#undef CALL
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at)
{
#define CALL(length) REAL(pwrite64)(handle, data, length, at)
    WRITES("pwrite", handle, size, CALL)
#undef CALL
}

ssize_t writev(int handle, const struct iovec *parts, int size)
{
#define CALL(length) REAL(writev)(handle, parts, (int)(length))
    WRITES("writev", handle, (size_t)size, CALL)
#undef CALL
}

int fsync(int handle) { ON_HANDLE("fsync", handle, 0, REAL(fsync)(handle)) }
int fdatasync(int handle) { ON_HANDLE("fdatasync", handle, 0, REAL(fdatasync)(handle)) }
int ftruncate(int handle, off_t size)
{
    ON_HANDLE("ftruncate", handle, size > 0, REAL(ftruncate)(handle, size))
}
int ftruncate64(int handle, off64_t size)
{
    ON_HANDLE("ftruncate", handle, size > 0, REAL(ftruncate64)(handle, size))
}

/* These answer the error itself. */
int posix_fallocate(int handle, off_t at, off_t size)
{
    char buffer[PATH_MAX];
    const char *path = below_length ? path_of(handle, buffer) : NULL;
    enum mode chosen = meant(path) ? count("fallocate", path) : PASS;
    if (refused(chosen, 1, 1))
        return errno;
    int answer = REAL(posix_fallocate)(handle, at, size);
    if (chosen == KILL_WITHIN)
        die();
    return answer;
}
int posix_fallocate64(int handle, off64_t at, off64_t size)
{
    return posix_fallocate(handle, at, size);
}

int rename(const char *from, const char *to) { ON_PATH("rename", to, 1, REAL(rename)(from, to)) }
int renameat(int there, const char *from, int here, const char *to)
{
    char buffer[PATH_MAX];
    const char *path = path_at(here, to, buffer);
    ON_PATH("rename", path, 1, REAL(renameat)(there, from, here, to))
}
int link(const char *from, const char *to) { ON_PATH("link", to, 1, REAL(link)(from, to)) }
int linkat(int there, const char *from, int here, const char *to, int flags)
{
    char buffer[PATH_MAX];
    const char *path = path_at(here, to, buffer);
    ON_PATH("link", path, 1, REAL(linkat)(there, from, here, to, flags))
}
int unlink(const char *path) { ON_PATH("unlink", path, 0, REAL(unlink)(path)) }
int unlinkat(int folder, const char *name, int flags)
{
    char buffer[PATH_MAX];
    const char *path = path_at(folder, name, buffer);
    ON_PATH("unlink", path, 0, REAL(unlinkat)(folder, name, flags))
}
int rmdir(const char *path) { ON_PATH("rmdir", path, 0, REAL(rmdir)(path)) }
int mkdir(const char *path, mode_t mode_) { ON_PATH("mkdir", path, 1, REAL(mkdir)(path, mode_)) }
int mkdirat(int folder, const char *name, mode_t mode_)
{
    char buffer[PATH_MAX];
    const char *path = path_at(folder, name, buffer);
    ON_PATH("mkdir", path, 1, REAL(mkdirat)(folder, name, mode_))
}

static int opened(int folder, const char *name, int flags, mode_t mode_)
{
    char buffer[PATH_MAX];
    const char *path = below_length ? path_at(folder, name, buffer) : NULL;
    enum mode chosen = PASS;
    if (meant(path) && (flags & O_ACCMODE) != O_RDONLY) {
        int makes = (flags & O_CREAT) && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) != 0;
        /* Opening a file that is there changes nothing, but a read-only disk refuses it. */
        if (makes || (flags & O_TRUNC) || mode == FAIL_READ_ONLY)
            chosen = count(makes ? "create" : "open", path);
        if (refused(chosen, 1, makes))
            return -1;
    }
    int handle = syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode_);
    if (chosen == KILL_WITHIN)
        die();
    return handle;
}

#define MODE_OF(flags)                                                                            \
    mode_t mode_ = 0;                                                                             \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                        \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode_ = va_arg(rest, mode_t);                                                             \
        va_end(rest);                                                                             \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return opened(AT_FDCWD, path, flags, mode_);
}
int open64(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return opened(AT_FDCWD, path, flags, mode_);
}
int openat(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return opened(folder, path, flags, mode_);
}
int openat64(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return opened(folder, path, flags, mode_);
}
