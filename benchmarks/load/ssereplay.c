/* ssereplay: readers that come back at once, and how long until the last has what it missed.
 *
 *   ssereplay HOST PORT PATH CONNECTIONS EVENTS SECONDS [HEADER...]
 *
 * Opens CONNECTIONS subscriptions to http://HOST:PORT/PATH at once, without
 * waiting for one before the next, and reads until each has EVENTS events or
 * SECONDS have passed. Each HEADER is one extra request line ("Last-Event-ID: 7").
 *
 * An event is a block with a data line of the form "T<seconds> P<publisher>
 * S<sequence>..."; it counts when its blank line has come. On each connection the
 * sequence must rise by one from FIRST on, which is 2: the reader has seen 1.
 *
 * Prints one JSON line: complete (connections that had exactly EVENTS events, each
 * in its place), disordered (events out of their place), closed (connections
 * the server ended, or that could not be opened), bytes, seconds (from the first
 * connect to the last reader's last event), median (the same for half of the
 * readers), cpu (seconds this process used).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FIRST = 2, CARRY = 1024, READ = 1 << 18 };

typedef struct {
    int fd, asked, over;
    int status;                /* 0 until the response head has begun, 1 if it is a 200 */
    int data;                  /* a data line has come, and its blank line has not */
    int carried;               /* bytes of an unfinished line kept in carry */
    long next, wrong;
    double at;                 /* when its last event came */
    char carry[CARRY];
} reader;

static unsigned long long bytes;
static int closed, finished, events;
static double start;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void end(reader *r) {
    if (r->over) return;
    r->over = 1;
    finished++;
}

static void line(reader *r, const char *s, int n, double t) {
    if (!r->status) {
        if (n < 12 || memcmp(s, "HTTP/1.", 7) || memcmp(s + 8, " 200", 4)) {
            fprintf(stderr, "refused: %.*s\n", n, s);
            closed++;
            end(r);
        }
        r->status = 1;
        return;
    }
    if (!n && r->data) {
        r->data = 0;
        r->at = t;
        if (r->next == FIRST + events) end(r);
        return;
    }
    if (n < 7 || memcmp(s, "data: T", 7)) return;
    const char *mark = memchr(s, 'S', n < 64 ? n : 64);
    long sequence = mark ? atol(mark + 1) : -1;
    r->data = 1;
    if (sequence != r->next++) r->wrong++;
}

static void feed(reader *r, char *buf, int n, double t) {
    char *p = buf, *last = buf + n;
    if (r->carried) {
        char *nl = memchr(p, '\n', n);
        int take = nl ? nl - p : n;
        if (r->carried + take > CARRY - 1) take = CARRY - 1 - r->carried;
        memcpy(r->carry + r->carried, p, take);
        r->carried += take;
        if (!nl) return;
        r->carry[r->carried] = 0;
        line(r, r->carry, r->carried, t);
        r->carried = 0;
        p = nl + 1;
    }
    while (p < last) {
        char *nl = memchr(p, '\n', last - p);
        if (!nl) {
            r->carried = last - p < CARRY - 1 ? last - p : CARRY - 1;
            memcpy(r->carry, p, r->carried);
            return;
        }
        line(r, p, nl - p, t);
        p = nl + 1;
    }
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: ssereplay HOST PORT PATH CONNECTIONS EVENTS SECONDS [HEADER...]\n");
        return 2;
    }
    const char *host = argv[1], *path = argv[3];
    int port = atoi(argv[2]), n = atoi(argv[4]);
    events = atoi(argv[5]);
    double seconds = atof(argv[6]);
    struct rlimit many;
    getrlimit(RLIMIT_NOFILE, &many);
    many.rlim_cur = many.rlim_max;
    setrlimit(RLIMIT_NOFILE, &many);

    char request[8192];
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n", path, host, port);
    for (int i = 7; i < argc; i++)
        length += snprintf(request + length, sizeof request - length, "%s\r\n", argv[i]);
    length += snprintf(request + length, sizeof request - length, "\r\n");

    reader *readers = calloc(n, sizeof *readers);
    char *buf = malloc(READ);
    int ep = epoll_create1(0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    start = now();
    for (int i = 0; i < n; i++) {
        int fd = readers[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        readers[i].next = FIRST;
        if (fd < 0 || (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
            perror("connect");
            return 1;
        }
        struct epoll_event e = {.events = EPOLLOUT, .data.u32 = i};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
    struct epoll_event ready[256];
    while (finished < n && now() < start + seconds) {
        int k = epoll_wait(ep, ready, 256, 50);
        double t = now();
        for (int j = 0; j < k; j++) {
            reader *r = &readers[ready[j].data.u32];
            if (!r->asked) {
                struct epoll_event e = {.events = EPOLLIN, .data.u32 = ready[j].data.u32};
                r->asked = 1;
                epoll_ctl(ep, EPOLL_CTL_MOD, r->fd, &e);
                if (send(r->fd, request, length, MSG_NOSIGNAL) == length) continue;
            }
            int got = recv(r->fd, buf, READ, 0);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                epoll_ctl(ep, EPOLL_CTL_DEL, r->fd, NULL);
                if (!r->over) closed++;
                end(r);
                continue;
            }
            bytes += got;
            feed(r, buf, got, t);
        }
    }
    int complete = 0;
    long disordered = 0;
    double *at = calloc(n, sizeof *at);
    for (int i = 0; i < n; i++) {
        complete += readers[i].next == FIRST + events && !readers[i].wrong && !readers[i].data;
        disordered += readers[i].wrong;
        at[i] = readers[i].at - start;
    }
    qsort(at, n, sizeof *at, by_value);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec
               + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"complete\":%d,\"disordered\":%ld,\"closed\":%d,\"bytes\":%llu,\"seconds\":%.4f,"
           "\"median\":%.4f,\"cpu\":%.3f}\n",
           complete, disordered, closed, bytes, at[n - 1], at[n / 2], cpu);
    return 0;
}
