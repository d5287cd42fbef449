// Messages one way over ZeroMQ and TCP of this machine: a process that pushes (client) and one that pulls (server),
// each with its I/O thread on a processor of its own.
//     zmq-messages --size=BYTES --warmup=SECONDS --duration=SECONDS [--client-cpu=N] [--server-cpu=N]
// Each message begins with its number; the rest is a piece of one pattern, at a place by that number, so that the
// puller can tell one that is wrong, lost, or twice. It prints one line of JSON, of what it saw in the window.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

enum {
    PLACES = 4096,   // where a message's piece of the pattern may begin
    PATIENCE = 5000, // ms without a message
    GLANCE = 16,     // messages between two looks at the clock
};

static size_t size = 64;
static unsigned char *pattern;

static void fail(const char *what) {
    fprintf(stderr, "zmq-messages: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static double seconds_of(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        fail("clock");
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// Before there are threads, so that those of libzmq stay there, too.
static void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (processor >= 0 && sched_setaffinity(0, sizeof set, &set) != 0)
        fail("cannot pin");
}

// What an end may queue, in messages: the default of libzmq, but of large ones no more than 1 MiB, with which it is
// faster.
static int high_water_mark(void) {
    size_t fit = ((size_t)1 << 20) / size;
    return fit > 1000 ? 1000 : fit < 16 ? 16 : (int)fit;
}

static void *open_socket(int type) {
    void *socket = zmq_socket(zmq_ctx_new(), type);
    int queued = high_water_mark(), patience = PATIENCE, on = 1;
    if (!socket || zmq_setsockopt(socket, ZMQ_SNDHWM, &queued, sizeof queued) != 0
        || zmq_setsockopt(socket, ZMQ_RCVHWM, &queued, sizeof queued) != 0
        || zmq_setsockopt(socket, ZMQ_IMMEDIATE, &on, sizeof on) != 0 // nothing is queued for who is not there
        || zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience) != 0)
        fail("socket");
    return socket;
}

// Sends until it is killed.
static void push(const char *endpoint) {
    void *socket = open_socket(ZMQ_PUSH);
    if (zmq_connect(socket, endpoint) != 0)
        fail("cannot connect");
    for (uint64_t number = 0;; number++) {
        zmq_msg_t message;
        zmq_msg_init_size(&message, size);
        unsigned char *data = zmq_msg_data(&message);
        memcpy(data, &number, sizeof number);
        memcpy(data + sizeof number, pattern + number % PLACES, size - sizeof number);
        if (zmq_msg_send(&message, socket, 0) < 0)
            fail("cannot send");
    }
}

static void pull_one(void *socket, uint64_t number) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, socket, 0) < 0)
        fail("no message came");
    const unsigned char *data = zmq_msg_data(&message);
    if (zmq_msg_size(&message) != size || memcmp(data, &number, sizeof number) != 0
        || memcmp(data + sizeof number, pattern + number % PLACES, size - sizeof number) != 0) {
        fprintf(stderr, "zmq-messages: message %llu is wrong\n", (unsigned long long)number);
        exit(1);
    }
    zmq_msg_close(&message);
}

static void measure(void *socket, clockid_t client, double warmup, double duration) {
    const clockid_t server = CLOCK_PROCESS_CPUTIME_ID;
    uint64_t number = 0;
    pull_one(socket, number++);
    double now, from = seconds_of(CLOCK_MONOTONIC) + warmup;
    while ((now = seconds_of(CLOCK_MONOTONIC)) < from)
        for (int n = 0; n < GLANCE; n++)
            pull_one(socket, number++);
    double start = now, until = now + duration, client_cpu = seconds_of(client), server_cpu = seconds_of(server);
    uint64_t first = number;
    while ((now = seconds_of(CLOCK_MONOTONIC)) < until)
        for (int n = 0; n < GLANCE; n++)
            pull_one(socket, number++);
    client_cpu = seconds_of(client) - client_cpu;
    server_cpu = seconds_of(server) - server_cpu;
    double messages = (double)(number - first);
    printf("{\"messages_per_s\": %.1f, \"client_cpu_ns_per_message\": %.2f, \"server_cpu_ns_per_message\": %.2f}\n",
        messages / (now - start), client_cpu * 1e9 / messages, server_cpu * 1e9 / messages);
}

int main(int count, char **words) {
    static const struct option options[] = {
        {"size", required_argument, NULL, 's'}, {"warmup", required_argument, NULL, 'w'},
        {"duration", required_argument, NULL, 'd'}, {"client-cpu", required_argument, NULL, 'c'},
        {"server-cpu", required_argument, NULL, 'v'}, {NULL, 0, NULL, 0},
    };
    double warmup = 0.1, duration = 1;
    int client_cpu = -1, server_cpu = -1;
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        switch (option) {
        case 's': size = strtoul(optarg, NULL, 10); break;
        case 'w': warmup = strtod(optarg, NULL); break;
        case 'd': duration = strtod(optarg, NULL); break;
        case 'c': client_cpu = atoi(optarg); break;
        case 'v': server_cpu = atoi(optarg); break;
        default: return 2;
        }
    }
    if (size < sizeof(uint64_t) || size > 1 << 24) {
        fprintf(stderr, "zmq-messages: a message has 8 bytes to 16 MiB\n");
        return 2;
    }
    pattern = malloc(PLACES + size);
    for (size_t n = 0; n < PLACES + size; n++)
        pattern[n] = (unsigned char)random();

    int endpoint_pipe[2];
    char endpoint[256] = {0};
    size_t len = sizeof endpoint;
    if (pipe(endpoint_pipe) != 0)
        fail("pipe");
    pid_t parent = getpid(), child = fork(); // before libzmq starts threads
    if (child < 0)
        fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); // it ends with the puller, however that ends
        pin(client_cpu);
        if (getppid() != parent || read(endpoint_pipe[0], endpoint, sizeof endpoint - 1) <= 0)
            return 1;
        push(endpoint);
    }
    pin(server_cpu);
    void *socket = open_socket(ZMQ_PULL);
    clockid_t client;
    if (zmq_bind(socket, "tcp://127.0.0.1:*") != 0
        || zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &len) != 0
        || write(endpoint_pipe[1], endpoint, len) != (ssize_t)len || clock_getcpuclockid(child, &client) != 0)
        fail("cannot start");
    measure(socket, client, warmup, duration);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
