"""An echo server on grpcio: `server.py NAME`. Prints its port."""

import sys
import threading
from concurrent import futures

import grpc
from echo import SERVICE, fields, response
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

NAME = sys.argv[1]
cancelled = threading.Semaphore(0)
sleeping = threading.Semaphore(0)
streaming = threading.Semaphore(0)


def unary(data, context):
    text = fields(data).get(1, "")
    # Binary metadata is returned in the trailers.
    for key, value in context.invocation_metadata():
        if key == "token-bin":
            context.send_initial_metadata((("seen", str(len(value))),))
            context.set_trailing_metadata((("token-bin", value), ("who", NAME)))
    if text == "fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as was asked: \u00e4%")
    if text == "sleep":
        done = threading.Event()
        context.add_callback(done.set)
        sleeping.release()
        done.wait(30)
        cancelled.release()
        return response("", NAME)
    if text == "was one cancelled?":
        return response(str(cancelled.acquire(timeout=20)), NAME)
    if text == "does one sleep?":
        # Two RPCs have slept: the one whose deadline expired, and the current one.
        return response(str(sleeping.acquire(timeout=20) and sleeping.acquire(timeout=20)), NAME)
    if text == "does one stream?":
        return response(str(streaming.acquire(timeout=20)), NAME)
    if text == "which authority?":
        return response(context._rpc_event.call_details.host.decode(), NAME)
    if text == "how long?":
        return response(str(context.time_remaining()), NAME)
    if text == "who asks?":
        asker = dict(context.invocation_metadata()).get("user-agent", "")
        return response(asker, NAME)
    if text == "compress":
        context.set_compression(grpc.Compression.Gzip)
        return response("x" * 100_000, NAME)
    return response(text, NAME)


def server_stream(data, context):
    request = fields(data)
    for _ in range(request.get(2, 0)):
        yield response(request.get(1, ""), NAME)
    if request.get(1) == "fail":
        context.abort(grpc.StatusCode.DATA_LOSS, "after the messages")


def watched(requests, context):
    """Releases `streaming` when the message `first` arrives, and `cancelled` when its RPC ends."""
    for data in requests:
        if fields(data).get(1) == "first":
            context.add_callback(cancelled.release)
            streaming.release()
        yield data


def client_stream(requests, context):
    return response("".join(fields(data).get(1, "") for data in watched(requests, context)), NAME)


def bidi(requests, context):
    for data in watched(requests, context):
        yield response(fields(data).get(1, ""), NAME)


server = grpc.server(
    futures.ThreadPoolExecutor(32),
    options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)],
)
server.add_generic_rpc_handlers(
    [
        grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Unary": grpc.unary_unary_rpc_method_handler(unary),
                "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
                "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
                "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
            },
        )
    ]
)
status = health.HealthServicer()
status.set("echo", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(status, server)
port = server.add_insecure_port(f"127.0.0.1:{sys.argv[2] if len(sys.argv) > 2 else 0}")
server.start()
print(port)
server.wait_for_termination()
