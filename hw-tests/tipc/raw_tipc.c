/*
 * What the kernel charges for a packet to and fro: the floor of tipc_64, written against the system's headers alone.
 *
 *   raw_tipc serve TYPE INSTANCE WAITING           answers one connection, then ends
 *   raw_tipc ping  TYPE INSTANCE WAITING BYTES MS  prints the median of round trips in ns, and how many there were
 *   raw_tipc sizes                                 the sizes of structures that our own layouts must have
 *
 * WAITING is spin (asks again at once), yield (lets others run, and asks again) or block (in the kernel).
 */
#include <errno.h>
#include <linux/tipc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BYTES_MAX = 65536, SAMPLES_MAX = 1 << 20, CONNECT_MS_MAX = 20000, WARM_PART = 4 };

enum waiting { SPIN, YIELD, BLOCK };

static char bytes[BYTES_MAX];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static long long now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static struct sockaddr_tipc service(char **words)
{
    struct sockaddr_tipc address;
    memset(&address, 0, sizeof address);
    address.family = AF_TIPC;
    address.addrtype = TIPC_SERVICE_ADDR;
    address.scope = TIPC_CLUSTER_SCOPE;
    address.addr.name.name.type = strtoul(words[0], NULL, 10);
    address.addr.name.name.instance = strtoul(words[1], NULL, 10);
    return address;
}

static enum waiting waiting(const char *word)
{
    static const char *const words[] = {"spin", "yield", "block"};
    for (int at = SPIN; at <= BLOCK; at++)
        if (strcmp(word, words[at]) == 0)
            return (enum waiting)at;
    fprintf(stderr, "waiting is spin, yield or block\n");
    exit(2);
}

/* The length of the next packet; 0 at the end. */
static ssize_t receive(int socket, enum waiting how)
{
    for (;;) {
        ssize_t length = recv(socket, bytes, sizeof bytes, how == BLOCK ? 0 : MSG_DONTWAIT);
        if (length >= 0)
            return length;
        if (errno == ECONNRESET)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            die("recv");
        if (how == YIELD)
            sched_yield();
    }
}

static void give(int socket, size_t length)
{
    if (send(socket, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("send");
}

static int serve(char **words)
{
    struct sockaddr_tipc address = service(words);
    enum waiting how = waiting(words[2]);
    int listener = socket(AF_TIPC, SOCK_SEQPACKET, 0);
    if (listener < 0)
        die("socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0)
        die("bind");
    if (listen(listener, 0) != 0)
        die("listen");
    printf("serving\n");
    fflush(stdout);
    for (int answered = 0; !answered;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0)
            die("accept");
        /* Who tried and went away in vain does not count. */
        for (ssize_t length; (length = receive(peer, how)) > 0; answered = 1)
            give(peer, (size_t)length);
        close(peer);
    }
    return 0;
}

static int by_value(const void *one, const void *other)
{
    long long a = *(const long long *)one, b = *(const long long *)other;
    return (a > b) - (a < b);
}

static int ping(char **words)
{
    struct sockaddr_tipc address = service(words);
    enum waiting how = waiting(words[2]);
    size_t length = strtoul(words[3], NULL, 10);
    long long measured = strtoll(words[4], NULL, 10) * 1000000LL;
    if (length == 0 || length > sizeof bytes) {
        fprintf(stderr, "1 to %zu bytes\n", sizeof bytes);
        return 2;
    }
    int peer = -1;
    for (int ms = 0; peer < 0 && ms < CONNECT_MS_MAX; ms++) {
        peer = socket(AF_TIPC, SOCK_SEQPACKET, 0);
        if (peer < 0)
            die("socket");
        if (connect(peer, (struct sockaddr *)&address, sizeof address) != 0) {
            close(peer);
            peer = -1;
            usleep(1000);
        }
    }
    if (peer < 0)
        die("connect");
    static long long samples[SAMPLES_MAX];
    size_t count = 0;
    long long begin = now_ns() + measured / WARM_PART;
    for (;;) {
        long long at = now_ns();
        give(peer, length);
        if (receive(peer, how) != (ssize_t)length) {
            fprintf(stderr, "another length came back\n");
            return 1;
        }
        long long after = now_ns();
        if (at >= begin && count < SAMPLES_MAX)
            samples[count++] = after - at;
        if (after > begin + measured)
            break;
    }
    if (count == 0) {
        fprintf(stderr, "nothing was measured\n");
        return 1;
    }
    qsort(samples, count, sizeof samples[0], by_value);
    printf("%lld ns, median of %zu\n", samples[count / 2], count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "serve") == 0)
        return serve(argv + 2);
    if (argc == 7 && strcmp(argv[1], "ping") == 0)
        return ping(argv + 2);
    if (argc == 2 && strcmp(argv[1], "sizes") == 0) {
        printf("address %zu subscription %zu event %zu packet %u\n", sizeof(struct sockaddr_tipc),
               sizeof(struct tipc_subscr), sizeof(struct tipc_event), TIPC_MAX_USER_MSG_SIZE);
        return 0;
    }
    fprintf(stderr, "usage: raw_tipc serve TYPE INSTANCE WAITING | ping TYPE INSTANCE WAITING BYTES MS | sizes\n");
    return 2;
}
