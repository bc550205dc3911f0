/* HTTP/1.1 load for one address on loopback: one thread, epoll, keep-alive connections, answers with Content-Length.
 *
 *   load PORT PATH --conns N (--requests N | --seconds S) [--rate R] [--post BYTES | --ws BYTES]
 *
 * Without --rate a closed loop: every connection sends its next request when it has its answer. With --rate an open
 * loop: request n is due at n/R seconds on connection n mod N, whatever became of the others, and its latency counts
 * from when it was due, so that a proxy which stalls is not spared the requests that it held up.
 *
 * --post sends a POST with so large a body. --ws opens each connection as a WebSocket first, and a request is then a frame
 * of so many bytes that must come back as it is.
 *
 * Prints one JSON object; latencies in microseconds. Each connection sends its own `x-user-id`, so that a proxy which
 * tells users apart sees N of them. Not for measuring anything that is not on this machine. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 65536
#define MOST_LATENCIES (1u << 24)

struct conn {
    int fd, busy;
    char *request;
    size_t request_bytes;
    uint64_t sent_at;        /* when the request under way was sent, or was due */
    uint64_t due_first, due; /* open loop: how many requests of this connection fell due, and the next to send */
    char head[8192];
    size_t head_bytes;
    int64_t body_left; /* -1: still in the head */
};

static struct conn *conns;
static int count = 64, epoll_fd;
static uint64_t most_requests = 0, sent = 0, done = 0, failed = 0, not_200 = 0, body_bytes = 0;
static double rate = 0;
static int is_ws = 0;
static size_t payload = 0;
static uint64_t began;
static uint32_t *latencies;
static size_t latency_count = 0;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Until the whole head of a 101 has come, and not a byte more. */
static void upgrade(struct conn *c, const char *path) {
    char head[1024], one;
    int n = snprintf(head, sizeof head,
        "GET %s HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: load\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path);
    if (write(c->fd, head, (size_t)n) != n) die("write");
    for (n = 0; n < 4 || memcmp(head + n - 4, "\r\n\r\n", 4); n++) {
        if (n == sizeof head || read(c->fd, &one, 1) != 1) die("no 101");
        head[n] = one;
    }
    if (strncmp(head, "HTTP/1.1 101", 12)) errno = EPROTO, die("no 101");
}

static void make_request(struct conn *c, const char *path, int i) {
    c->request = malloc(512 + payload);
    if (!c->request) die("memory");
    if (is_ws) {
        size_t n = 0;
        c->request[n++] = (char)0x82; /* a binary frame, masked with zeros */
        if (payload < 126) {
            c->request[n++] = (char)(0x80 | payload);
        } else {
            c->request[n++] = (char)(0x80 | 126);
            c->request[n++] = (char)(payload >> 8);
            c->request[n++] = (char)payload;
        }
        memset(c->request + n, 0, 4);
        memset(c->request + n + 4, 'x', payload);
        c->request_bytes = n + 4 + payload;
        return;
    }
    char length[64] = "";
    if (payload) snprintf(length, sizeof length, "Content-Length: %zu\r\n", payload);
    int n = snprintf(c->request, 512, "%s %s HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: load\r\nAccept: */*\r\nx-user-id: u%d\r\n%s\r\n",
        payload ? "POST" : "GET", path, i, length);
    memset(c->request + n, 'x', payload);
    c->request_bytes = (size_t)n + payload;
}

static void open_conn(struct conn *c, int port, const char *path) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (is_ws) upgrade(c, path);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
    c->busy = 0;
    c->body_left = -1;
    c->head_bytes = 0;
}

static void send_one(struct conn *c, uint64_t at) {
    if (most_requests && sent >= most_requests) return;
    sent++;
    c->busy = 1;
    c->sent_at = at;
    if (is_ws) c->body_left = (int64_t)c->request_bytes;
    /* Most fit the empty send buffer of a connection that is idle; a larger body waits for the proxy, which does not wait for us. */
    if (write(c->fd, c->request, c->request_bytes) != (ssize_t)c->request_bytes) die("write");
}

/* When request k of connection i falls due. */
static uint64_t due_at(int i, uint64_t k) {
    return began + (uint64_t)((double)(k * (uint64_t)count + (uint64_t)i) / rate * 1e9);
}

static void finished(struct conn *c, uint64_t at) {
    done++;
    c->busy = 0;
    c->body_left = -1;
    c->head_bytes = 0;
    if (latency_count < MOST_LATENCIES) latencies[latency_count++] = (uint32_t)((at - c->sent_at) / 10); /* 10 ns */
    if (rate == 0) {
        send_one(c, at);
    } else if (c->due < c->due_first) {
        send_one(c, due_at((int)(c - conns), c->due++));
    }
}

/* Takes what was read from one connection; returns 0 when the answer cannot be understood. */
static int take(struct conn *c, const char *bytes, size_t n, uint64_t at) {
    if (c->body_left < 0) {
        size_t room = sizeof c->head - 1 - c->head_bytes, part = n < room ? n : room, before = c->head_bytes;
        memcpy(c->head + c->head_bytes, bytes, part);
        c->head_bytes += part;
        c->head[c->head_bytes] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return c->head_bytes < sizeof c->head - 1;
        size_t head_size = (size_t)(end - c->head) + 4;
        char *length = strcasestr(c->head, "\r\ncontent-length:");
        if (!length || length > end || strncmp(c->head, "HTTP/1.1 ", 9)) return 0;
        if (strncmp(c->head + 9, "200", 3)) not_200++;
        c->body_left = strtoll(length + 17, NULL, 10);
        size_t used = head_size - before;
        bytes += used;
        n -= used;
    }
    if ((int64_t)n > c->body_left) return 0;
    c->body_left -= (int64_t)n;
    body_bytes += n;
    if (c->body_left == 0) finished(c, at);
    return 1;
}

static int smaller(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) {
    if (!latency_count) return 0;
    size_t i = (size_t)(q * (double)latency_count);
    return latencies[i < latency_count ? i : latency_count - 1] / 100.0;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: load PORT PATH --conns N (--requests N | --seconds S) [--rate R] [--post BYTES | --ws BYTES]\n");
        return 2;
    }
    int port = atoi(argv[1]);
    const char *path = argv[2];
    double seconds = 3600;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--conns")) count = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--requests")) most_requests = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--rate")) rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--post")) payload = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--ws")) is_ws = 1, payload = strtoull(argv[i + 1], NULL, 10);
        else return fprintf(stderr, "unknown: %s\n", argv[i]), 2;
    }
    prctl(PR_SET_TIMERSLACK, 1);
    epoll_fd = epoll_create1(0);
    conns = calloc((size_t)count, sizeof *conns);
    latencies = malloc(MOST_LATENCIES * sizeof *latencies);
    char *buffer = malloc(BUFFER);
    if (!conns || !latencies || !buffer) die("memory");
    for (int i = 0; i < count; i++) {
        make_request(&conns[i], path, i);
        open_conn(&conns[i], port, path);
    }
    began = now_ns();
    uint64_t ends = began + (uint64_t)(seconds * 1e9), next = 0;
    if (rate == 0)
        for (int i = 0; i < count; i++) send_one(&conns[i], began);
    struct epoll_event events[256];
    uint64_t at = began;
    while (at < ends && !(most_requests && done + failed >= most_requests)) {
        struct timespec wait = {.tv_nsec = 100000000};
        if (rate > 0) {
            uint64_t due = due_at(0, 0) + (uint64_t)((double)next / rate * 1e9), left = due > at ? due - at : 0;
            if (left < 100000000) wait.tv_nsec = (long)left;
        }
        int n = epoll_pwait2(epoll_fd, events, 256, &wait, NULL);
        if (n < 0 && errno != EINTR) die("epoll_pwait2");
        at = now_ns();
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            ssize_t got = read(c->fd, buffer, BUFFER);
            if (got <= 0 || !take(c, buffer, (size_t)got, at)) {
                failed++;
                close(c->fd);
                open_conn(c, port, path);
                if (rate == 0) send_one(c, at);
            }
        }
        while (rate > 0 && began + (uint64_t)((double)next / rate * 1e9) <= at) {
            struct conn *c = &conns[next++ % (uint64_t)count];
            c->due_first++;
            if (!c->busy) send_one(c, due_at((int)(c - conns), c->due++));
        }
    }
    double took = (double)(now_ns() - began) / 1e9;
    qsort(latencies, latency_count, sizeof *latencies, smaller);
    printf("{\"requests\": %lu, \"failed\": %lu, \"not_200\": %lu, \"body_bytes\": %lu, \"seconds\": %.4f, "
           "\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f}\n",
           (unsigned long)done, (unsigned long)failed, (unsigned long)not_200, (unsigned long)body_bytes, took,
           quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999));
    return 0;
}
