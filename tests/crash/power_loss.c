/*
 * Cuts the power of one process: a library for LD_PRELOAD.
 *
 * What a program has written but not synced is lost when the power goes. To have that without cutting any power, this
 * library keeps what the program writes to files under one directory in the memory of the process, page by page, and
 * gives it to the files only at fsync, fdatasync or syncfs (or at once, if the file was opened with O_DSYNC or O_SYNC).
 * The program itself always sees what it has written. When it is killed, the memory goes, and the files are as a disk
 * would be on which nothing arrived but what had been synced. Sizes (ftruncate, O_TRUNC, appends) wait for a sync too.
 * sync_file_range is not a sync: it promises nothing about the metadata of a file, nor about the cache of a disk.
 *
 * Names are changed at once, but a disk may forget a name too until its directory has been synced. So each change is
 * noted in a journal first, and whoever kills the process undoes those that no sync of the directory has followed:
 *
 *     P pid              the library is at work
 *     C path             a file, directory or link was created
 *     R old new saved    a rename; `saved` is a link to what `new` was before, or `-`
 *     S directory        the directory was synced
 *     A                  everything was synced (syncfs)
 *
 * (fields are separated by tabs). Removals count as durable at once.
 *
 * Environment: POWER_LOSS_ROOT is the directory, absolute and without links; POWER_LOSS_JOURNAL is a directory beside
 * it, on the same file system, for the file `journal` and the saved links. With POWER_LOSS_SEED, unsynced sectors
 * reach their file at random when they are written, as from a cache that is written back in any order: so tails are
 * torn, and later writes are there without earlier ones.
 *
 * Only calls that go through the C library are seen: raw system calls (fallocate by rustix, io_uring) are not, and
 * shared mappings of files under the directory are refused. A file whose size a raw call makes larger is larger here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, SECTOR = 512, BUCKETS = 1024 };

/* Octets that were written but not synced. */
struct page {
    struct page *next;
    off_t offset;
    unsigned char octets[PAGE];
};

/* A file under the directory. It is never forgotten and stays open, so that no other file gets its inode number. */
struct file {
    struct file *next;
    dev_t device;
    ino_t inode;
    int real;        /* our own descriptor of it, to read and write */
    off_t size;      /* as the program sees it */
    off_t real_size; /* as it was when we looked last: a raw call may change it */
    off_t cut;       /* the lowest size since the last sync: what the real file has behind it is gone */
    struct page *pages[BUCKETS];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct file *files[BUCKETS];
static const char *root;
static const char *journal_directory;
static int journal = -1;
static uint64_t random_state; /* of xorshift64*; 0: nothing reaches a file unsynced */

static void die(const char *what)
{
    dprintf(2, "power_loss: %s: %s\n", what, strerror(errno));
    abort();
}

static void note(const char *format, ...)
{
    char line[3 * PATH_MAX + 16];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (syscall(SYS_write, journal, line, (size_t)length) != length)
        die("journal");
}

__attribute__((constructor)) static void begin(void)
{
    const char *seed = getenv("POWER_LOSS_SEED");
    char path[PATH_MAX];
    journal_directory = getenv("POWER_LOSS_JOURNAL");
    if (!getenv("POWER_LOSS_ROOT") || !journal_directory)
        return;
    snprintf(path, sizeof path, "%s/journal", journal_directory);
    journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0)
        die(path);
    if (seed)
        random_state = (strtoull(seed, NULL, 10) * 0x9E3779B97F4A7C15ULL) | 1;
    note("P\t%d\n", (int)getpid());
    root = getenv("POWER_LOSS_ROOT");
}

static uint64_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1DULL >> 33;
}

/* Writes the absolute form of `path` to `full`; whether that is the directory or under it. */
static int is_ours(int directory, const char *path, char full[PATH_MAX])
{
    if (!root || !path)
        return 0;
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        if (directory == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0)
            return 0;
        base[length] = 0;
        if (snprintf(full, PATH_MAX, "%s%s%s", base, *path ? "/" : "", path) >= PATH_MAX)
            return 0;
    }
    size_t length = strlen(root);
    return !strncmp(full, root, length) && (full[length] == '/' || !full[length]);
}

static off_t size_of_real(const struct file *file)
{
    struct stat status;
    if (syscall(SYS_fstat, file->real, &status))
        die("fstat");
    return status.st_size;
}

static struct file *find(dev_t device, ino_t inode)
{
    struct file *file = files[inode % BUCKETS];
    while (file && (file->inode != inode || file->device != device))
        file = file->next;
    return file;
}

/* The file behind a descriptor, if it is ours. Call it with the mutex held. */
static struct file *file_of(int descriptor)
{
    struct stat status;
    if (!root || syscall(SYS_fstat, descriptor, &status) || !S_ISREG(status.st_mode))
        return NULL;
    return find(status.st_dev, status.st_ino);
}

static void begin_tracking(int descriptor)
{
    struct stat status;
    if (syscall(SYS_fstat, descriptor, &status) || !S_ISREG(status.st_mode) ||
        find(status.st_dev, status.st_ino))
        return;
    char path[64];
    struct file *file = calloc(1, sizeof *file);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (!file || (file->real = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC)) < 0)
        die(path);
    file->device = status.st_dev;
    file->inode = status.st_ino;
    file->size = file->real_size = status.st_size;
    file->cut = LLONG_MAX;
    file->next = files[file->inode % BUCKETS];
    files[file->inode % BUCKETS] = file;
}

static off_t size_of(struct file *file)
{
    off_t real_size = size_of_real(file);
    if (real_size != file->real_size && real_size > file->size)
        file->size = real_size;
    file->real_size = real_size;
    return file->size;
}

static struct page **slot(struct file *file, off_t offset)
{
    struct page **page = &file->pages[offset / PAGE % BUCKETS];
    while (*page && (*page)->offset != offset)
        page = &(*page)->next;
    return page;
}

/* What is at `offset`, a multiple of PAGE, in the real file, but for what has been cut off. */
static void load(const struct file *file, off_t offset, unsigned char *octets)
{
    memset(octets, 0, PAGE);
    if (offset >= file->cut)
        return;
    size_t length = file->cut - offset < PAGE ? (size_t)(file->cut - offset) : PAGE;
    if (syscall(SYS_pread64, file->real, octets, length, offset) < 0)
        die("pread");
}

static void store(struct file *file, const struct page *page, size_t from, size_t to)
{
    if (page->offset + (off_t)to > file->size)
        to = page->offset < file->size ? (size_t)(file->size - page->offset) : 0;
    if (from < to && syscall(SYS_pwrite64, file->real, page->octets + from, to - from, page->offset + (off_t)from) < 0)
        die("pwrite");
}

/* What a sync does: gives everything to the real file. */
static void apply(struct file *file)
{
    size_of(file);
    if (file->cut < file->real_size && syscall(SYS_ftruncate, file->real, file->cut))
        die("ftruncate");
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct page *page; (page = file->pages[bucket]);) {
            store(file, page, 0, PAGE);
            file->pages[bucket] = page->next;
            free(page);
        }
    if (size_of_real(file) != file->size && syscall(SYS_ftruncate, file->real, file->size))
        die("ftruncate");
    file->real_size = file->size;
    file->cut = LLONG_MAX;
}

static void leak(struct file *file, const struct page *page)
{
    if (!random_state || next_random() % 4)
        return;
    size_t from = next_random() % (PAGE / SECTOR), to = from + 1 + next_random() % (PAGE / SECTOR - from);
    if (next_random() % 2)
        from = 0, to = PAGE / SECTOR;
    store(file, page, from * SECTOR, to * SECTOR);
    file->real_size = size_of_real(file);
}

static void write_at(struct file *file, const unsigned char *octets, size_t length, off_t offset)
{
    if (size_of(file) < offset + (off_t)length)
        file->size = offset + (off_t)length;
    while (length) {
        off_t start = offset / PAGE * PAGE;
        size_t within = (size_t)(offset - start), part = PAGE - within < length ? PAGE - within : length;
        struct page **place = slot(file, start);
        if (!*place) {
            struct page *page = malloc(sizeof *page);
            if (!page)
                die("malloc");
            page->next = NULL;
            page->offset = start;
            load(file, start, page->octets);
            *place = page;
        }
        memcpy((*place)->octets + within, octets, part);
        leak(file, *place);
        octets += part, offset += (off_t)part, length -= part;
    }
}

static size_t read_at(struct file *file, unsigned char *octets, size_t length, off_t offset)
{
    off_t size = size_of(file);
    if (offset >= size)
        return 0;
    if ((off_t)length > size - offset)
        length = (size_t)(size - offset);
    for (size_t left = length; left;) {
        unsigned char buffer[PAGE];
        off_t start = offset / PAGE * PAGE;
        size_t within = (size_t)(offset - start), part = PAGE - within < left ? PAGE - within : left;
        struct page *page = *slot(file, start);
        if (!page)
            load(file, start, buffer);
        memcpy(octets, (page ? page->octets : buffer) + within, part);
        octets += part, offset += (off_t)part, left -= part;
    }
    return length;
}

static void truncate_to(struct file *file, off_t size)
{
    off_t before = size_of(file);
    for (int bucket = 0; size < before && bucket < BUCKETS; bucket++)
        for (struct page **place = &file->pages[bucket]; *place;) {
            struct page *page = *place;
            if (page->offset >= size) {
                *place = page->next;
                free(page);
                continue;
            }
            if (size - page->offset < PAGE)
                memset(page->octets + (size - page->offset), 0, (size_t)(PAGE - (size - page->offset)));
            place = &page->next;
        }
    if (size < before && size < file->cut)
        file->cut = size;
    file->size = size;
}

/* Reads or writes all pieces, at `offset` or (when it is -1) at the position of the descriptor, which moves then.
 * Returns -2 if the file is not ours. */
static ssize_t transfer(int descriptor, const struct iovec *pieces, int count, off_t offset, int writes)
{
    pthread_mutex_lock(&mutex);
    struct file *file = file_of(descriptor);
    if (!file) {
        pthread_mutex_unlock(&mutex);
        return -2;
    }
    int flags = (int)syscall(SYS_fcntl, descriptor, F_GETFL), mode = flags & O_ACCMODE, moves = offset == -1;
    ssize_t total = 0;
    if (mode == (writes ? O_RDONLY : O_WRONLY)) {
        pthread_mutex_unlock(&mutex);
        errno = EBADF;
        return -1;
    }
    if (writes && flags & O_APPEND)
        offset = size_of(file);
    else if (moves)
        offset = (off_t)syscall(SYS_lseek, descriptor, 0, SEEK_CUR);
    for (int piece = 0; piece < count; piece++) {
        size_t length = pieces[piece].iov_len;
        if (writes)
            write_at(file, pieces[piece].iov_base, length, offset + total);
        else
            length = read_at(file, pieces[piece].iov_base, length, offset + total);
        total += (ssize_t)length;
    }
    if (moves)
        syscall(SYS_lseek, descriptor, offset + total, SEEK_SET);
    if (writes && flags & O_DSYNC)
        apply(file);
    pthread_mutex_unlock(&mutex);
    return total;
}

#define SIMPLE_TRANSFER(name, offset, writes, arguments, call)                                                         \
    ssize_t name arguments                                                                                             \
    {                                                                                                                  \
        struct iovec piece = {(void *)(uintptr_t)buffer, length};                                                      \
        ssize_t done = transfer(fd, &piece, 1, offset, writes);                                                        \
        return done == -2 ? syscall call : done;                                                                       \
    }

SIMPLE_TRANSFER(read, -1, 0, (int fd, void *buffer, size_t length), (SYS_read, fd, buffer, length))
SIMPLE_TRANSFER(write, -1, 1, (int fd, const void *buffer, size_t length), (SYS_write, fd, buffer, length))
SIMPLE_TRANSFER(pread, at, 0, (int fd, void *buffer, size_t length, off_t at),
                (SYS_pread64, fd, buffer, length, at))
SIMPLE_TRANSFER(pread64, at, 0, (int fd, void *buffer, size_t length, off64_t at),
                (SYS_pread64, fd, buffer, length, at))
SIMPLE_TRANSFER(pwrite, at, 1, (int fd, const void *buffer, size_t length, off_t at),
                (SYS_pwrite64, fd, buffer, length, at))
SIMPLE_TRANSFER(pwrite64, at, 1, (int fd, const void *buffer, size_t length, off64_t at),
                (SYS_pwrite64, fd, buffer, length, at))

/* The kernel takes an offset in two halves, of which a 64-bit one leaves the second alone. */
#define VECTORED_TRANSFER(name, offset, writes, arguments, call)                                                       \
    ssize_t name arguments                                                                                             \
    {                                                                                                                  \
        ssize_t done = transfer(fd, pieces, count, offset, writes);                                                    \
        return done == -2 ? syscall call : done;                                                                       \
    }

VECTORED_TRANSFER(readv, -1, 0, (int fd, const struct iovec *pieces, int count), (SYS_readv, fd, pieces, count))
VECTORED_TRANSFER(writev, -1, 1, (int fd, const struct iovec *pieces, int count), (SYS_writev, fd, pieces, count))
VECTORED_TRANSFER(preadv, at, 0, (int fd, const struct iovec *pieces, int count, off_t at),
                  (SYS_preadv, fd, pieces, count, at, 0))
VECTORED_TRANSFER(preadv64, at, 0, (int fd, const struct iovec *pieces, int count, off64_t at),
                  (SYS_preadv, fd, pieces, count, at, 0))
VECTORED_TRANSFER(pwritev, at, 1, (int fd, const struct iovec *pieces, int count, off_t at),
                  (SYS_pwritev, fd, pieces, count, at, 0))
VECTORED_TRANSFER(pwritev64, at, 1, (int fd, const struct iovec *pieces, int count, off64_t at),
                  (SYS_pwritev, fd, pieces, count, at, 0))

static void note_sync_of_directory(int descriptor)
{
    char link[64], path[PATH_MAX], full[PATH_MAX];
    struct stat status;
    if (!root || syscall(SYS_fstat, descriptor, &status) || !S_ISDIR(status.st_mode))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (is_ours(AT_FDCWD, path, full))
        note("S\t%s\n", full);
}

static int sync_file(int descriptor, long call)
{
    pthread_mutex_lock(&mutex);
    struct file *file = file_of(descriptor);
    if (file)
        apply(file);
    else
        note_sync_of_directory(descriptor);
    pthread_mutex_unlock(&mutex);
    return (int)syscall(call, descriptor);
}

int fsync(int fd)
{
    return sync_file(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_file(fd, SYS_fdatasync);
}

int syncfs(int fd)
{
    pthread_mutex_lock(&mutex);
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct file *file = files[bucket]; file; file = file->next)
            apply(file);
    if (root)
        note("A\n");
    pthread_mutex_unlock(&mutex);
    return (int)syscall(SYS_syncfs, fd);
}

static int resize(int descriptor, off_t size)
{
    pthread_mutex_lock(&mutex);
    struct file *file = file_of(descriptor);
    if (file && size >= 0)
        truncate_to(file, size);
    pthread_mutex_unlock(&mutex);
    return file && size >= 0 ? 0 : (int)syscall(SYS_ftruncate, descriptor, size);
}

int ftruncate(int fd, off_t size)
{
    return resize(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return resize(fd, size);
}

static int exists(const char *path)
{
    return !syscall(SYS_faccessat, AT_FDCWD, path, F_OK);
}

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    char full[PATH_MAX];
    if (!is_ours(directory, path, full))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    pthread_mutex_lock(&mutex);
    if (flags & O_CREAT && !exists(full))
        note("C\t%s\n", full);
    int descriptor = (int)syscall(SYS_openat, directory, path, flags & ~O_TRUNC, mode);
    int error = errno;
    if (descriptor >= 0) {
        begin_tracking(descriptor);
        struct file *file = file_of(descriptor);
        if (file && flags & O_TRUNC)
            truncate_to(file, 0);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return descriptor;
}

#define OPEN(name, directory, parameters)                                                                              \
    int name parameters                                                                                                \
    {                                                                                                                  \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;             \
        va_end(arguments);                                                                                             \
        return open_at(directory, path, flags, mode);                                                                  \
    }

OPEN(open, AT_FDCWD, (const char *path, int flags, ...))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...))
OPEN(openat, fd, (int fd, const char *path, int flags, ...))
OPEN(openat64, fd, (int fd, const char *path, int flags, ...))

/* The body of a function that creates a name by a system call. */
#define MAKE(directory, path, call)                                                                                    \
    char full[PATH_MAX];                                                                                               \
    int ours = is_ours(directory, path, full);                                                                         \
    if (!ours)                                                                                                         \
        return (int)syscall call;                                                                                      \
    pthread_mutex_lock(&mutex);                                                                                        \
    if (!exists(full))                                                                                                 \
        note("C\t%s\n", full);                                                                                         \
    int result = (int)syscall call;                                                                                    \
    pthread_mutex_unlock(&mutex);                                                                                      \
    return result

int mkdirat(int directory, const char *path, mode_t mode)
{
    MAKE(directory, path, (SYS_mkdirat, directory, path, mode));
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

int linkat(int old_directory, const char *old, int directory, const char *path, int flags)
{
    MAKE(directory, path, (SYS_linkat, old_directory, old, directory, path, flags));
}

int link(const char *old, const char *path)
{
    return linkat(AT_FDCWD, old, AT_FDCWD, path, 0);
}

int renameat2(int old_directory, const char *old, int directory, const char *path, unsigned flags)
{
    static unsigned links;
    char full_old[PATH_MAX], full[PATH_MAX], saved[PATH_MAX] = "-";
    int ours = is_ours(directory, path, full) && is_ours(old_directory, old, full_old);
    if (!ours)
        return (int)syscall(SYS_renameat2, old_directory, old, directory, path, flags);
    pthread_mutex_lock(&mutex);
    if (exists(full_old)) {
        if (exists(full)) {
            snprintf(saved, sizeof saved, "%s/saved-%u", journal_directory, links++);
            if (syscall(SYS_linkat, AT_FDCWD, full, AT_FDCWD, saved, 0))
                die(saved);
        }
        note("R\t%s\t%s\t%s\n", full_old, full, saved);
    }
    int result = (int)syscall(SYS_renameat2, old_directory, old, directory, path, flags);
    pthread_mutex_unlock(&mutex);
    return result;
}

int renameat(int old_directory, const char *old, int directory, const char *path)
{
    return renameat2(old_directory, old, directory, path, 0);
}

int rename(const char *old, const char *path)
{
    return renameat2(AT_FDCWD, old, AT_FDCWD, path, 0);
}

/* The size of a file that is ours is what the program has made it, whatever the kernel says. */
static void correct(dev_t device, ino_t inode, void *size, size_t width)
{
    pthread_mutex_lock(&mutex);
    struct file *file = root ? find(device, inode) : NULL;
    if (file) {
        off_t correct_size = size_of(file);
        memcpy(size, &correct_size, width);
    }
    pthread_mutex_unlock(&mutex);
}

#define STATUS(name, type, parameters, call)                                                                           \
    int name parameters                                                                                                \
    {                                                                                                                  \
        int result = (int)syscall call;                                                                                \
        if (!result)                                                                                                   \
            correct(status->st_dev, status->st_ino, &status->st_size, sizeof status->st_size);                         \
        return result;                                                                                                 \
    }

STATUS(fstat, stat, (int fd, struct stat *status), (SYS_fstat, fd, status))
STATUS(fstat64, stat64, (int fd, struct stat64 *status), (SYS_fstat, fd, status))
STATUS(stat, stat, (const char *path, struct stat *status), (SYS_newfstatat, AT_FDCWD, path, status, 0))
STATUS(stat64, stat64, (const char *path, struct stat64 *status), (SYS_newfstatat, AT_FDCWD, path, status, 0))
STATUS(lstat, stat, (const char *path, struct stat *status),
       (SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW))
STATUS(lstat64, stat64, (const char *path, struct stat64 *status),
       (SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW))
STATUS(fstatat, stat, (int fd, const char *path, struct stat *status, int flags),
       (SYS_newfstatat, fd, path, status, flags))
STATUS(fstatat64, stat64, (int fd, const char *path, struct stat64 *status, int flags),
       (SYS_newfstatat, fd, path, status, flags))

int statx(int fd, const char *path, int flags, unsigned mask, struct statx *status)
{
    int result = (int)syscall(SYS_statx, fd, path, flags, mask | STATX_INO, status);
    if (!result)
        correct(makedev(status->stx_dev_major, status->stx_dev_minor), status->stx_ino, &status->stx_size,
                sizeof status->stx_size);
    return result;
}

static off_t seek(int descriptor, off_t offset, int whence)
{
    if (whence == SEEK_END) {
        pthread_mutex_lock(&mutex);
        struct file *file = file_of(descriptor);
        if (file) {
            offset += size_of(file);
            whence = SEEK_SET;
        }
        pthread_mutex_unlock(&mutex);
    }
    return (off_t)syscall(SYS_lseek, descriptor, offset, whence);
}

off_t lseek(int fd, off_t offset, int whence)
{
    return seek(fd, offset, whence);
}

off64_t lseek64(int fd, off64_t offset, int whence)
{
    return seek(fd, offset, whence);
}

/* Whoever copies inside the kernel falls back to reading and writing. */
static int must_fall_back(int one, int other)
{
    pthread_mutex_lock(&mutex);
    int ours = file_of(one) || file_of(other);
    pthread_mutex_unlock(&mutex);
    return ours;
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t length, unsigned flags)
{
    if (must_fall_back(from, to)) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, at, to, to_at, length, flags);
}

static ssize_t send_file(int to, int from, off_t *at, size_t length)
{
    if (must_fall_back(from, to)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_sendfile, to, from, at, length);
}

ssize_t sendfile(int to, int from, off_t *at, size_t length)
{
    return send_file(to, from, at, length);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t length)
{
    return send_file(to, from, at, length);
}

static void *map(void *address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
    if (descriptor >= 0 && !(flags & MAP_ANONYMOUS) && must_fall_back(descriptor, descriptor)) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, descriptor, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return map(address, length, protection, flags, fd, offset);
}
