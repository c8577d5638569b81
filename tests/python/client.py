"""A gRPC client on grpcio: `client.py TARGET [CA]`.

Checks all kinds of RPCs, and prints a line for each check that passes. Exits with a message at the first check that
fails."""

import sys
import threading

import grpc
from echo import SERVICE, fields, request

options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
if len(sys.argv) > 2:
    with open(sys.argv[2], "rb") as ca:
        channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(ca.read()), options=options)
else:
    channel = grpc.insecure_channel(sys.argv[1], options=options)

unary = channel.unary_unary(f"/{SERVICE}/Unary")
server_stream = channel.unary_stream(f"/{SERVICE}/ServerStream")
client_stream = channel.stream_unary(f"/{SERVICE}/ClientStream")
bidi = channel.stream_stream(f"/{SERVICE}/Bidi")
PATIENCE = {"timeout": 20, "wait_for_ready": True}


def texts(answers):
    return [fields(data).get(1, "") for data in answers]


def check(what, is_so):
    if not is_so:
        sys.exit(f"check failed: {what}")
    print(what, flush=True)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    sys.exit("the RPC should have failed")


backends = {fields(unary(request("hello"), **PATIENCE))[2] for _ in range(10)}
check(f"unary by {' '.join(sorted(backends))}", backends)
check("server stream", texts(server_stream(request("x", 100), **PATIENCE)) == ["x"] * 100)
check("client stream", texts([client_stream(iter([request("a"), request("b")]), **PATIENCE)]) == ["ab"])
check("bidi", texts(bidi(iter([request("a"), request("b")]), **PATIENCE)) == ["a", "b"])

large = "l" * (16 << 20)
check("16 MiB in both directions", texts([unary(request(large), **PATIENCE)]) == [large])
check("a stream of 1 MiB messages", texts(bidi((request("m" * (1 << 20)) for _ in range(8)), **PATIENCE)) == ["m" * (1 << 20)] * 8)

answer = unary(request("z" * 100_000), compression=grpc.Compression.Gzip, **PATIENCE)
check("compressed request", texts([answer]) == ["z" * 100_000])
check("compressed response", texts([unary(request("compress"), **PATIENCE)]) == ["x" * 100_000])

error = failure(lambda: unary(request("fail"), **PATIENCE))
check("error in a trailers-only response", (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "as was asked: \u00e4%"))
error = failure(lambda: list(server_stream(request("fail", 3), **PATIENCE)))
check("error after messages", (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "after the messages"))
error = failure(lambda: channel.unary_unary(f"/{SERVICE}/NoSuchMethod")(b"", **PATIENCE))
check("unknown method", error.code() == grpc.StatusCode.UNIMPLEMENTED)

token = bytes(range(256))
answer, call = unary.with_call(request("hello"), metadata=(("token-bin", token),), **PATIENCE)
check("binary metadata", dict(call.trailing_metadata())["token-bin"] == token)
# The proxy adds no metadata.
check("initial metadata", [tuple(pair) for pair in call.initial_metadata()] == [("seen", "256")])
check("trailing metadata", sorted(key for key, _ in call.trailing_metadata()) == ["token-bin", "who"])
authority = texts([unary(request("which authority?"), **PATIENCE)])[0]
check(f"authority {authority}", authority != sys.argv[1])

left = float(texts([unary(request("how long?"), timeout=15, wait_for_ready=True)])[0])
# The C core rounds deadlines up.
check("deadline passed on", 5 < left <= 16)
error = failure(lambda: unary(request("sleep"), timeout=0.3))
check("deadline enforced", error.code() == grpc.StatusCode.DEADLINE_EXCEEDED)
check("server notified of the deadline", texts([unary(request("was one cancelled?"), **PATIENCE)]) == ["True"])
call = unary.future(request("sleep"), **PATIENCE)
check("the server sleeps", texts([unary(request("does one sleep?"), **PATIENCE)]) == ["True"])
call.cancel()
check("cancellation", call.code() == grpc.StatusCode.CANCELLED)
check("server notified of the cancellation", texts([unary(request("was one cancelled?"), **PATIENCE)]) == ["True"])
for stream, what in ((bidi, "bidi"), (client_stream.future, "client stream")):
    ready = threading.Event()

    def endless():
        yield request("first")
        ready.set()
        threading.Event().wait(60)

    call = stream(endless(), **PATIENCE)
    ready.wait(20)
    if what == "bidi":
        next(call)
    check(f"{what} runs", texts([unary(request("does one stream?"), **PATIENCE)]) == ["True"])
    call.cancel()
    check(f"server notified of the cancelled {what}", texts([unary(request("was one cancelled?"), **PATIENCE)]) == ["True"])
call = bidi(endless(), timeout=0.5)
error = failure(lambda: [None for _ in call])
check("deadline in the middle of a stream", error.code() == grpc.StatusCode.DEADLINE_EXCEEDED)
asker = texts([unary(request("who asks?"), **PATIENCE)])[0]
check("user agent", asker.startswith("grpc-python/") and "hotpick/" in asker)
