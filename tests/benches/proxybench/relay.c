/* What a relay of unary RPCs on nghttp2 takes: one thread, epoll, round robin, and nothing else. No deadlines, retries,
 * limits, metrics or policies, and a malformed frame ends the process. It is compared with the sidecar, and never used:
 * docs/design.md says what followed.
 *
 * relay PORT BACKEND-PORT...
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEADERS 64

struct Connection {
    int fd;
    nghttp2_session *session;
    /* What one turn writes, in one call. */
    uint8_t *out;
    size_t length, capacity, sent;
    struct Connection *next_dirty;
    int is_dirty;
};

/* Headers, whose names and values stay where nghttp2 has decoded them. */
struct Headers {
    nghttp2_nv list[MAX_HEADERS];
    nghttp2_rcbuf *held[2 * MAX_HEADERS];
    size_t count;
};

/* Data on its way, and the trailers after it. */
struct Half {
    struct Connection *to;
    int32_t stream;
    struct Headers head, trailers;
    uint8_t *data;
    size_t length, capacity, at;
    int has_begun, has_ended, is_deferred;
};

struct Rpc {
    struct Half request, response;
    int open;
};

static struct Connection *dirty;
static struct Connection *backends;
static size_t backend_count, next_backend;
static int events;

static void mark(struct Connection *connection) {
    if (!connection->is_dirty) {
        connection->is_dirty = 1;
        connection->next_dirty = dirty;
        dirty = connection;
    }
}

static void clear(struct Headers *headers) {
    for (size_t at = 0; at < 2 * headers->count; at++)
        nghttp2_rcbuf_decref(headers->held[at]);
    headers->count = 0;
}

static void closed(struct Rpc *rpc) {
    if (--rpc->open > 0)
        return;
    struct Half *halves[] = {&rpc->request, &rpc->response};
    for (int at = 0; at < 2; at++) {
        clear(&halves[at]->head);
        clear(&halves[at]->trailers);
        free(halves[at]->data);
    }
    free(rpc);
}

static ssize_t read_data(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user) {
    (void)user;
    struct Half *half = source->ptr;
    size_t count = half->length - half->at;
    if (count > room)
        count = room;
    memcpy(buffer, half->data + half->at, count);
    half->at += count;
    if (half->at == half->length)
        half->at = half->length = 0;
    if (half->length == 0 && half->has_ended) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (half->trailers.count > 0) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            nghttp2_submit_trailer(session, stream, half->trailers.list, half->trailers.count);
        }
    } else if (count == 0) {
        half->is_deferred = 1;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)count;
}

static void go_on(struct Half *half) {
    if (half->is_deferred) {
        half->is_deferred = 0;
        nghttp2_session_resume_data(half->to->session, half->stream);
    }
    mark(half->to);
}

/* The half that a stream of a session brings in. A client's session has the requests of a client, and a backend's the
 * responses. */
static struct Half *incoming(nghttp2_session *session, int32_t stream, struct Connection *connection) {
    struct Rpc *rpc = nghttp2_session_get_stream_user_data(session, stream);
    if (!rpc)
        return NULL;
    return connection >= backends && connection < backends + backend_count ? &rpc->response : &rpc->request;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct Connection *connection = user;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        struct Rpc *rpc = calloc(1, sizeof *rpc);
        rpc->open = 2;
        rpc->response.to = connection;
        rpc->response.stream = frame->hd.stream_id;
        nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, rpc);
    }
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                     uint8_t flags, void *user) {
    (void)flags;
    struct Half *half = incoming(session, frame->hd.stream_id, user);
    if (!half)
        return 0;
    struct Headers *headers = half->has_begun ? &half->trailers : &half->head;
    assert(headers->count < MAX_HEADERS);
    nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);
    nghttp2_nv field = {n.base, v.base, n.len, v.len, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
    nghttp2_rcbuf_incref(name);
    nghttp2_rcbuf_incref(value);
    headers->held[2 * headers->count] = name;
    headers->held[2 * headers->count + 1] = value;
    headers->list[headers->count++] = field;
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct Half *half = incoming(session, frame->hd.stream_id, user);
    if (!half)
        return 0;
    int is_last = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    half->has_ended |= is_last != 0;
    if (frame->hd.type == NGHTTP2_HEADERS && !half->has_begun) {
        struct Rpc *rpc = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        nghttp2_data_provider provider = {.source = {.ptr = half}, .read_callback = read_data};
        nghttp2_data_provider *data = is_last ? NULL : &provider;
        half->has_begun = 1;
        if (half == &rpc->request) {
            half->to = &backends[next_backend++ % backend_count];
            half->stream =
                nghttp2_submit_request(half->to->session, NULL, half->head.list, half->head.count, data, rpc);
            assert(half->stream > 0);
        } else {
            nghttp2_submit_response(half->to->session, half->stream, half->head.list, half->head.count, data);
        }
    }
    go_on(half);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t length,
                   void *user) {
    (void)flags;
    struct Half *half = incoming(session, stream, user);
    if (!half)
        return 0;
    if (half->length + length > half->capacity) {
        half->capacity = 2 * (half->length + length);
        half->data = realloc(half->data, half->capacity);
    }
    memcpy(half->data + half->length, data, length);
    half->length += length;
    go_on(half);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user) {
    (void)code;
    (void)user;
    struct Rpc *rpc = nghttp2_session_get_stream_user_data(session, stream);
    if (rpc)
        closed(rpc);
    return 0;
}

static void watch(struct Connection *connection, int operation, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data = {.ptr = connection}};
    epoll_ctl(events, operation, connection->fd, &event);
}

static void start(struct Connection *connection, int fd, int is_server) {
    static nghttp2_session_callbacks *callbacks;
    static nghttp2_option *option;
    if (!callbacks) {
        nghttp2_session_callbacks_new(&callbacks);
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback2(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
        nghttp2_option_new(&option);
        nghttp2_option_set_no_closed_streams(option, 1);
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    connection->fd = fd;
    if (is_server)
        nghttp2_session_server_new2(&connection->session, callbacks, connection, option);
    else
        nghttp2_session_client_new2(&connection->session, callbacks, connection, option);
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1000},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 18}};
    nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, 1 << 24);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    mark(connection);
}

static void flush(struct Connection *connection) {
    const uint8_t *bytes;
    ssize_t count;
    while ((count = nghttp2_session_mem_send(connection->session, &bytes)) > 0) {
        if (connection->length + (size_t)count > connection->capacity) {
            connection->capacity = 2 * (connection->length + (size_t)count);
            connection->out = realloc(connection->out, connection->capacity);
        }
        memcpy(connection->out + connection->length, bytes, (size_t)count);
        connection->length += (size_t)count;
    }
    while (connection->sent < connection->length) {
        ssize_t written = write(connection->fd, connection->out + connection->sent, connection->length - connection->sent);
        if (written < 0) {
            if (errno == EAGAIN)
                watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        connection->sent += (size_t)written;
    }
    connection->sent = connection->length = 0;
}

int main(int count, char **arguments) {
    static uint8_t input[1 << 16];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    events = epoll_create1(0);
    backend_count = (size_t)count - 2;
    backends = calloc(backend_count, sizeof *backends);
    for (size_t at = 0; at < backend_count; at++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        address.sin_port = htons((uint16_t)atoi(arguments[2 + at]));
        if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
            return perror("connect"), 1;
        start(&backends[at], fd, 0);
    }
    struct Connection listener = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    int one = 1;
    setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    address.sin_port = htons((uint16_t)atoi(arguments[1]));
    if (bind(listener.fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener.fd, 64) < 0)
        return perror("listen"), 1;
    watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        while (dirty) {
            struct Connection *next = dirty;
            dirty = next->next_dirty;
            next->is_dirty = 0;
            flush(next);
        }
        struct epoll_event ready[64];
        int many = epoll_wait(events, ready, 64, -1);
        for (int at = 0; at < many; at++) {
            struct Connection *connection = ready[at].data.ptr;
            if (connection == &listener) {
                start(calloc(1, sizeof *connection), accept(listener.fd, NULL, NULL), 1);
                continue;
            }
            if (ready[at].events & EPOLLOUT)
                watch(connection, EPOLL_CTL_MOD, EPOLLIN);
            mark(connection);
            ssize_t length = read(connection->fd, input, sizeof input);
            if (length < 0 && errno == EAGAIN)
                continue;
            if (length <= 0 || nghttp2_session_mem_recv(connection->session, input, (size_t)length) < 0) {
                /* A client is gone, and leaks. A backend is not replaced. */
                if (connection >= backends && connection < backends + backend_count)
                    return 1;
                close(connection->fd);
                connection->fd = -1;
            }
        }
    }
}
