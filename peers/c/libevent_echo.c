// An echo server on libevent: one thread, a bufferevent for each connection, whose input is moved to its output.
//     libevent-echo [ADDR] [--supervised]
// It says `READY ADDR PID` when it listens.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <event2/util.h>

enum { BACKLOG = 4096 }; // that of a ringlink node

// It reads 16 KiB at once, which is the default of a bufferevent.
static void on_read(struct bufferevent *connection, void *nothing) {
    (void)nothing;
    evbuffer_add_buffer(bufferevent_get_output(connection), bufferevent_get_input(connection));
}

// What is to be sent after the peer's end has gone out.
static void on_written(struct bufferevent *connection, void *nothing) {
    (void)nothing;
    bufferevent_free(connection);
}

static void on_event(struct bufferevent *connection, short what, void *nothing) {
    if ((what & BEV_EVENT_EOF) && evbuffer_get_length(bufferevent_get_output(connection)) > 0)
        bufferevent_setcb(connection, NULL, on_written, on_event, nothing);
    else
        bufferevent_free(connection);
}

static void on_accept(
    struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer, int len, void *base) {
    (void)listener, (void)peer, (void)len;
    struct bufferevent *connection = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(connection, on_read, NULL, on_event, NULL);
    bufferevent_enable(connection, EV_READ | EV_WRITE);
}

// Standard input is a pipe of whoever supervises.
static void on_input(evutil_socket_t fd, short what, void *base) {
    (void)what;
    char bytes[64];
    if (read(fd, bytes, sizeof bytes) <= 0)
        event_base_loopbreak(base);
}

static int fail(const char *what) {
    fprintf(stderr, "libevent-echo: %s: %s\n", what, strerror(errno));
    return 1;
}

int main(int count, char **words) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int len = sizeof address, supervised = 0;
    for (int n = 1; n < count; n++) {
        if (strcmp(words[n], "--supervised") == 0) {
            supervised = 1;
        } else if (evutil_parse_sockaddr_port(words[n], (struct sockaddr *)&address, &len) != 0) {
            fprintf(stderr, "libevent-echo: no IPv4 address, nor --supervised: %s\n", words[n]);
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    struct event_base *base = event_base_new();
    struct evconnlistener *listener = evconnlistener_new_bind(base, on_accept, base,
        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, BACKLOG, (struct sockaddr *)&address, sizeof address);
    if (!listener)
        return fail("cannot listen");
    int fd = evconnlistener_get_fd(listener), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // accepted sockets inherit it
    socklen_t bound = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &bound);
    if (supervised)
        event_add(event_new(base, STDIN_FILENO, EV_READ | EV_PERSIST, on_input, base), NULL);
    printf("READY %s:%d %d\n", inet_ntoa(address.sin_addr), ntohs(address.sin_port), (int)getpid());
    fflush(stdout);
    event_base_dispatch(base);
    return 0;
}
