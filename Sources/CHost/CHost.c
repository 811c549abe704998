#include "CHost.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#ifdef __linux__
#include <linux/fs.h>
#include <linux/stat.h>
#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#endif
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* Repeats an int call that a signal interrupted, and turns its result into 0 or errno. */
#define CHECKED(call) \
    int result; \
    do { result = (call); } while (result == -1 && errno == EINTR); \
    return result == -1 ? errno : 0

int platter_host_version(void) { return 3; }

static char *const *arguments;

/* Before the Swift runtime starts: it looks for its program file, and aborts where /proc does not tell it. */
__attribute__((constructor(101))) static void begin(int count, char **vector) {
#ifdef __GLIBC__
    arguments = count > 0 ? vector : NULL;
    if (access("/proc/self/exe", F_OK) != 0) setenv("SWIFT_ROOT", "/", 0);
#else
    (void)count, (void)vector;
#endif
}

char *const *platter_arguments(void) { return arguments; }

static void occupy_standard_streams(void) {
#ifdef O_PATH
    const int flags = O_PATH;
#else
    const int flags = O_RDONLY;
#endif
    /* The root folder is always there, and reading and writing it fail. open gives the lowest free number. */
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/", flags) == -1) return;
    }
}

void platter_prepare_process(void) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    occupy_standard_streams();
}

int platter_is_ignored(int number) {
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

void platter_return_large_blocks(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

void platter_raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    rlim_t wanted = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
    if (limit.rlim_cur >= wanted) return;
    limit.rlim_cur = wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int platter_is_dumpable(void) {
#ifdef __linux__
    return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1;
#else
    return 0;
#endif
}

void platter_set_dumpable(int dumpable) {
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0);
#else
    (void)dumpable;
#endif
}

int platter_punch_hole(int fd, int64_t offset, int64_t length) {
#if defined(__linux__)
    CHECKED(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length));
#elif defined(__APPLE__)
    struct fpunchhole hole = {.fp_offset = offset, .fp_length = length};
    CHECKED(fcntl(fd, F_PUNCHHOLE, &hole));
#else
    return ENOTSUP;
#endif
}

int platter_zero_range(int fd, int64_t offset, int64_t length) {
#ifdef __linux__
    CHECKED(fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, length));
#else
    return ENOTSUP;
#endif
}

int platter_allocate(int fd, int64_t offset, int64_t length) {
#ifdef __linux__
    CHECKED(fallocate(fd, 0, offset, length));
#else
    return ENOTSUP;
#endif
}

int platter_reserve(int fd, int64_t offset, int64_t length) {
#ifdef __linux__
    CHECKED(fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, length));
#else
    return ENOTSUP;
#endif
}

static int64_t seek(int fd, int64_t offset, int whence, int *error) {
    int64_t found = lseek(fd, offset, whence);
    if (found == -1) *error = errno;
    return found;
}

int64_t platter_seek_data(int fd, int64_t offset, int *error) { return seek(fd, offset, SEEK_DATA, error); }

int64_t platter_seek_hole(int fd, int64_t offset, int *error) { return seek(fd, offset, SEEK_HOLE, error); }

int64_t platter_copy_range(
    int source, int64_t source_offset, int target, int64_t target_offset, int64_t length, int *error) {
#ifdef __linux__
    off64_t from = source_offset, to = target_offset;
    ssize_t copied;
    do {
        copied = copy_file_range(source, &from, target, &to, length, 0);
    } while (copied == -1 && errno == EINTR);
    if (copied == -1) *error = errno;
    return copied;
#else
    *error = ENOTSUP;
    return -1;
#endif
}

int platter_share_range(
    int source, int64_t source_offset, int target, int64_t target_offset, int64_t length) {
#ifdef FICLONERANGE
    struct file_clone_range range = {
        .src_fd = source,
        .src_offset = (uint64_t)source_offset,
        .src_length = (uint64_t)length,
        .dest_offset = (uint64_t)target_offset,
    };
    CHECKED(ioctl(target, FICLONERANGE, &range));
#else
    return ENOTSUP;
#endif
}

void platter_start_writeback(int fd) {
#ifdef SYNC_FILE_RANGE_WRITE
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
#endif
}

int platter_flush(int fd) {
#ifdef __APPLE__
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
    CHECKED(fsync(fd));
#else
    CHECKED(fdatasync(fd));
#endif
}

int platter_direct_flag(void) {
#ifdef O_DIRECT
    return O_DIRECT;
#else
    return 0;
#endif
}

int platter_disable_cache(int fd) {
    (void)fd;
#ifdef __APPLE__
    CHECKED(fcntl(fd, F_NOCACHE, 1));
#else
    return 0;
#endif
}

uint32_t platter_direct_alignment(int fd) {
#ifdef STATX_DIOALIGN
    /* The C library's own struct may be older than the kernel's, so the call goes past it. */
    struct statx info;
    memset(&info, 0, sizeof info);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0) return 0;
    if (!(info.stx_mask & STATX_DIOALIGN)) return 0;
    uint32_t memory = info.stx_dio_mem_align, offset = info.stx_dio_offset_align;
    return memory > offset ? memory : offset;
#else
    return 0;
#endif
}

#ifdef F_OFD_SETLK
static int set_lock(int fd, int64_t byte, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    CHECKED(fcntl(fd, F_OFD_SETLK, &lock));
}
#endif

int platter_lock_shared(int fd, int64_t byte) {
#ifdef F_OFD_SETLK
    return set_lock(fd, byte, F_RDLCK);
#else
    return ENOTSUP;
#endif
}

int platter_unlock(int fd, int64_t byte) {
#ifdef F_OFD_SETLK
    return set_lock(fd, byte, F_UNLCK);
#else
    return ENOTSUP;
#endif
}

int platter_is_locked(int fd, int64_t byte, int *locked) {
#ifdef F_OFD_GETLK
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int result;
    do { result = fcntl(fd, F_OFD_GETLK, &lock); } while (result == -1 && errno == EINTR);
    if (result == -1) return errno;
    *locked = lock.l_type != F_UNLCK;
    return 0;
#else
    return ENOTSUP;
#endif
}

int platter_replace_descriptor(int from, int to) {
    int result;
#ifdef __linux__
    do { result = dup3(from, to, O_CLOEXEC); } while (result == -1 && (errno == EINTR || errno == EBUSY));
#else
    do { result = dup2(from, to); } while (result == -1 && errno == EINTR);
    if (result != -1) fcntl(to, F_SETFD, FD_CLOEXEC);
#endif
    int error = result == -1 ? errno : 0;
    close(from);
    return error;
}

int platter_device_size(int fd, int64_t *size) {
#ifdef BLKGETSIZE64
    uint64_t bytes = 0;
    if (ioctl(fd, BLKGETSIZE64, &bytes) == 0) {
        if (bytes > INT64_MAX) return EFBIG;
        *size = (int64_t)bytes;
        return 0;
    }
#endif
    off_t end = lseek(fd, 0, SEEK_END);
    if (end == -1) return errno;
    *size = end;
    return 0;
}

uint32_t platter_device_sector_size(int fd) {
#ifdef BLKSSZGET
    int bytes = 0;
    if (ioctl(fd, BLKSSZGET, &bytes) == 0 && bytes > 0) return (uint32_t)bytes;
#endif
    return 512;
}

int platter_device_discard(int fd, uint64_t offset, uint64_t length) {
#ifdef BLKDISCARD
    uint64_t range[2] = {offset, length};
    CHECKED(ioctl(fd, BLKDISCARD, range));
#else
    return ENOTSUP;
#endif
}

int platter_device_zero(int fd, uint64_t offset, uint64_t length) {
#ifdef BLKZEROOUT
    uint64_t range[2] = {offset, length};
    CHECKED(ioctl(fd, BLKZEROOUT, range));
#else
    return ENOTSUP;
#endif
}

int platter_disable_copy_on_write(int fd) {
#if defined(FS_IOC_SETFLAGS) && defined(FS_NOCOW_FL)
    int flags = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return errno;
    flags |= FS_NOCOW_FL;
    CHECKED(ioctl(fd, FS_IOC_SETFLAGS, &flags));
#else
    return ENOTSUP;
#endif
}

int platter_set_extent_size(int fd, uint32_t bytes) {
#ifdef FS_IOC_FSSETXATTR
    struct fsxattr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.fsx_xflags = FS_XFLAG_EXTSIZE;
    attributes.fsx_extsize = bytes;
    CHECKED(ioctl(fd, FS_IOC_FSSETXATTR, &attributes));
#else
    return ENOTSUP;
#endif
}

int platter_rename_new(const char *from, const char *to) {
#if defined(__linux__) && defined(SYS_renameat2)
    if (syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 1u /* RENAME_NOREPLACE */) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return errno;
#elif defined(__APPLE__)
    if (renamex_np(from, to, RENAME_EXCL) == 0) return 0;
    if (errno != ENOTSUP) return errno;
#endif
    /* A file system without the flag: a second name is not given where there is one; not all have links. */
    if (link(from, to) == 0) return unlink(from) == 0 ? 0 : errno;
    if (errno == EEXIST) return errno;
    struct stat status;
    if (lstat(to, &status) == 0) return EEXIST;
    return rename(from, to) == 0 ? 0 : errno;
}

int platter_find_beneath(int folder, const char *name, int *error) {
#if defined(__linux__) && defined(SYS_openat2) && defined(RESOLVE_BENEATH)
    struct open_how how;
    memset(&how, 0, sizeof how);
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    long fd;
    do { fd = syscall(SYS_openat2, folder, name, &how, sizeof how); } while (fd == -1 && errno == EINTR);
    if (fd == -1) *error = errno;
    return (int)fd;
#else
    (void)folder, (void)name;
    *error = ENOSYS;
    return -1;
#endif
}

int platter_path_flag(void) {
#ifdef O_PATH
    return O_PATH;
#else
    return O_NONBLOCK;
#endif
}

int platter_open_unnamed(const char *folder, int *error) {
#ifdef O_TMPFILE
    int unnamed = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (unnamed != -1) return unnamed;
#endif
    static const char pattern[] = "/platter-XXXXXX";
    size_t length = strlen(folder);
    char *path = malloc(length + sizeof pattern);
    if (!path) {
        *error = ENOMEM;
        return -1;
    }
    memcpy(path, folder, length);
    memcpy(path + length, pattern, sizeof pattern);
    int fd = mkstemp(path);
    if (fd == -1) *error = errno;
    if (fd != -1) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        unlink(path);
    }
    free(path);
    return fd;
}
