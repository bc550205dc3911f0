/* What a static server cannot be: a WebSocket's far end, and one that reads a body to its end before it answers. One thread, epoll.
 *
 *   echo PORT
 *
 * An upgrade is answered with 101, and the bytes that follow come back as they are: a proxy looks at the head alone, so frames
 * stay masked. Any other request is answered with 200 and 1 KiB once all of its body (Content-Length) has come. Not for measuring anything that is not on this machine. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char SWITCH[] = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: echo PORT\n"), 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int door = socket(AF_INET, SOCK_STREAM, 0), one = 1, epoll_fd = epoll_create1(0);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (door < 0 || bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 8192)) die("listen");
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)door};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, door, &e)) die("epoll_ctl");
    static char is_open[1 << 20]; /* by descriptor: the 101 went out */
    static long body_left[1 << 20]; /* by descriptor: of a request's body */
    static char buffer[65536 + 1], whole[2048];
    int head_size = sprintf(whole, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n");
    memset(whole + head_size, 'x', 1024);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = (int)events[i].data.u64;
            if (fd == door) {
                int new = accept(door, NULL, NULL);
                if (new < 0) continue;
                setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                e.data.u64 = (uint64_t)new;
                is_open[new] = 0;
                body_left[new] = 0;
                if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, new, &e)) die("epoll_ctl");
                continue;
            }
            ssize_t got = read(fd, buffer, sizeof buffer - 1);
            if (got <= 0) {
                close(fd);
                continue;
            }
            /* A head comes in one segment from every proxy here; a probe that only connects sends nothing. */
            buffer[got] = 0;
            const char *answer = buffer, *end;
            size_t size = (size_t)got;
            if (!is_open[fd] && body_left[fd] == 0 && strcasestr(buffer, "\r\nupgrade: websocket\r\n")) {
                is_open[fd] = 1;
                answer = SWITCH, size = sizeof SWITCH - 1;
            } else if (!is_open[fd]) {
                const char *length;
                if (body_left[fd] > 0) {
                    body_left[fd] -= got;
                } else if ((end = strstr(buffer, "\r\n\r\n")) && (length = strcasestr(buffer, "\r\ncontent-length:"))) {
                    body_left[fd] = strtol(length + 17, NULL, 10) - (long)(got - (end + 4 - buffer));
                }
                if (body_left[fd] > 0) continue;
                answer = whole, size = (size_t)head_size + 1024;
            }
            if (write(fd, answer, size) != (ssize_t)size) close(fd);
        }
    }
}
