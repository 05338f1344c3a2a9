/* In the guest: waits for a connection to port 52 in a child, connects to the host's port 1234, and says what it hears. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOTAL (1 << 20)

static int address(int fd, unsigned cid, unsigned port, int listening) {
    struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
    if (listening)
        return bind(fd, (struct sockaddr *)&to, sizeof to) || listen(fd, 1);
    return connect(fd, (struct sockaddr *)&to, sizeof to);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(void) {
    static char buffer[TOTAL];
    int server = socket(AF_VSOCK, SOCK_STREAM, 0), client = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (server < 0 || client < 0 || address(server, VMADDR_CID_ANY, 52, 1))
        fail("socket");
    if (!address(client, 2, 4321, 0))
        fail("nobody listens there");
    close(client);
    client = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (address(client, 2, 1234, 0))
        fail("connect");
    for (int i = 0; i < TOTAL; i++)
        buffer[i] = i * 7;
    for (int done = 0; done < TOTAL;) {
        ssize_t n = write(client, buffer + done, TOTAL - done);
        if (n <= 0)
            fail("write");
        done += n;
    }
    shutdown(client, SHUT_WR);
    ssize_t n, len = 0;
    while ((n = read(client, buffer + len, sizeof buffer - 1 - len)) > 0)
        len += n;
    buffer[len] = 0;
    printf("the host says: %s\n", buffer);
    close(client);
    /* Now the host connects. */
    int peer = accept(server, NULL, NULL);
    n = read(peer, buffer, 100);
    if (peer < 0 || n < 0)
        fail("accept");
    buffer[n] = 0;
    dprintf(peer, "hello %s", buffer);
    close(peer);
    return 0;
}
