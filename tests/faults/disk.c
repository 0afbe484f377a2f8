/* A disk that breaks at a chosen moment: preloaded into a process, it fails, tears or kills at the N-th call of a kind.
 *
 * The file named by $FAULT_PLAN says when, and is read again at every call, so that a running server can be armed:
 *
 *     <id> <call> <how> <errno> <at> <under>
 *
 * call   write | fsync | rename | link | make (a new file or folder)
 * how    once    that call alone answers <errno>
 *        always  that call and all later ones do, as a full disk does
 *        torn    half of the bytes arrive, then SIGKILL
 *        kill    SIGKILL before the call;   after: SIGKILL when it was done
 *        count   nothing happens
 * under  only calls on paths that contain this
 *
 * A new <id> starts the count anew. Each hit adds a line with the process id to "$FAULT_PLAN.hit".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum verdict { GO, FAIL, TEAR, KILL, AFTER };
struct plan { long id; char call[16], how[16]; int error; long at; char under[512]; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long seen_id, seen;

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Raw system calls: what this library does itself must not pass through it. */
static int plan_read(struct plan *plan) {
    const char *path = getenv("FAULT_PLAN");
    char text[1024];
    if (!path) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    long size = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (size <= 0) return 0;
    text[size] = 0;
    return sscanf(text, "%ld %15s %15s %d %ld %511[^\n]", &plan->id, plan->call, plan->how, &plan->error, &plan->at,
                  plan->under) == 6;
}

static void tell(void) {
    char path[4096], line[32];
    snprintf(path, sizeof path, "%s.hit", getenv("FAULT_PLAN"));
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (long)snprintf(line, sizeof line, "%d\n", getpid()));
    syscall(SYS_close, fd);
}

static enum verdict judge(const struct plan *plan) {
    pthread_mutex_lock(&lock);
    if (plan->id != seen_id) seen_id = plan->id, seen = 0;
    long now = ++seen;
    pthread_mutex_unlock(&lock);
    int sticky = !strcmp(plan->how, "always") || !strcmp(plan->how, "count");
    if (sticky ? now < plan->at : now != plan->at) return GO;
    tell();
    if (!strcmp(plan->how, "count")) return GO;
    if (!strcmp(plan->how, "kill")) die();
    if (!strcmp(plan->how, "after")) return AFTER;
    if (!strcmp(plan->how, "torn")) return TEAR;
    errno = plan->error;
    return FAIL;
}

static enum verdict on_path(const char *call, const char *path) {
    struct plan plan;
    if (!plan_read(&plan) || strcmp(plan.call, call) || !strstr(path, plan.under)) return GO;
    return judge(&plan);
}

static enum verdict on_file(const char *call, int fd) {
    char link[64], path[4096];
    if (fd <= 2 || !getenv("FAULT_PLAN")) return GO;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return GO;
    path[size] = 0;
    return on_path(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
/* `whole` is the call itself, `half` the same on half of the bytes. */
#define GUARDED(type, asked, whole, half)        \
    do {                                         \
        enum verdict v_ = asked;                 \
        if (v_ == FAIL) return -1;               \
        if (v_ == TEAR) { (void)!(half); die(); }\
        type r_ = whole;                         \
        if (v_ == AFTER) die();                  \
        return r_;                               \
    } while (0)

ssize_t write(int fd, const void *data, size_t n) {
    GUARDED(ssize_t, on_file("write", fd), REAL(write)(fd, data, n), REAL(write)(fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    GUARDED(ssize_t, on_file("write", fd), REAL(pwrite)(fd, data, n, at), REAL(pwrite)(fd, data, n / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    GUARDED(ssize_t, on_file("write", fd), REAL(pwrite64)(fd, data, n, at), REAL(pwrite64)(fd, data, n / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    GUARDED(ssize_t, on_file("write", fd), REAL(writev)(fd, parts, n),
            REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2));
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) {
    GUARDED(ssize_t, on_file("write", out), syscall(SYS_sendfile, out, in, at, n), syscall(SYS_sendfile, out, in, at, n / 2));
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    GUARDED(ssize_t, on_file("write", out), syscall(SYS_sendfile, out, in, at, n), syscall(SYS_sendfile, out, in, at, n / 2));
}
int fsync(int fd) { GUARDED(int, on_file("fsync", fd), REAL(fsync)(fd), 0); }
int fdatasync(int fd) { GUARDED(int, on_file("fsync", fd), REAL(fdatasync)(fd), 0); }
int rename(const char *from, const char *to) { GUARDED(int, on_path("rename", to), REAL(rename)(from, to), 0); }
int renameat(int from_in, const char *from, int to_in, const char *to) {
    GUARDED(int, on_path("rename", to), REAL(renameat)(from_in, from, to_in, to), 0);
}
int link(const char *from, const char *to) { GUARDED(int, on_path("link", to), REAL(link)(from, to), 0); }
int mkdir(const char *path, mode_t mode) { GUARDED(int, on_path("make", path), REAL(mkdir)(path, mode), 0); }

static mode_t mode_of(int flags, va_list more) { return flags & O_CREAT ? va_arg(more, mode_t) : 0; }

#define OPENING(name)                                                                              \
    int name(const char *path, int flags, ...) {                                                   \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        GUARDED(int, flags & O_CREAT ? on_path("make", path) : GO, REAL(name)(path, flags, mode), 0); \
    }
OPENING(open)
OPENING(open64)
